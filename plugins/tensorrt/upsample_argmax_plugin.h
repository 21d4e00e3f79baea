// UpsampleArgmax for TensorRT: logits (N, C, h, w) and the size of like (N, K, H, W) -> labels (N, H, W).

#ifndef ALIGNSEG_UPSAMPLE_ARGMAX_PLUGIN_H
#define ALIGNSEG_UPSAMPLE_ARGMAX_PLUGIN_H

#include "plugin_support.h"

namespace alignseg
{

//! A test compares these names with those that the ONNX export writes.
inline constexpr PluginContract kUpsampleArgmax{
    /* name */ "UpsampleArgmax",
    /* version */ "1",
    /* inputs */ {"logits", "like"},
    /* field */ nullptr,
    /* types */ "logits and like FP32 or FP16, linear; labels INT32, linear",
};

class UpsampleArgmaxPlugin final : public Plugin
{
public:
    explicit UpsampleArgmaxPlugin(Convention convention) noexcept;

    nvinfer1::IPluginV3* clone() noexcept override;

protected:
    bool accepts(int32_t pos, Tensors const& tensors) const noexcept override;
    void checkShapes(ShapeCheck& check) const noexcept override;
    nvinfer1::DataType outputType(nvinfer1::DataType const* inputTypes) const noexcept override;
    nvinfer1::DimsExprs outputShape(nvinfer1::DimsExprs const* inputs) const noexcept override;
    cudaError_t start(Tensors const& tensors, void const* const* inputs, void* output,
        cudaStream_t stream) const noexcept override;
};

} // namespace alignseg

#endif // ALIGNSEG_UPSAMPLE_ARGMAX_PLUGIN_H
