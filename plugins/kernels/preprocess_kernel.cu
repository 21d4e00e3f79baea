// Preprocessing: a block resizes and normalises a tile of the network's input.
//
// Memory sets the lower bound. For a float32 input of a 1024x2048 image:
//   at its own size    6.3 MB image + 25.2 MB input = 31.5 MB
//   at 512x1024        6.3 MB image +  6.3 MB input = 12.6 MB
// which takes 9.4 and 3.8 us at an H100's 3.35 TB/s. The code that nvcc 13.0 generates for sm_90 runs 20
// instructions for each value at the image's own size, 46 at another size, and 12 more if std is not 1.
// They would take 4.2 and 2.5 us (132 SMs, 4 x 32 a cycle, 1.755 GHz). An H100 took 13.2 and 8.3 us, which
// is 95 and 74 % of a copy's bandwidth.

#include "preprocess_math.h"

#ifndef __CUDACC_RTC__
#include "preprocess_kernel.h"
#endif

namespace alignseg
{
namespace
{

constexpr int32_t kThreads = kPreprocessThreads;
constexpr int32_t kTileHeight = kPreprocessTileHeight;
constexpr int32_t kTileWidth = kPreprocessTileWidth;
constexpr int32_t kRowQuads = kTileWidth / 4;

//! A row of the tile: where the two rows of the image that it reads begin, in bytes, and their weights.
struct RowTap
{
    int64_t upper;
    int64_t lower;
    int32_t upperWeight;
    int32_t lowerWeight;
};

//! Taps are computed once per tile, and scales by one thread each, since both need arithmetic in double,
//! which is slow on most GPUs.
struct Taps
{
    double scales[2]; //!< of rows, of columns
    RowTap rows[kTileHeight];
    ResizeTap columns[kTileWidth];
};

//! Where the three channels of an image go, in the image's order, and the numbers that normalise them.
template <typename T>
struct Planes
{
    T* output[3];
    float mean[3];
    float std[3];
    bool divides; //!< Whether std is not 1; in the published networks it is 1, which changes nothing

    //! Computes (level - mean) / std. A division that rounds like a CPU's takes a GPU twelve instructions,
    //! two of them at an eighth of the others' rate, so one branch skips them all.
    template <int32_t kCount>
    __device__ void normalise(float (&values)[3][kCount]) const
    {
        for (int32_t index = 0; index < 3 * kCount; ++index)
        {
            values[index % 3][index / 3] -= mean[index % 3];
        }
        if (divides)
        {
            for (int32_t index = 0; index < 3 * kCount; ++index)
            {
                values[index % 3][index / 3] /= std[index % 3];
            }
        }
    }
};

template <typename T>
__device__ void exchange(T& one, T& other)
{
    T const kept = one;
    one = other;
    other = kept;
}

template <typename T>
__device__ Planes<T> planesOf(PreprocessParams const& params, int64_t image)
{
    int64_t const size = params.height * params.width;
    T* const output = static_cast<T*>(params.output) + image * 3 * size;
    Planes<T> planes;
    for (int32_t channel = 0; channel < 3; ++channel)
    {
        planes.output[channel] = output + channel * size;
        planes.mean[channel] = params.mean[channel];
        planes.std[channel] = params.std[channel];
    }
    planes.divides = planes.std[0] != 1.0F || planes.std[1] != 1.0F || planes.std[2] != 1.0F;
    if (params.swap != 0)
    {
        exchange(planes.output[0], planes.output[2]);
        exchange(planes.mean[0], planes.mean[2]);
        exchange(planes.std[0], planes.std[2]);
    }
    return planes;
}

//! Normalises an image at its own size: four neighbouring pixels per thread.
template <typename T>
__device__ void copyTile(
    PreprocessParams const& params, uint8_t const* image, Tile const& tile, Planes<T> const& planes)
{
    static_assert(kThreads == kTileHeight * kRowQuads, "each thread has four pixels");
    int32_t const row = threadIdx.x / kRowQuads;
    int32_t const left = threadIdx.x % kRowQuads * 4;
    int32_t const count = tile.width - left < 4 ? tile.width - left : 4;
    if (row >= tile.height || count <= 0)
    {
        return;
    }
    int64_t const pixel = (tile.top + row) * params.width + tile.left + left;
    ColorQuad colors;
    load(colors, image + 3 * pixel, 3 * count);
    float values[3][4];
    for (int32_t index = 0; index < 12; ++index)
    {
        values[index % 3][index / 3] = static_cast<float>(colors.values[index]);
    }
    planes.normalise(values);
    for (int32_t channel = 0; channel < 3; ++channel)
    {
        Quad<T> quad;
        for (int32_t index = 0; index < 4; ++index)
        {
            quad.values[index] = fromFloat<T>(values[channel][index]);
        }
        store(quad, planes.output[channel] + pixel, count);
    }
}

//! Computes one scale, then one column or row, per thread.
__device__ void findTaps(PreprocessParams const& params, Tile const& tile, Taps& taps)
{
    static_assert(kThreads >= kTileWidth + kTileHeight, "each thread finds one tap");
    int32_t const column = threadIdx.x;
    int32_t const row = column - kTileWidth;
    if (column < 2)
    {
        taps.scales[column] = column == 0 ? resizeScale(params.imageHeight, params.height)
                                          : resizeScale(params.imageWidth, params.width);
    }
    __syncthreads();
    if (column < tile.width)
    {
        taps.columns[column] = resizeTap(tile.left + column, taps.scales[1], params.imageWidth);
    }
    if (row >= 0 && row < tile.height)
    {
        ResizeTap const tap = resizeTap(tile.top + row, taps.scales[0], params.imageHeight);
        int64_t const pitch = params.imageWidth * 3;
        taps.rows[row] = {tap.first * pitch, tap.second * pitch, tap.firstWeight, tap.secondWeight};
    }
    __syncthreads();
}

//! Resizes and normalises. Neighbouring threads compute neighbouring columns, so that a warp reads and
//! writes few lines of memory at a time. With four neighbouring pixels per thread it would read three
//! times as many lines of an image twice as wide.
template <typename T>
__device__ void resizeTile(
    PreprocessParams const& params, uint8_t const* image, Tile const& tile, Planes<T> const& planes)
{
    __shared__ Taps taps;
    findTaps(params, tile, taps);
    int32_t const left = threadIdx.x % kTileWidth;
    if (left >= tile.width)
    {
        return;
    }
    ResizeTap const column = taps.columns[left];
    uint8_t const* const first = image + 3 * static_cast<int64_t>(column.first);
    uint8_t const* const second = image + 3 * static_cast<int64_t>(column.second);
    for (int32_t top = threadIdx.x / kTileWidth; top < tile.height; top += kThreads / kTileWidth)
    {
        RowTap const row = taps.rows[top];
        float values[3][1];
        for (int32_t channel = 0; channel < 3; ++channel)
        {
            int32_t const upper = blendColumns(first[row.upper + channel], second[row.upper + channel], column);
            int32_t const lower = blendColumns(first[row.lower + channel], second[row.lower + channel], column);
            values[channel][0] = static_cast<float>(blendRows(upper, lower, row.upperWeight, row.lowerWeight));
        }
        planes.normalise(values);
        int64_t const pixel = (tile.top + top) * params.width + tile.left + left;
        for (int32_t channel = 0; channel < 3; ++channel)
        {
            planes.output[channel][pixel] = fromFloat<T>(values[channel][0]);
        }
    }
}

//! What one block does.
template <typename T>
__device__ void preprocessTile(PreprocessParams const& params)
{
    Tile const tile = tileOf(blockIdx.x, params.height, params.width, kTileHeight, kTileWidth);
    uint8_t const* const image = params.images + tile.image * params.imageHeight * params.imageWidth * 3;
    Planes<T> const planes = planesOf<T>(params, tile.image);
    if (params.imageHeight == params.height && params.imageWidth == params.width)
    {
        copyTile(params, image, tile, planes);
    }
    else
    {
        resizeTile(params, image, tile, planes);
    }
}

#ifndef __CUDACC_RTC__
template <typename T>
__global__ void preprocess(PreprocessParams params)
{
    preprocessTile<T>(params);
}

bool isSound(PreprocessParams const& params)
{
    return isSide(params.batch) && isSide(params.imageHeight) && isSide(params.imageWidth) && isSide(params.height)
        && isSide(params.width) && (params.swap == 0 || params.swap == 1);
}

bool isEmpty(PreprocessParams const& params)
{
    return params.batch == 0 || params.height == 0 || params.width == 0;
}

//! Whether there is something to read and somewhere to write, and a launch can take all blocks.
bool isComplete(PreprocessParams const& params)
{
    bool const hasImage = params.imageHeight > 0 && params.imageWidth > 0 && params.images != nullptr;
    int64_t const blocks = preprocessBlocks(1, params.height, params.width);
    return hasImage && params.output != nullptr && blocks <= 0x7FFFFFFF / params.batch;
}

template <typename T>
cudaError_t launchOutput(PreprocessParams const& params, cudaStream_t stream)
{
    int64_t const blocks = preprocessBlocks(params.batch, params.height, params.width);
    return launch<Threads::kSynchronised>(preprocess<T>, params, blocks, kThreads, stream);
}
#endif

} // namespace

#ifndef __CUDACC_RTC__
cudaError_t launchPreprocess(PreprocessParams const& params, Scalar output, cudaStream_t stream)
{
    if (!isSound(params))
    {
        return cudaErrorInvalidValue;
    }
    if (isEmpty(params))
    {
        return cudaSuccess;
    }
    if (!isComplete(params))
    {
        return cudaErrorInvalidValue;
    }
    switch (output)
    {
    case Scalar::kFloat: return launchOutput<float>(params, stream);
    case Scalar::kHalf: return launchOutput<Half>(params, stream);
    }
    return cudaErrorInvalidValue;
}
#endif

} // namespace alignseg

#if defined(__CUDACC_RTC__) || defined(ALIGNSEG_ENTRIES)
extern "C" __global__ void preprocess_float(alignseg::PreprocessParams params)
{
    alignseg::preprocessTile<float>(params);
}

extern "C" __global__ void preprocess_half(alignseg::PreprocessParams params)
{
    alignseg::preprocessTile<alignseg::Half>(params);
}
#endif
