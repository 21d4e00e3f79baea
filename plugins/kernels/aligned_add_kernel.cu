// Kernels of AlignedAdd: the fine feature sampled, plus the coarse one upsampled and sampled, which
// is one step, since both are linear. Neither the upsampled nor a sampled tensor is written.

#ifndef __CUDACC_RTC__
#include "aligned_add_kernel.h"
#endif

#include "aligned_add_params.h"
#include "offset_sampling_math.h"

namespace alignseg
{
namespace
{

//! Shared memory of a channels-last block, for any number of taps; of no type, since it has three.
constexpr int32_t kSharedBytes = kLastPixels * static_cast<int32_t>(sizeof(AlignedPixel<float, 4>));

//! Both axes' corners of one output pixel on the fine grid.
struct FineCorners
{
    Taps<2> rows;
    Taps<2> columns;
};

//! Terms and exact positions that both offsets of an output pixel share.
struct FineBase
{
    AxisTerms alongY;
    AxisTerms alongX;
    Position y;
    Position x;
};

ALIGNSEG_HD FineBase fineBase(AlignedAddParams const& params, Place const& place)
{
    Convention const convention = static_cast<Convention>(params.convention);
    FineBase base;
    base.alongY = axisTerms(convention, params.height, params.height, params.width);
    base.alongX = axisTerms(convention, params.width, params.width, params.height);
    base.y = positionOf(place.y, base.alongY.numerator, base.alongY.denominator);
    base.x = positionOf(place.x, base.alongX.numerator, base.alongX.denominator);
    return base;
}

//! \param offsets (N, 2, H, W)
template <typename Offset>
ALIGNSEG_HD FineCorners fineCorners(
    void const* offsets, AlignedAddParams const& params, Place const& place, FineBase const& base)
{
    int64_t const plane = params.height * params.width;
    Offset const* const dx
        = static_cast<Offset const*>(offsets) + (2 * place.batch * plane + place.y * params.width + place.x);
    float const movedX = toFloat(dx[0]) * base.alongX.gain;
    float const movedY = toFloat(dx[plane]) * base.alongY.gain;
    return {cornersBeside(base.y, movedY, base.alongY.shift, static_cast<int32_t>(params.height)),
        cornersBeside(base.x, movedX, base.alongX.shift, static_cast<int32_t>(params.width))};
}

//! Coarse pixels along each axis that are read: no more than the two sizes ask for, but four where
//! channels are last and vectors cannot be read, so that this slow way is compiled once.
template <typename T>
ALIGNSEG_HD int32_t tapsOf(AlignedAddParams const& params)
{
    uint64_t const addresses = addressOf(params.high) | addressOf(params.low) | addressOf(params.output);
    if (params.channelPitch != 0 && !vectorised<T>(params.channelPitch, addresses))
    {
        return 4;
    }
    int32_t const tall = composedTaps(static_cast<int32_t>(params.highHeight), static_cast<int32_t>(params.height));
    int32_t const wide = composedTaps(static_cast<int32_t>(params.highWidth), static_cast<int32_t>(params.width));
    return tall > wide ? tall : wide;
}

//! All coordinates of one output pixel, whatever the number of taps.
struct Coordinates
{
    FineCorners low;
    FineCorners high;
    CoarsePair rows;    //!< of `high`
    CoarsePair columns; //!< of `high`
};

template <typename Offset>
ALIGNSEG_HD Coordinates coordinatesOf(AlignedAddParams const& params, Place const& place, int32_t taps)
{
    FineBase const base = fineBase(params, place);
    FineCorners const low = fineCorners<Offset>(params.lowOffset, params, place, base);
    FineCorners const high = fineCorners<Offset>(params.highOffset, params, place, base);
    int32_t const coarseRows = static_cast<int32_t>(params.highHeight);
    int32_t const coarseColumns = static_cast<int32_t>(params.highWidth);
    return {low, high, coarsePair(high.rows, coarseRows, static_cast<int32_t>(params.height), taps),
        coarsePair(high.columns, coarseColumns, static_cast<int32_t>(params.width), taps)};
}

//! \param high, low Strides of the two features, of which `place.channel` is the first that is read.
template <typename T, int K>
ALIGNSEG_HD AlignedPixel<T, K> alignedPixel(AlignedAddParams const& params, Place const& place,
    Coordinates const& at, Layout const& high, Layout const& low)
{
    Taps<K> const rows = composed<K>(at.high.rows, at.rows, static_cast<int32_t>(params.highHeight));
    Taps<K> const columns = composed<K>(at.high.columns, at.columns, static_cast<int32_t>(params.highWidth));
    return {windowOf<T>(params.high, high, place, place.channel * high.channel, rows, columns),
        windowOf<T>(params.low, low, place, place.channel * low.channel, at.low.rows, at.low.columns)};
}

template <typename T, int K>
ALIGNSEG_HD void writePlanarAligned(AlignedAddParams const& params, Place const& place, Coordinates const& at)
{
    Layout const high = planarLayout(params.channels, params.highHeight, params.highWidth);
    Layout const low = planarLayout(params.channels, params.height, params.width);
    T* const output = static_cast<T*>(params.output) + elementOf(low, place);
    writePlanar(output, low.channel, channelsHere(params.channels, place.channel),
        alignedPixel<T, K>(params, place, at, high, low));
}

template <typename T, typename Offset>
ALIGNSEG_HD void addPlanar(AlignedAddParams const& params, uint32_t block, uint32_t thread)
{
    Place const place = planarPlace(block, thread, params.channels, params.height, params.width);
    if (!isInside(place, params.height, params.width))
    {
        return;
    }
    int32_t const taps = tapsOf<T>(params);
    Coordinates const at = coordinatesOf<Offset>(params, place, taps);
    if (taps == 2)
    {
        writePlanarAligned<T, 2>(params, place, at);
    }
    else if (taps == 3)
    {
        writePlanarAligned<T, 3>(params, place, at);
    }
    else
    {
        writePlanarAligned<T, 4>(params, place, at);
    }
}

//! Puts down what all threads of a pixel need.
//!
//! \param shared kLastPixels of AlignedPixel<T, K>.
template <typename T, int K>
ALIGNSEG_HD void share(
    AlignedAddParams const& params, Place const& place, Coordinates const& at, uint8_t* shared, uint32_t index)
{
    Layout const high = channelsLastLayout(params.highHeight, params.highWidth, params.channelPitch);
    Layout const low = channelsLastLayout(params.height, params.width, params.channelPitch);
    reinterpret_cast<AlignedPixel<T, K>*>(shared)[index] = alignedPixel<T, K>(params, place, at, high, low);
}

//! Writes the channels that lane `lane` has of one pixel in no vectors: for pitches that allow none,
//! and for four taps, whose sizes no network has.
template <typename T>
ALIGNSEG_HD void writeOneByOne(
    T* output, int32_t lane, AlignedAddParams const& params, AlignedPixel<T, 4> const& pixel)
{
#pragma unroll 1
    for (int32_t channel = lane; channel < params.channelPitch; channel += kLastLanes)
    {
        bool const padding = channel >= params.channels;
        float const sum = padding ? 0.0F : pixel.high.sumOf(channel) + pixel.low.sumOf(channel);
        output[channel] = fromFloat<T>(sum);
    }
}

//! Writes what a thread has of a tile.
template <typename T, int K>
ALIGNSEG_HD void writeTile(AlignedAddParams const& params, Place const& tile, uint8_t const* shared, uint32_t thread)
{
    Layout const to = channelsLastLayout(params.height, params.width, params.channelPitch);
    int32_t const channels = static_cast<int32_t>(params.channels);
    int32_t const pitch = static_cast<int32_t>(params.channelPitch);
    int32_t const lane = static_cast<int32_t>(thread % kLastLanes);
#pragma unroll 1
    for (uint32_t index = thread / kLastLanes; index < kLastPixels; index += kSampleThreads / kLastLanes)
    {
        Place const place = pixelOfTile(tile, index);
        if (!isInside(place, params.height, params.width))
        {
            continue;
        }
        T* const output = static_cast<T*>(params.output) + pixelOf(to, place);
        AlignedPixel<T, K> const& pixel = reinterpret_cast<AlignedPixel<T, K> const*>(shared)[index];
        if constexpr (K == 4)
        {
            writeOneByOne(output, lane, params, pixel);
        }
        else
        {
            writeChannelsLast<16 / sizeof(T)>(output, lane, channels, pitch, pixel);
        }
    }
}

//! Coordinates of one output pixel, put down for the threads that share it.
template <typename T, typename Offset>
ALIGNSEG_HD void sharePixel(
    AlignedAddParams const& params, Place const& place, int32_t taps, uint8_t* shared, uint32_t index)
{
    Coordinates const at = coordinatesOf<Offset>(params, place, taps);
    if (taps == 2)
    {
        share<T, 2>(params, place, at, shared, index);
    }
    else if (taps == 3)
    {
        share<T, 3>(params, place, at, shared, index);
    }
    else
    {
        share<T, 4>(params, place, at, shared, index);
    }
}

//! \param shared kSharedBytes of the block's memory.
template <typename T, typename Offset>
__device__ __forceinline__ void addChannelsLast(
    AlignedAddParams const& params, uint32_t block, uint32_t thread, uint8_t* shared)
{
    int32_t const taps = tapsOf<T>(params);
    Place const tile = channelsLastTile(block, params.height, params.width);
    Place const mine = pixelOfTile(tile, thread);
    if (thread < kLastPixels && isInside(mine, params.height, params.width))
    {
        sharePixel<T, Offset>(params, mine, taps, shared, thread);
    }
    __syncthreads();
    if (taps == 2)
    {
        writeTile<T, 2>(params, tile, shared, thread);
    }
    else if (taps == 3)
    {
        writeTile<T, 3>(params, tile, shared, thread);
    }
    else
    {
        writeTile<T, 4>(params, tile, shared, thread);
    }
}

#ifndef __CUDACC_RTC__
template <typename T, typename Offset>
__global__ void alignedAddPlanar(AlignedAddParams params)
{
    addPlanar<T, Offset>(params, blockIdx.x, threadIdx.x);
}

template <typename T, typename Offset>
__global__ void alignedAddChannelsLast(AlignedAddParams params)
{
    alignas(16) __shared__ uint8_t shared[kSharedBytes];
    addChannelsLast<T, Offset>(params, blockIdx.x, threadIdx.x, shared);
}

using AlignedAddKernel = void (*)(AlignedAddParams);

template <typename T>
AlignedAddKernel alignedAddKernel(bool planar, Scalar offset)
{
    if (offset == Scalar::kHalf)
    {
        return planar ? &alignedAddPlanar<T, Half> : &alignedAddChannelsLast<T, Half>;
    }
    return planar ? &alignedAddPlanar<T, float> : &alignedAddChannelsLast<T, float>;
}

bool sensible(AlignedAddParams const& params)
{
    int64_t const stored = params.channelPitch > 0 ? params.channelPitch : params.channels;
    return understood(params.convention, params.channels, params.channelPitch)
        && countable(params.batch, stored, params.highHeight, params.highWidth)
        && countable(params.batch, stored, params.height, params.width);
}

bool complete(AlignedAddParams const& params)
{
    return params.high != nullptr && params.low != nullptr && params.highOffset != nullptr
        && params.lowOffset != nullptr && params.output != nullptr && params.highHeight > 0 && params.highWidth > 0;
}
#endif

} // namespace

#ifndef __CUDACC_RTC__
cudaError_t launchAlignedAdd(AlignedAddParams const& params, Scalar feature, Scalar offset, cudaStream_t stream)
{
    if (!sensible(params) || !isScalar(feature) || !isScalar(offset))
    {
        return cudaErrorInvalidValue;
    }
    int64_t const blocks
        = sampleBlocks(params.batch, params.channels, params.height, params.width, params.channelPitch);
    if (blocks == 0)
    {
        return cudaSuccess;
    }
    if (!complete(params))
    {
        return cudaErrorInvalidValue;
    }
    bool const planar = params.channelPitch == 0;
    AlignedAddKernel const kernel = feature == Scalar::kHalf ? alignedAddKernel<Half>(planar, offset) : alignedAddKernel<float>(planar, offset);
    return planar ? launch(kernel, params, blocks, kSampleThreads, stream)
                  : launch<Threads::kSynchronised>(kernel, params, blocks, kSampleThreads, stream);
}
#endif

} // namespace alignseg

#ifdef __CUDACC_RTC__
#define ALIGNSEG_ENTRY(feature, Feature, offset, Offset)                                                              \
    extern "C" __global__ void aligned_add_planar_##feature##_##offset(alignseg::AlignedAddParams params)             \
    {                                                                                                                 \
        alignseg::addPlanar<Feature, Offset>(params, blockIdx.x, threadIdx.x);                                        \
    }                                                                                                                 \
    extern "C" __global__ void aligned_add_channels_last_##feature##_##offset(alignseg::AlignedAddParams params)      \
    {                                                                                                                 \
        alignas(16) __shared__ uint8_t shared[alignseg::kSharedBytes];                                      \
        alignseg::addChannelsLast<Feature, Offset>(params, blockIdx.x, threadIdx.x, shared);                          \
    }

ALIGNSEG_ENTRY(float, float, float, float)
ALIGNSEG_ENTRY(float, float, half, alignseg::Half)
ALIGNSEG_ENTRY(half, alignseg::Half, float, float)
ALIGNSEG_ENTRY(half, alignseg::Half, half, alignseg::Half)
#endif
