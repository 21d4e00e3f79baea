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
ALIGNSEG_HD void addPlanar(AlignedAddParams const& params, Place const& place)
{
    Layout const high = planarLayout(params.channels, params.highHeight, params.highWidth);
    Layout const low = planarLayout(params.channels, params.height, params.width);
    AlignedPixel<T, K> const pixel = alignedPixel<T, Offset, K>(params, place, high, low, place.channel);
    T* const output = static_cast<T*>(params.output) + elementOf(low, place);
    writePlanar(output, low.channel, channelsHere(params.channels, place.channel), pixel);
}

template <typename T, typename Offset, int K>
ALIGNSEG_HD void addChannelsLast(AlignedAddParams const& params, Place const& place)
{
    Layout const high = channelsLastLayout(params.highHeight, params.highWidth, params.channelPitch);
    Layout const low = channelsLastLayout(params.height, params.width, params.channelPitch);
    AlignedPixel<T, K> const pixel = alignedPixel<T, Offset, K>(params, place, high, low, 0);
    T* const output = static_cast<T*>(params.output) + pixelOf(low, place);
    int32_t const channels = static_cast<int32_t>(params.channels);
    int32_t const pitch = static_cast<int32_t>(params.channelPitch);
    if (vectorised<T>(pitch, addressOf(params.high) | addressOf(params.low) | addressOf(params.output)))
    {
        writeChannelsLast<16 / sizeof(T)>(output, place.channel, channels, pitch, pixel);
    }
    else
    {
        writeChannelsLast<1>(output, place.channel, channels, pitch, pixel);
    }
}

//! Reads no more coarse pixels than the two sizes ask for; all threads take the same way.
template <typename T, typename Offset, bool planar>
ALIGNSEG_HD void addAligned(AlignedAddParams const& params, uint32_t block, uint32_t thread)
{
    Place const place = planar ? planarPlace(block, thread, params.channels, params.height, params.width)
                               : channelsLastPlace(block, thread, params.height, params.width);
    if (place.y >= params.height || place.x >= params.width)
    {
        return;
    }
    int32_t const tall = composedTaps(static_cast<int32_t>(params.highHeight), static_cast<int32_t>(params.height));
    int32_t const wide = composedTaps(static_cast<int32_t>(params.highWidth), static_cast<int32_t>(params.width));
    int32_t const taps = tall > wide ? tall : wide;
    if (taps == 2)
    {
        planar ? addPlanar<T, Offset, 2>(params, place) : addChannelsLast<T, Offset, 2>(params, place);
    }
    else if (taps == 3)
    {
        planar ? addPlanar<T, Offset, 3>(params, place) : addChannelsLast<T, Offset, 3>(params, place);
    }
    else
    {
        planar ? addPlanar<T, Offset, 4>(params, place) : addChannelsLast<T, Offset, 4>(params, place);
    }
}

#ifndef __CUDACC_RTC__
template <typename T, typename Offset, bool planar>
__global__ void alignedAdd(AlignedAddParams params)
{
    addAligned<T, Offset, planar>(params, blockIdx.x, threadIdx.x);
}

using AlignedAddKernel = void (*)(AlignedAddParams);

template <typename T>
AlignedAddKernel alignedAddKernel(bool planar, Scalar offset)
{
    if (offset == Scalar::kHalf)
    {
        return planar ? &alignedAdd<T, Half, true> : &alignedAdd<T, Half, false>;
    }
    return planar ? &alignedAdd<T, float, true> : &alignedAdd<T, float, false>;
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
    return launch(kernel, params, blocks, kSampleThreads, stream);
}
#endif

} // namespace alignseg

#ifdef __CUDACC_RTC__
#define ALIGNSEG_ENTRY(feature, Feature, offset, Offset)                                                              \
    extern "C" __global__ void aligned_add_planar_##feature##_##offset(alignseg::AlignedAddParams params)             \
    {                                                                                                                 \
        alignseg::addAligned<Feature, Offset, true>(params, blockIdx.x, threadIdx.x);                                 \
    }                                                                                                                 \
    extern "C" __global__ void aligned_add_channels_last_##feature##_##offset(alignseg::AlignedAddParams params)      \
    {                                                                                                                 \
        alignseg::addAligned<Feature, Offset, false>(params, blockIdx.x, threadIdx.x);                                \
    }

ALIGNSEG_ENTRY(float, float, float, float)
ALIGNSEG_ENTRY(float, float, half, alignseg::Half)
ALIGNSEG_ENTRY(half, alignseg::Half, float, float)
ALIGNSEG_ENTRY(half, alignseg::Half, half, alignseg::Half)
#endif
