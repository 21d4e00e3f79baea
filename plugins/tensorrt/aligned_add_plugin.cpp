#include "aligned_add_plugin.h"

#include "aligned_add_kernel.h"

using namespace nvinfer1;

namespace alignseg
{

namespace
{

enum : int32_t
{
    kHigh,
    kLow,
    kHighOffset,
    kLowOffset,
    kOutput,
};

} // namespace

AlignedAddPlugin::AlignedAddPlugin(Convention convention) noexcept
    : Plugin(kAlignedAdd, convention)
{
}

IPluginV3* AlignedAddPlugin::clone() noexcept
{
    return cloneOf(*this, contract());
}

bool AlignedAddPlugin::accepts(int32_t pos, Tensors const& tensors) const noexcept
{
    switch (pos)
    {
    case kHigh: return isFeature(tensors[kHigh]);
    case kLow:
    case kOutput: return sameTypeAndFormat(tensors[pos], tensors[kHigh]);
    case kHighOffset: return isLinearReal(tensors[kHighOffset]);
    case kLowOffset: return sameTypeAndFormat(tensors[kLowOffset], tensors[kHighOffset]);
    default: return false;
    }
}

void AlignedAddPlugin::checkShapes(ShapeCheck& check) const noexcept
{
    for (int32_t tensor = kHigh; tensor <= kOutput; ++tensor)
    {
        check.rank(tensor, 4);
    }
    check.same("batch", kLow, 0, kHigh, 0).same("channels", kLow, 1, kHigh, 1);
    for (int32_t offset = kHighOffset; offset <= kLowOffset; ++offset)
    {
        check.same("batch", offset, 0, kHigh, 0).equals("channels", offset, 1, 2).sameSize(offset, kLow);
    }
    check.sameShape(kOutput, kLow);
}

DataType AlignedAddPlugin::outputType(DataType const* inputTypes) const noexcept
{
    return inputTypes[kHigh];
}

DimsExprs AlignedAddPlugin::outputShape(DimsExprs const* inputs) const noexcept
{
    return inputs[kLow];
}

cudaError_t AlignedAddPlugin::start(
    Tensors const& tensors, void const* const* inputs, void* output, cudaStream_t stream) const noexcept
{
    Dims const& high = tensors[kHigh].dims;
    Dims const& low = tensors[kLow].dims;
    AlignedAddParams params{};
    params.high = inputs[kHigh];
    params.low = inputs[kLow];
    params.highOffset = inputs[kHighOffset];
    params.lowOffset = inputs[kLowOffset];
    params.output = output;
    params.batch = low.d[0];
    params.channels = low.d[1];
    params.highHeight = high.d[2];
    params.highWidth = high.d[3];
    params.height = low.d[2];
    params.width = low.d[3];
    params.channelPitch = channelPitchOf(tensors[kLow]);
    params.convention = static_cast<int64_t>(convention());
    return launchAlignedAdd(params, scalarOf(tensors[kLow].type), scalarOf(tensors[kLowOffset].type), stream);
}

} // namespace alignseg
