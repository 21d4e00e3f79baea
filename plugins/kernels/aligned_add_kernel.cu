// Kernels of AlignedAdd: the sampled fine feature plus the upsampled and sampled coarse one. Upsampling
// and sampling are one step here, since both are linear. Only the sum is written to memory.

#ifndef __CUDACC_RTC__
#include "aligned_add_kernel.h"
#endif

#include "aligned_add_params.h"
#include "sampling_loops.h"

namespace alignseg
{
namespace
{

//! How many channels-last blocks must fit on a multiprocessor: a thread may then use 64 registers, and an
//! H100 takes 65 us. Without this bound nvcc 13.0 uses 54 registers and loads fewer pixels before the
//! first sum, and the H100 takes 86 us. Planar blocks are faster without it: 140 us with 48 registers, 145
//! with 62.
constexpr int32_t kLastBlocks = 4;

//! What AlignedAdd reads for one output pixel: K x K coarse pixels and 2 x 2 fine ones.
template <typename T, int K>
struct AlignedPixel
{
    static constexpr int32_t kUnroll = K == 2 ? 2 : 1; //!< Planar channels at once: 16 loads in flight
    Window<T, K> high;
    Window<T, 2> low;

    template <int V>
    struct Loaded
    {
        Values<T, K, V, K> high;
        Values<T, 2, V, 2> low;
    };

    //! One of three taps often has weight 0, so that a warp would take both branches.
    ALIGNSEG_HD bool isWhole() const
    {
        return K == 2 && high.isWhole() && low.isWhole();
    }

    template <bool guarded, int V>
    ALIGNSEG_HD void load(Loaded<V>& loaded, int32_t channels) const
    {
        high.template load<guarded>(loaded.high, 0, channels);
        low.template load<guarded>(loaded.low, 0, channels);
    }

    template <int V>
    ALIGNSEG_HD void add(Loaded<V> const& loaded, float (&sums)[V]) const
    {
        high.add(loaded.high, 0, sums);
        low.add(loaded.low, 0, sums);
    }

    //! With two taps all loads come first, which takes 64 registers; with three it goes row by row.
    template <int V>
    ALIGNSEG_HD void addAll(float (&sums)[V]) const
    {
        if constexpr (K == 2)
        {
            Loaded<V> loaded;
            load<true>(loaded, 0);
            add(loaded, sums);
        }
        else
        {
            high.template addRows<V>(sums);
            low.template addRows<V>(sums);
        }
    }

    ALIGNSEG_HD void advance(int32_t channels)
    {
        high.advance(channels);
        low.advance(channels);
    }

    ALIGNSEG_HD void setChannelsLast(int64_t pitch)
    {
        high.setChannelsLast(pitch);
        low.setChannelsLast(pitch);
    }
};

//! The corners of one output pixel on the fine grid, along both axes.
struct FineCorners
{
    Taps<2> rows;
    Taps<2> columns;
};

//! The terms and exact positions that both offsets of an output pixel share.
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

//! The number of taps whose kernel takes every size, pitch and address.
constexpr int32_t kAnyTaps = 4;

//! How many coarse pixels along each axis the two sizes need. Each number has its own kernel, so that a
//! kernel with few taps needs few registers.
ALIGNSEG_HD int32_t alignedAddTaps(AlignedAddParams const& params)
{
    int32_t const tall = composedTaps(static_cast<int32_t>(params.highHeight), static_cast<int32_t>(params.height));
    int32_t const wide = composedTaps(static_cast<int32_t>(params.highWidth), static_cast<int32_t>(params.width));
    return tall > wide ? tall : wide;
}

//! All coordinates of one output pixel.
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

//! \param high, low Strides of the two features; `place.channel` is the first channel that is read.
template <typename T, int K>
ALIGNSEG_HD AlignedPixel<T, K> alignedPixel(AlignedAddParams const& params, Place const& place,
    Coordinates const& at, Layout const& high, Layout const& low)
{
    Taps<K> const rows = composed<K>(at.high.rows, at.rows, static_cast<int32_t>(params.highHeight));
    Taps<K> const columns = composed<K>(at.high.columns, at.columns, static_cast<int32_t>(params.highWidth));
    return {windowOf<T>(params.high, high, place, place.channel * high.channel, rows, columns),
        windowOf<T>(params.low, low, place, place.channel * low.channel, at.low.rows, at.low.columns)};
}

template <typename T, typename Offset, int K>
ALIGNSEG_HD void addPlanar(AlignedAddParams const& params, uint32_t block, uint32_t thread)
{
    Place const place = planarPlace(block, thread, params.channels, params.height, params.width);
    if (!isInside(place, params.height, params.width))
    {
        return;
    }
    Coordinates const at = coordinatesOf<Offset>(params, place, K);
    Layout const high = planarLayout(params.channels, params.highHeight, params.highWidth);
    Layout const low = planarLayout(params.channels, params.height, params.width);
    T* const output = static_cast<T*>(params.output) + elementOf(low, place);
    writePlanar(output, low.channel, channelsHere(params.channels, place.channel),
        alignedPixel<T, K>(params, place, at, high, low));
}

//! Writes the channels that lane `lane` computes of one pixel one by one: for pitches that allow no
//! vectors, and for four taps, whose sizes occur in no network.
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

//! One thread computes a pixel's coordinates and stores them for the eight threads that share the pixel.
template <typename T, typename Offset, int K>
__device__ __forceinline__ void addChannelsLast(AlignedAddParams const& params, uint32_t block, uint32_t thread)
{
    __shared__ AlignedPixel<T, K> pixels[kLastPixels];
    Layout const low = channelsLastLayout(params.height, params.width, params.channelPitch);
    Place const tile = channelsLastTile(block, params.height, params.width);
    Place const mine = pixelOfTile(tile, thread);
    if (thread < kLastPixels && isInside(mine, params.height, params.width))
    {
        Layout const high = channelsLastLayout(params.highHeight, params.highWidth, params.channelPitch);
        Coordinates const at = coordinatesOf<Offset>(params, mine, K);
        pixels[thread] = alignedPixel<T, K>(params, mine, at, high, low);
    }
    __syncthreads();
    uint32_t const index = thread / kLastLanes;
    int32_t const lane = static_cast<int32_t>(thread % kLastLanes);
    Place const place = pixelOfTile(tile, index);
    if (!isInside(place, params.height, params.width))
    {
        return;
    }
    T* const output = static_cast<T*>(params.output) + pixelOf(low, place);
    if constexpr (K == kAnyTaps)
    {
        writeOneByOne(output, lane, params, pixels[index]);
    }
    else
    {
        int32_t const channels = static_cast<int32_t>(params.channels);
        int32_t const pitch = static_cast<int32_t>(params.channelPitch);
        writeChannelsLast<16 / sizeof(T)>(output, lane, channels, pitch, pixels[index]);
    }
}

#ifndef __CUDACC_RTC__
template <typename T, typename Offset, int K>
__global__ void alignedAddPlanar(AlignedAddParams params)
{
    addPlanar<T, Offset, K>(params, blockIdx.x, threadIdx.x);
}

template <typename T, typename Offset, int K>
__global__ void ALIGNSEG_BOUNDS(kSampleThreads, kLastBlocks) alignedAddChannelsLast(AlignedAddParams params)
{
    addChannelsLast<T, Offset, K>(params, blockIdx.x, threadIdx.x);
}

using AlignedAddKernel = void (*)(AlignedAddParams);

template <typename T, typename Offset, int K>
AlignedAddKernel kernelOfLayout(bool planar)
{
    return planar ? &alignedAddPlanar<T, Offset, K> : &alignedAddChannelsLast<T, Offset, K>;
}

template <typename T, typename Offset>
AlignedAddKernel kernelOfTaps(bool planar, int32_t taps)
{
    switch (taps)
    {
    case 2: return kernelOfLayout<T, Offset, 2>(planar);
    case 3: return kernelOfLayout<T, Offset, 3>(planar);
    default: return kernelOfLayout<T, Offset, 4>(planar);
    }
}

template <typename T>
AlignedAddKernel alignedAddKernel(AlignedAddParams const& params, Scalar offset)
{
    bool const planar = params.channelPitch == 0;
    uint64_t const addresses = addressOf(params.high) | addressOf(params.low) | addressOf(params.output);
    int32_t const taps
        = planar || vectorised<T>(params.channelPitch, addresses) ? alignedAddTaps(params) : kAnyTaps;
    return offset == Scalar::kHalf ? kernelOfTaps<T, Half>(planar, taps) : kernelOfTaps<T, float>(planar, taps);
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
    AlignedAddKernel const kernel
        = feature == Scalar::kHalf ? alignedAddKernel<Half>(params, offset) : alignedAddKernel<float>(params, offset);
    return params.channelPitch == 0 ? launch(kernel, params, blocks, kSampleThreads, stream)
                  : launch<Threads::kSynchronised>(kernel, params, blocks, kSampleThreads, stream);
}
#endif

} // namespace alignseg

#if defined(__CUDACC_RTC__) || defined(ALIGNSEG_ENTRIES)
#define ALIGNSEG_ENTRY(taps, feature, Feature, offset, Offset)                                                        \
    extern "C" __global__ void aligned_add_planar_##taps##_##feature##_##offset(alignseg::AlignedAddParams params)    \
    {                                                                                                                 \
        alignseg::addPlanar<Feature, Offset, taps>(params, blockIdx.x, threadIdx.x);                                  \
    }                                                                                                                 \
    extern "C" __global__ void ALIGNSEG_BOUNDS(alignseg::kSampleThreads, alignseg::kLastBlocks)                       \
        aligned_add_channels_last_##taps##_##feature##_##offset(alignseg::AlignedAddParams params)                    \
    {                                                                                                                 \
        alignseg::addChannelsLast<Feature, Offset, taps>(params, blockIdx.x, threadIdx.x);                            \
    }
#define ALIGNSEG_ENTRIES_OF(taps)                                                                                     \
    ALIGNSEG_ENTRY(taps, float, float, float, float)                                                                  \
    ALIGNSEG_ENTRY(taps, float, float, half, alignseg::Half)                                                          \
    ALIGNSEG_ENTRY(taps, half, alignseg::Half, float, float)                                                          \
    ALIGNSEG_ENTRY(taps, half, alignseg::Half, half, alignseg::Half)

ALIGNSEG_ENTRIES_OF(2)
ALIGNSEG_ENTRIES_OF(3)
ALIGNSEG_ENTRIES_OF(4)
#endif
