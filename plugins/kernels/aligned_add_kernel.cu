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

//! \param high, low Strides of the two features, of which the first channel is read from.
template <typename T, typename Offset, int K>
ALIGNSEG_HD AlignedPixel<T, K> alignedPixel(
    AlignedAddParams const& params, Place const& place, Layout const& high, Layout const& low, int32_t channel)
{
    FineBase const base = fineBase(params, place);
    FineCorners const fine = fineCorners<Offset>(params.lowOffset, params, place, base);
    FineCorners const coarse = fineCorners<Offset>(params.highOffset, params, place, base);
    Taps<K> const rows
        = composed<K>(coarse.rows, static_cast<int32_t>(params.highHeight), static_cast<int32_t>(params.height));
    Taps<K> const columns
        = composed<K>(coarse.columns, static_cast<int32_t>(params.highWidth), static_cast<int32_t>(params.width));
    return {windowOf<T>(params.high, high, place, channel * high.channel, rows, columns),
        windowOf<T>(params.low, low, place, channel * low.channel, fine.rows, fine.columns)};
}

template <typename T, typename Offset, int K>
ALIGNSEG_HD void addPlanar(AlignedAddParams const& params, uint32_t block, uint32_t thread)
{
    Place const place = planarPlace(block, thread, params.channels, params.height, params.width);
    if (!isInside(place, params.height, params.width))
    {
        return;
    }
    Layout const high = planarLayout(params.channels, params.highHeight, params.highWidth);
    Layout const low = planarLayout(params.channels, params.height, params.width);
    AlignedPixel<T, K> const pixel = alignedPixel<T, Offset, K>(params, place, high, low, place.channel);
    T* const output = static_cast<T*>(params.output) + elementOf(low, place);
    writePlanar(output, low.channel, channelsHere(params.channels, place.channel), pixel);
}

//! Writes the channels of one pixel that lane `lane` has: in vectors, but for four taps, whose sizes
//! no network has.
template <typename T, int K>
ALIGNSEG_HD void writeAligned(
    AlignedAddParams const& params, Place const& place, int32_t lane, AlignedPixel<T, K> const& pixel)
{
    constexpr int32_t kValues = K == 4 ? 1 : static_cast<int32_t>(16 / sizeof(T));
    Layout const to = channelsLastLayout(params.height, params.width, params.channelPitch);
    T* const output = static_cast<T*>(params.output) + pixelOf(to, place);
    int32_t const channels = static_cast<int32_t>(params.channels);
    int32_t const pitch = static_cast<int32_t>(params.channelPitch);
    writeChannelsLast<kValues>(output, lane, channels, pitch, pixel);
}

//! \param pixels Shared memory for kLastPixels of them.
template <typename T, typename Offset, int K>
__device__ __forceinline__ void addChannelsLast(
    AlignedAddParams const& params, uint32_t block, uint32_t thread, AlignedPixel<T, K>* pixels)
{
    Place const tile = channelsLastTile(block, params.height, params.width);
    Place const mine = pixelOfTile(tile, thread);
    if (thread < kLastPixels && isInside(mine, params.height, params.width))
    {
        Layout const high = channelsLastLayout(params.highHeight, params.highWidth, params.channelPitch);
        Layout const low = channelsLastLayout(params.height, params.width, params.channelPitch);
        pixels[thread] = alignedPixel<T, Offset, K>(params, mine, high, low, 0);
    }
    __syncthreads();
    int32_t const lane = static_cast<int32_t>(thread % kLastLanes);
#pragma unroll 1
    for (uint32_t index = thread / kLastLanes; index < kLastPixels; index += kSampleThreads / kLastLanes)
    {
        Place const place = pixelOfTile(tile, index);
        if (isInside(place, params.height, params.width))
        {
            writeAligned<T, K>(params, place, lane, pixels[index]);
        }
    }
}

template <typename T, typename Offset, int K>
__device__ __forceinline__ void addWithTaps(
    AlignedAddParams const& params, uint32_t block, uint32_t thread, uint8_t* shared)
{
    if (shared == nullptr)
    {
        addPlanar<T, Offset, K>(params, block, thread);
    }
    else
    {
        addChannelsLast<T, Offset, K>(params, block, thread, reinterpret_cast<AlignedPixel<T, K>*>(shared));
    }
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

//! All threads take the same way.
//!
//! \param shared Null: planar. Else channels last, and it has kSharedBytes.
template <typename T, typename Offset>
__device__ __forceinline__ void addAligned(
    AlignedAddParams const& params, uint32_t block, uint32_t thread, uint8_t* shared)
{
    int32_t const taps = tapsOf<T>(params);
    if (taps == 2)
    {
        addWithTaps<T, Offset, 2>(params, block, thread, shared);
    }
    else if (taps == 3)
    {
        addWithTaps<T, Offset, 3>(params, block, thread, shared);
    }
    else
    {
        addWithTaps<T, Offset, 4>(params, block, thread, shared);
    }
}

#ifndef __CUDACC_RTC__
template <typename T, typename Offset>
__global__ void alignedAddPlanar(AlignedAddParams params)
{
    addAligned<T, Offset>(params, blockIdx.x, threadIdx.x, nullptr);
}

template <typename T, typename Offset>
__global__ void alignedAddChannelsLast(AlignedAddParams params)
{
    alignas(16) __shared__ uint8_t shared[kSharedBytes];
    addAligned<T, Offset>(params, blockIdx.x, threadIdx.x, shared);
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

#if defined(__CUDACC_RTC__) || defined(ALIGNSEG_ENTRIES)
#define ALIGNSEG_ENTRY(feature, Feature, offset, Offset)                                                              \
    extern "C" __global__ void aligned_add_planar_##feature##_##offset(alignseg::AlignedAddParams params)             \
    {                                                                                                                 \
        alignseg::addAligned<Feature, Offset>(params, blockIdx.x, threadIdx.x, nullptr);                              \
    }                                                                                                                 \
    extern "C" __global__ void aligned_add_channels_last_##feature##_##offset(alignseg::AlignedAddParams params)      \
    {                                                                                                                 \
        alignas(16) __shared__ uint8_t shared[alignseg::kSharedBytes];                                      \
        alignseg::addAligned<Feature, Offset>(params, blockIdx.x, threadIdx.x, shared);                               \
    }

ALIGNSEG_ENTRY(float, float, float, float)
ALIGNSEG_ENTRY(float, float, half, alignseg::Half)
ALIGNSEG_ENTRY(half, alignseg::Half, float, float)
ALIGNSEG_ENTRY(half, alignseg::Half, half, alignseg::Half)
#endif
