#include "offset_grid_sample_plugin.h"

#include "offset_grid_sample_kernel.h"

using namespace nvinfer1;

namespace alignseg
{

namespace
{

enum : int32_t
{
    kFeature,
    kOffset,
    kOutput,
};

} // namespace

OffsetGridSamplePlugin::OffsetGridSamplePlugin(Convention convention) noexcept
    : Plugin(kOffsetGridSample, convention)
{
}

IPluginV3* OffsetGridSamplePlugin::clone() noexcept
{
    return cloneOf(*this, contract());
}

bool OffsetGridSamplePlugin::accepts(int32_t pos, Tensors const& tensors) const noexcept
{
    switch (pos)
    {
    case kFeature: return isFeature(tensors[kFeature]);
    case kOffset: return isLinearReal(tensors[kOffset]);
    case kOutput: return sameTypeAndFormat(tensors[kOutput], tensors[kFeature]);
    default: return false;
    }
}

void OffsetGridSamplePlugin::checkShapes(ShapeCheck& check) const noexcept
{
    check.rank(kFeature, 4).rank(kOffset, 4).rank(kOutput, 4);
    check.same("batch", kOffset, 0, kFeature, 0).equals("channels", kOffset, 1, 2);
    check.same("batch", kOutput, 0, kFeature, 0).same("channels", kOutput, 1, kFeature, 1);
    check.sameSize(kOutput, kOffset);
}

DataType OffsetGridSamplePlugin::outputType(DataType const* inputTypes) const noexcept
{
    return inputTypes[kFeature];
}

DimsExprs OffsetGridSamplePlugin::outputShape(DimsExprs const* inputs) const noexcept
{
    DimsExprs shape = inputs[kFeature];
    shape.d[2] = inputs[kOffset].d[2];
    shape.d[3] = inputs[kOffset].d[3];
    return shape;
}

cudaError_t OffsetGridSamplePlugin::start(
    Tensors const& tensors, void const* const* inputs, void* output, cudaStream_t stream) const noexcept
{
    Dims const& feature = tensors[kFeature].dims;
    Dims const& sampled = tensors[kOutput].dims;
    OffsetGridSampleParams params{};
    params.feature = inputs[kFeature];
    params.offset = inputs[kOffset];
    params.output = output;
    params.batch = feature.d[0];
    params.channels = feature.d[1];
    params.featureHeight = feature.d[2];
    params.featureWidth = feature.d[3];
    params.height = sampled.d[2];
    params.width = sampled.d[3];
    params.channelPitch = channelPitchOf(tensors[kFeature]);
    params.convention = static_cast<int64_t>(convention());
    return launchOffsetGridSample(
        params, scalarOf(tensors[kFeature].type), scalarOf(tensors[kOffset].type), stream);
}

} // namespace alignseg
