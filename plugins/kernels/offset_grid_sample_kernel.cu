// Kernels of OffsetGridSample. One thread computes many channels of one output pixel, so that its
// coordinates are computed once; sampling_grid.h says which pixel and channels.

#ifndef __CUDACC_RTC__
#include "offset_grid_sample_kernel.h"
#endif

#include "offset_grid_sample_params.h"
#include "sampling_loops.h"

namespace alignseg
{
namespace
{

//! What OffsetGridSample reads for one output pixel.
template <typename T>
struct SampledPixel
{
    static constexpr int32_t kUnroll = 4; //!< Planar channels at once: 16 loads in flight
    Window<T, 2> feature;

    template <int V>
    struct Loaded
    {
        Values<T, 2, V, 2> feature;
    };

    ALIGNSEG_HD bool isWhole() const
    {
        return feature.isWhole();
    }

    template <bool guarded, int V>
    ALIGNSEG_HD void load(Loaded<V>& loaded, int32_t channels) const
    {
        feature.template load<guarded>(loaded.feature, 0, channels);
    }

    template <int V>
    ALIGNSEG_HD void add(Loaded<V> const& loaded, float (&sums)[V]) const
    {
        feature.add(loaded.feature, 0, sums);
    }

    template <int V>
    ALIGNSEG_HD void addAll(float (&sums)[V]) const
    {
        Loaded<V> loaded;
        load<true>(loaded, 0);
        add(loaded, sums);
    }

    ALIGNSEG_HD void advance(int32_t channels)
    {
        feature.advance(channels);
    }

    ALIGNSEG_HD void setChannelsLast(int64_t pitch)
    {
        feature.setChannelsLast(pitch);
    }
};

//! The four pixels of the feature that the output pixel at `place` reads, `channel` elements further on.
template <typename T, typename Offset>
ALIGNSEG_HD SampledPixel<T> sampledPixel(
    OffsetGridSampleParams const& params, Place const& place, Layout const& layout, int64_t channel)
{
    Convention const convention = static_cast<Convention>(params.convention);
    AxisTerms const alongY = axisTerms(convention, params.featureHeight, params.height, params.featureWidth);
    AxisTerms const alongX = axisTerms(convention, params.featureWidth, params.width, params.featureHeight);
    int64_t const plane = params.height * params.width;
    Offset const* const dx
        = static_cast<Offset const*>(params.offset) + (2 * place.batch * plane + place.y * params.width + place.x);
    float const movedX = toFloat(dx[0]) * alongX.gain;
    float const movedY = toFloat(dx[plane]) * alongY.gain;
    Position const y = positionOf(place.y, alongY.numerator, alongY.denominator);
    Position const x = positionOf(place.x, alongX.numerator, alongX.denominator);
    Taps<2> const rows = cornersBeside(y, movedY, alongY.shift, static_cast<int32_t>(params.featureHeight));
    Taps<2> const columns = cornersBeside(x, movedX, alongX.shift, static_cast<int32_t>(params.featureWidth));
    return {windowOf<T>(params.feature, layout, place, channel, rows, columns)};
}

template <typename T, typename Offset>
ALIGNSEG_HD void samplePlanar(OffsetGridSampleParams const& params, uint32_t block, uint32_t thread)
{
    Place const place = planarPlace(block, thread, params.channels, params.height, params.width);
    if (!isInside(place, params.height, params.width))
    {
        return;
    }
    Layout const from = planarLayout(params.channels, params.featureHeight, params.featureWidth);
    Layout const to = planarLayout(params.channels, params.height, params.width);
    SampledPixel<T> const pixel = sampledPixel<T, Offset>(params, place, from, place.channel * from.channel);
    T* const output = static_cast<T*>(params.output) + elementOf(to, place);
    writePlanar(output, to.channel, channelsHere(params.channels, place.channel), pixel);
}

//! Writes the channels of one pixel that lane `lane` computes.
template <typename T>
ALIGNSEG_HD void writeSampled(
    OffsetGridSampleParams const& params, Place const& place, int32_t lane, SampledPixel<T> const& pixel)
{
    Layout const to = channelsLastLayout(params.height, params.width, params.channelPitch);
    T* const output = static_cast<T*>(params.output) + pixelOf(to, place);
    int32_t const channels = static_cast<int32_t>(params.channels);
    int32_t const pitch = static_cast<int32_t>(params.channelPitch);
    if (vectorised<T>(pitch, addressOf(params.feature) | addressOf(params.output)))
    {
        writeChannelsLast<16 / sizeof(T)>(output, lane, channels, pitch, pixel);
    }
    else
    {
        writeChannelsLast<1>(output, lane, channels, pitch, pixel);
    }
}

template <typename T, typename Offset>
__device__ __forceinline__ void sampleChannelsLast(
    OffsetGridSampleParams const& params, uint32_t block, uint32_t thread)
{
    __shared__ SampledPixel<T> pixels[kLastPixels];
    Place const tile = channelsLastTile(block, params.height, params.width);
    Place const mine = pixelOfTile(tile, thread);
    if (thread < kLastPixels && isInside(mine, params.height, params.width))
    {
        Layout const from = channelsLastLayout(params.featureHeight, params.featureWidth, params.channelPitch);
        pixels[thread] = sampledPixel<T, Offset>(params, mine, from, 0);
    }
    __syncthreads();
    uint32_t const index = thread / kLastLanes;
    Place const place = pixelOfTile(tile, index);
    if (isInside(place, params.height, params.width))
    {
        writeSampled<T>(params, place, static_cast<int32_t>(thread % kLastLanes), pixels[index]);
    }
}

#ifndef __CUDACC_RTC__
template <typename T, typename Offset>
__global__ void offsetGridSamplePlanar(OffsetGridSampleParams params)
{
    samplePlanar<T, Offset>(params, blockIdx.x, threadIdx.x);
}

template <typename T, typename Offset>
__global__ void offsetGridSampleChannelsLast(OffsetGridSampleParams params)
{
    sampleChannelsLast<T, Offset>(params, blockIdx.x, threadIdx.x);
}

using OffsetGridSampleKernel = void (*)(OffsetGridSampleParams);

template <typename T>
OffsetGridSampleKernel offsetGridSampleKernel(bool planar, Scalar offset)
{
    if (offset == Scalar::kHalf)
    {
        return planar ? &offsetGridSamplePlanar<T, Half> : &offsetGridSampleChannelsLast<T, Half>;
    }
    return planar ? &offsetGridSamplePlanar<T, float> : &offsetGridSampleChannelsLast<T, float>;
}

bool sensible(OffsetGridSampleParams const& params)
{
    int64_t const stored = params.channelPitch > 0 ? params.channelPitch : params.channels;
    return understood(params.convention, params.channels, params.channelPitch)
        && countable(params.batch, stored, params.featureHeight, params.featureWidth)
        && countable(params.batch, stored, params.height, params.width);
}
#endif

} // namespace

#ifndef __CUDACC_RTC__
cudaError_t launchOffsetGridSample(
    OffsetGridSampleParams const& params, Scalar feature, Scalar offset, cudaStream_t stream)
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
    bool const complete = params.feature != nullptr && params.offset != nullptr && params.output != nullptr;
    if (!complete || params.featureHeight == 0 || params.featureWidth == 0)
    {
        return cudaErrorInvalidValue;
    }
    bool const planar = params.channelPitch == 0;
    OffsetGridSampleKernel const kernel = feature == Scalar::kHalf ? offsetGridSampleKernel<Half>(planar, offset)
                                                                   : offsetGridSampleKernel<float>(planar, offset);
    return planar ? launch(kernel, params, blocks, kSampleThreads, stream)
                  : launch<Threads::kSynchronised>(kernel, params, blocks, kSampleThreads, stream);
}
#endif

} // namespace alignseg

#if defined(__CUDACC_RTC__) || defined(ALIGNSEG_ENTRIES)
#define ALIGNSEG_ENTRY(feature, Feature, offset, Offset)                                                              \
    extern "C" __global__ void offset_grid_sample_planar_##feature##_##offset(                                        \
        alignseg::OffsetGridSampleParams params)                                                                      \
    {                                                                                                                 \
        alignseg::samplePlanar<Feature, Offset>(params, blockIdx.x, threadIdx.x);                                     \
    }                                                                                                                 \
    extern "C" __global__ void offset_grid_sample_channels_last_##feature##_##offset(                                 \
        alignseg::OffsetGridSampleParams params)                                                                      \
    {                                                                                                                 \
        alignseg::sampleChannelsLast<Feature, Offset>(params, blockIdx.x, threadIdx.x);                               \
    }

ALIGNSEG_ENTRY(float, float, float, float)
ALIGNSEG_ENTRY(float, float, half, alignseg::Half)
ALIGNSEG_ENTRY(half, alignseg::Half, float, float)
ALIGNSEG_ENTRY(half, alignseg::Half, half, alignseg::Half)
#endif
