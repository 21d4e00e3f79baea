// Reads labels or logits of an AlignSeg model in DeepStream's nvinfer, for network-type=2.
//
// nvinfer calls NvDsInferParseAlignSeg for each frame and draws the class map that it fills. The
// header is DeepStream's, in sources/includes; the types UINT8 and INT64 are there in release 9.1.

#include "nvdsinfer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

namespace
{

// The four logits around an output row or column, and the weight of the farther one.
struct Place
{
    unsigned int near, far;
    float weight;
};

// Corners are aligned: the first and the last output lie on the first and the last logit.
Place placeOf(unsigned int output, unsigned int outputs, unsigned int cells)
{
    const float at = outputs > 1 ? static_cast<float>(output) * static_cast<float>(cells - 1)
                                       / static_cast<float>(outputs - 1)
                                 : 0.0F;
    const unsigned int near = std::min(static_cast<unsigned int>(at), cells - 1);
    return {near, std::min(near + 1, cells - 1), at - static_cast<float>(near)};
}

template <typename Label>
bool copyLabels(
    NvDsInferLayerInfo const& layer, std::size_t pixels, unsigned int classes, int* classMap)
{
    const Label* labels = static_cast<const Label*>(layer.buffer);
    std::transform(labels, labels + pixels, classMap, [classes](Label label) {
        return static_cast<std::uint64_t>(label) < classes ? static_cast<int>(label) : -1; // no class
    });
    return true;
}

// Upsamples (C, h, w) bilinearly; a pixel's label is that of the largest logit, on a tie the lower.
void labelLogits(
    const float* logits, NvDsInferDims const& dims, NvDsInferNetworkInfo const& network, int* classMap)
{
    const unsigned int classes = dims.d[0], rows = dims.d[1], columns = dims.d[2];
    std::vector<Place> across(network.width);
    for (unsigned int x = 0; x < network.width; ++x)
    {
        across[x] = placeOf(x, network.width, columns);
    }
    std::vector<float> row(columns);
    std::vector<float> best(network.width);
    for (unsigned int y = 0; y < network.height; ++y)
    {
        const Place down = placeOf(y, network.height, rows);
        int* labels = classMap + static_cast<std::size_t>(y) * network.width;
        for (unsigned int c = 0; c < classes; ++c)
        {
            const float* plane = logits + static_cast<std::size_t>(c) * rows * columns;
            const float* upper = plane + static_cast<std::size_t>(down.near) * columns;
            const float* lower = plane + static_cast<std::size_t>(down.far) * columns;
            for (unsigned int x = 0; x < columns; ++x)
            {
                row[x] = upper[x] + (lower[x] - upper[x]) * down.weight;
            }
            for (unsigned int x = 0; x < network.width; ++x)
            {
                const Place at = across[x];
                const float value = row[at.near] + (row[at.far] - row[at.near]) * at.weight;
                if (c == 0 || value > best[x])
                {
                    best[x] = value;
                    labels[x] = static_cast<int>(c);
                }
            }
        }
    }
}

bool refuse(NvDsInferLayerInfo const& layer, const char* reason)
{
    std::cerr << "AlignSeg: the output " << (layer.layerName ? layer.layerName : "") << " " << reason
              << "\n";
    return false;
}

std::size_t elementsOf(NvDsInferDims const& dims)
{
    std::size_t elements = 1;
    for (unsigned int axis = 0; axis < dims.numDims; ++axis)
    {
        elements *= dims.d[axis];
    }
    return elements;
}

bool parse(NvDsInferLayerInfo const& layer, NvDsInferNetworkInfo const& network,
    unsigned int classes, int* classMap)
{
    const std::size_t pixels = static_cast<std::size_t>(network.width) * network.height;
    if (layer.dataType == FLOAT)
    {
        if (layer.inferDims.numDims != 3 || layer.inferDims.d[0] != classes)
        {
            return refuse(layer, "is not (num-detected-classes, height, width)");
        }
        labelLogits(static_cast<const float*>(layer.buffer), layer.inferDims, network, classMap);
        return true;
    }
    if (elementsOf(layer.inferDims) != pixels)
    {
        return refuse(layer, "does not have one label for each pixel of the input");
    }
    switch (layer.dataType)
    {
    case UINT8: return copyLabels<std::uint8_t>(layer, pixels, classes, classMap);
    case INT32: return copyLabels<std::int32_t>(layer, pixels, classes, classMap);
    case INT64: return copyLabels<std::int64_t>(layer, pixels, classes, classMap);
    default: return refuse(layer, "has a type that is not FLOAT, UINT8, INT32 or INT64");
    }
}

} // namespace

// The threshold is not used: every pixel gets the label that the model gives it.
extern "C" bool NvDsInferParseAlignSeg(std::vector<NvDsInferLayerInfo> const& layers,
    NvDsInferNetworkInfo const& network, float /*threshold*/, unsigned int classes, int* classMap,
    float*& probabilities)
{
    probabilities = nullptr;
    for (NvDsInferLayerInfo const& layer : layers)
    {
        const std::string name = layer.layerName ? layer.layerName : "";
        if (name == "labels" || name == "logits")
        {
            return parse(layer, network, classes, classMap);
        }
    }
    std::cerr << "AlignSeg: no output is called labels or logits\n";
    return false;
}
