// A stub for tests, not DeepStream's header: it declares what deepstream_parser.cpp uses, with the
// names and the order of members that includes/nvdsinfer.h of DeepStream 9.1 has. To compile against
// the real header, name its folder in ALIGNSEG_DEEPSTREAM_HEADERS.
#pragma once

enum NvDsInferDataType
{
    FLOAT,
    HALF,
    INT8,
    INT32,
    INT64,
    UINT8
};

struct NvDsInferDims
{
    unsigned int numDims;
    unsigned int d[8];
    unsigned int numElements;
};

struct NvDsInferLayerInfo
{
    NvDsInferDataType dataType;
    NvDsInferDims inferDims;
    int bindingIndex;
    const char* layerName;
    void* buffer;
    int isInput;
};

struct NvDsInferNetworkInfo
{
    unsigned int width, height, channels;
};
