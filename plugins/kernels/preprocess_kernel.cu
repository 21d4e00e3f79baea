// Preprocessing: a block resizes and normalises a tile of the network's input.

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

//! Taps are found once per tile: they take divisions in double, which most GPUs are slow at.
struct Taps
{
    ResizeTap rows[kTileHeight];
    ResizeTap columns[kTileWidth];
};

//! Four neighbouring pixels of an output: from (row, left) of a tile.
struct Place
{
    int32_t row;
    int32_t left;
    int32_t count; //!< pixels that exist; below four at the right border
};

//! One column or row per thread.
__device__ void findTaps(PreprocessParams const& params, Tile const& tile, Taps& taps)
{
    static_assert(kThreads >= kTileWidth + kTileHeight, "each thread finds one tap");
    int32_t const column = threadIdx.x;
    int32_t const row = column - kTileWidth;
    if (column < tile.width)
    {
        double const scale = resizeScale(params.imageWidth, params.width);
        taps.columns[column] = resizeTap(tile.left + column, scale, params.imageWidth);
    }
    if (row >= 0 && row < tile.height)
    {
        double const scale = resizeScale(params.imageHeight, params.height);
        taps.rows[row] = resizeTap(tile.top + row, scale, params.imageHeight);
    }
}

//! BGR of four pixels that are resized.
__device__ ColorQuad resized(PreprocessParams const& params, uint8_t const* image, Place place, Taps const& taps)
{
    ResizeTap const row = taps.rows[place.row];
    uint8_t const* const upper = image + row.first * params.imageWidth * 3;
    uint8_t const* const lower = image + row.second * params.imageWidth * 3;
    ColorQuad colors;
    for (int32_t index = 0; index < 4; ++index)
    {
        int32_t const last = place.count - 1;
        ResizeTap const column = taps.columns[place.left + (index < last ? index : last)];
        for (int32_t channel = 0; channel < 3; ++channel)
        {
            int32_t const level = levelBetween(upper + channel, lower + channel, row, column);
            colors.values[3 * index + channel] = static_cast<uint8_t>(level);
        }
    }
    return colors;
}

//! BGR of four pixels, at the image's own size.
__device__ ColorQuad copied(PreprocessParams const& params, uint8_t const* image, Tile const& tile, Place place)
{
    int64_t const pixel = (tile.top + place.row) * params.imageWidth + tile.left + place.left;
    ColorQuad colors;
    load(colors, image + 3 * pixel, 3 * place.count);
    return colors;
}

template <typename T>
__device__ void writeQuad(PreprocessParams const& params, Tile const& tile, Place place, ColorQuad const& colors)
{
    int64_t const plane = params.height * params.width;
    int64_t const pixel = (tile.top + place.row) * params.width + tile.left + place.left;
    T* const output = static_cast<T*>(params.output) + tile.image * 3 * plane + pixel;
    for (int32_t channel = 0; channel < 3; ++channel)
    {
        float const mean = static_cast<float>(params.mean[channel]);
        float const std = static_cast<float>(params.std[channel]);
        Quad<T> quad;
        for (int32_t index = 0; index < 4; ++index)
        {
            uint8_t const* const color = colors.values + 3 * index;
            int32_t const level = params.swap != 0 ? color[2 - channel] : color[channel];
            quad.values[index] = fromFloat<T>((static_cast<float>(level) - mean) / std);
        }
        store(quad, output + channel * plane, place.count);
    }
}

//! What one block does.
template <typename T>
__device__ void preprocessTile(PreprocessParams const& params)
{
    __shared__ Taps taps;
    Tile const tile = tileOf(blockIdx.x, params.height, params.width, kTileHeight, kTileWidth);
    bool const copies = params.imageHeight == params.height && params.imageWidth == params.width;
    if (!copies)
    {
        findTaps(params, tile, taps);
    }
    __syncthreads();
    uint8_t const* const image = params.images + tile.image * params.imageHeight * params.imageWidth * 3;
    for (int32_t quad = threadIdx.x; quad < tile.height * kRowQuads; quad += kThreads)
    {
        Place place;
        place.row = quad / kRowQuads;
        place.left = quad % kRowQuads * 4;
        place.count = tile.width - place.left < 4 ? tile.width - place.left : 4;
        if (place.count > 0)
        {
            ColorQuad const colors
                = copies ? copied(params, image, tile, place) : resized(params, image, place, taps);
            writeQuad<T>(params, tile, place, colors);
        }
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

//! Something to read, somewhere to write it, and not more blocks than a launch takes.
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
