#include "upsample_argmax_plugin.h"

#include "upsample_argmax_kernel.h"

using namespace nvinfer1;

namespace alignseg
{

namespace
{

enum : int32_t
{
    kLogits,
    kLike,
    kLabels,
};

} // namespace

UpsampleArgmaxPlugin::UpsampleArgmaxPlugin(Convention convention) noexcept
    : Plugin(kUpsampleArgmax, convention)
{
}

IPluginV3* UpsampleArgmaxPlugin::clone() noexcept
{
    return cloneOf(*this, contract());
}

bool UpsampleArgmaxPlugin::accepts(int32_t pos, Tensors const& tensors) const noexcept
{
    if (pos == kLabels) // a TensorRT plugin cannot return UINT8
    {
        return tensors[kLabels].type == DataType::kINT32 && tensors[kLabels].format == TensorFormat::kLINEAR;
    }
    return isLinearReal(tensors[pos]);
}

void UpsampleArgmaxPlugin::checkShapes(ShapeCheck& check) const noexcept
{
    check.rank(kLogits, 4).rank(kLike, 4).rank(kLabels, 3);
    check.same("batch", kLike, 0, kLogits, 0).same("batch", kLabels, 0, kLogits, 0);
    check.same("height", kLabels, 1, kLike, 2).same("width", kLabels, 2, kLike, 3);
}

DataType UpsampleArgmaxPlugin::outputType(DataType const* /*inputTypes*/) const noexcept
{
    return DataType::kINT32;
}

DimsExprs UpsampleArgmaxPlugin::outputShape(DimsExprs const* inputs) const noexcept
{
    DimsExprs shape{};
    shape.nbDims = 3;
    shape.d[0] = inputs[kLogits].d[0];
    shape.d[1] = inputs[kLike].d[2];
    shape.d[2] = inputs[kLike].d[3];
    return shape;
}

cudaError_t UpsampleArgmaxPlugin::start(
    Tensors const& tensors, void const* const* inputs, void* output, cudaStream_t stream) const noexcept
{
    Dims const& logits = tensors[kLogits].dims;
    Dims const& labels = tensors[kLabels].dims;
    UpsampleArgmaxParams params{};
    params.logits = inputs[kLogits];
    params.labels = output;
    params.batch = logits.d[0];
    params.classes = logits.d[1];
    params.logitsHeight = logits.d[2];
    params.logitsWidth = logits.d[3];
    params.height = labels.d[1];
    params.width = labels.d[2];
    return launchUpsampleArgmax(params, scalarOf(tensors[kLogits].type), Label::kInt32, stream);
}

} // namespace alignseg
