// AlignedAdd for TensorRT: sample(up(high), high_offset) + sample(low, low_offset).

#ifndef ALIGNSEG_ALIGNED_ADD_PLUGIN_H
#define ALIGNSEG_ALIGNED_ADD_PLUGIN_H

#include "plugin_support.h"

namespace alignseg
{

//! A test compares these names with those that the ONNX export writes.
inline constexpr PluginContract kAlignedAdd{
    /* name */ "AlignedAdd",
    /* version */ "1",
    /* inputs */ {"high", "low", "high_offset", "low_offset"},
    /* field */ "convention",
    /* types */ "high, low and output all FP32 or FP16, linear, kHWC8 (FP16) or kHWC (FP32, channels a "
                "multiple of 4); both offsets FP32 or both FP16, linear",
};

class AlignedAddPlugin final : public Plugin
{
public:
    explicit AlignedAddPlugin(Convention convention) noexcept;

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

#endif // ALIGNSEG_ALIGNED_ADD_PLUGIN_H
