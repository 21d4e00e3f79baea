// Calls the parser as nvinfer does, for ctypes.
#include "nvdsinfer.h"

#include <vector>

extern "C" bool NvDsInferParseAlignSeg(std::vector<NvDsInferLayerInfo> const&,
    NvDsInferNetworkInfo const&, float, unsigned int, int*, float*&);

extern "C" int callParser(const char* name, int type, const unsigned int* sides, unsigned int count,
    void* buffer, unsigned int height, unsigned int width, unsigned int classes, int* classMap)
{
    NvDsInferLayerInfo other{}, layer{};
    other.layerName = "other";
    layer.layerName = name;
    layer.dataType = static_cast<NvDsInferDataType>(type);
    layer.buffer = buffer;
    layer.inferDims.numDims = count;
    layer.inferDims.numElements = 1;
    for (unsigned int axis = 0; axis < count; ++axis)
    {
        layer.inferDims.d[axis] = sides[axis];
        layer.inferDims.numElements *= sides[axis];
    }
    float* probabilities = reinterpret_cast<float*>(classMap);
    const bool done = NvDsInferParseAlignSeg(
        {other, layer}, {width, height, 3}, 0.5F, classes, classMap, probabilities);
    return done && probabilities == nullptr;
}
