// OffsetGridSample for TensorRT: feature (N, C, h, w), offset (N, 2, H, W) -> (N, C, H, W).

#ifndef ALIGNSEG_OFFSET_GRID_SAMPLE_PLUGIN_H
#define ALIGNSEG_OFFSET_GRID_SAMPLE_PLUGIN_H

#include "plugin_support.h"

namespace alignseg
{

//! A test compares these names with those that the ONNX export writes.
inline constexpr PluginContract kOffsetGridSample{
    /* name */ "OffsetGridSample",
    /* version */ "1",
    /* inputs */ {"feature", "offset"},
    /* field */ "convention",
    /* types */ "feature and output both FP32 or FP16, linear, kHWC8 (FP16) or kHWC (FP32, channels a "
                "multiple of 4); offset FP32 or FP16, linear",
};

class OffsetGridSamplePlugin final : public Plugin
{
public:
    explicit OffsetGridSamplePlugin(Convention convention) noexcept;

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

#endif // ALIGNSEG_OFFSET_GRID_SAMPLE_PLUGIN_H
