// What OffsetGridSample and AlignedAdd compute, for the host and the device: which pixels an output
// pixel reads, with which weights, and which thread does it.
//
// Positions are exact integers plus a small float (positionOf), so their error does not grow with
// the width; a normalised float32 grid is off by 1e-4 pixel at width 2048, a float16 one by 1/4.
//
// The floor, 1x256x257x513 in float16 (high at 129x257 for AlignedAdd), is memory:
//   OffsetGridSample  67.5 MB feature + 0.5 MB offsets + 67.5 MB output              = 135.5 MB
//   AlignedAdd        67.5 MB low + 17.0 MB high + 1.1 MB offsets + 67.5 MB output   = 153.1 MB
// against 558 MB of upsample, two samples and an add one after the other, their grids left out:
//   17.0 + 67.5 (upsample), 2 x (67.5 + 0.5 + 67.5), 3 x 67.5 (add), all read or written.

#ifndef ALIGNSEG_OFFSET_SAMPLING_MATH_H
#define ALIGNSEG_OFFSET_SAMPLING_MATH_H

#include "convention.h"
#include "portable.h"

#ifndef __CUDACC_RTC__
#include <initializer_list>
#endif

namespace alignseg
{

// ---- The grid. Python computes the same numbers to launch what NVRTC compiled. ----

//! Threads of a block, in every layout.
constexpr int32_t kSampleThreads = 256;

//! Planar: a block has a tile of 64 x 4 output pixels, a thread one of them and 32 channels. The
//! tile is 2-D so that most second rows are read by the same block and come from its L1 cache.
constexpr int32_t kPlanarTileWidth = 64;
constexpr int32_t kPlanarTileHeight = kSampleThreads / kPlanarTileWidth;
constexpr int32_t kPlanarChannels = 32;
//! Channels that a thread loads before it stores one, so that 4 x 4 loads are in flight.
constexpr int32_t kPlanarUnroll = 4;

//! Channels last: a block has a tile of 8 x 4 output pixels; 8 threads share a pixel and read 16
//! bytes each, one line of 128 bytes, then the next line until all channels are done.
constexpr int32_t kLastLanes = 8;
constexpr int32_t kLastTileWidth = 8;
constexpr int32_t kLastTileHeight = kSampleThreads / kLastLanes / kLastTileWidth;

ALIGNSEG_HD int64_t ceilDivide(int64_t value, int64_t by)
{
    return (value + by - 1) / by;
}

//! Blocks of kSampleThreads threads for an output of (N, C, H, W); 0 where that is empty.
//!
//! \param channelPitch 0: planar. Else channels last, whatever the pitch is.
ALIGNSEG_HD int64_t sampleBlocks(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t channelPitch)
{
    if (channels <= 0)
    {
        return 0;
    }
    if (channelPitch == 0)
    {
        return batch * ceilDivide(channels, kPlanarChannels) * ceilDivide(height, kPlanarTileHeight)
            * ceilDivide(width, kPlanarTileWidth);
    }
    return batch * ceilDivide(height, kLastTileHeight) * ceilDivide(width, kLastTileWidth);
}

//! What one thread computes: pixel (y, x) of image `batch`, from channel `channel` on.
struct Place
{
    int64_t batch;
    int64_t y;
    int64_t x;
    int64_t channel;
};

//! The place of a thread among planar tiles. Tiles run along x, then y, then channels, then images:
//! blocks that run together read few planes, which stay in the L2 cache.
ALIGNSEG_HD Place planarPlace(uint32_t block, uint32_t thread, int64_t channels, int64_t height, int64_t width)
{
    uint32_t const columns = static_cast<uint32_t>(ceilDivide(width, kPlanarTileWidth));
    uint32_t const rows = static_cast<uint32_t>(ceilDivide(height, kPlanarTileHeight));
    uint32_t const chunks = static_cast<uint32_t>(ceilDivide(channels, kPlanarChannels));
    uint32_t const line = block / columns;
    uint32_t const plane = line / rows;
    uint32_t const image = plane / chunks;
    Place place;
    place.batch = image;
    place.channel = static_cast<int64_t>(plane - image * chunks) * kPlanarChannels;
    place.y = static_cast<int64_t>(line - plane * rows) * kPlanarTileHeight + thread / kPlanarTileWidth;
    place.x = static_cast<int64_t>(block - line * columns) * kPlanarTileWidth + thread % kPlanarTileWidth;
    return place;
}

//! The place of a thread where channels are last; `channel` is the number of its lane, 0 to 7.
ALIGNSEG_HD Place channelsLastPlace(uint32_t block, uint32_t thread, int64_t height, int64_t width)
{
    uint32_t const columns = static_cast<uint32_t>(ceilDivide(width, kLastTileWidth));
    uint32_t const rows = static_cast<uint32_t>(ceilDivide(height, kLastTileHeight));
    uint32_t const line = block / columns;
    uint32_t const image = line / rows;
    uint32_t const pixel = thread / kLastLanes;
    Place place;
    place.batch = image;
    place.channel = thread % kLastLanes;
    place.y = static_cast<int64_t>(line - image * rows) * kLastTileHeight + pixel / kLastTileWidth;
    place.x = static_cast<int64_t>(block - line * columns) * kLastTileWidth + pixel % kLastTileWidth;
    return place;
}

//! Channels that a planar thread has from `first` on.
ALIGNSEG_HD int32_t channelsHere(int64_t channels, int64_t first)
{
    int64_t const left = channels - first;
    return left < kPlanarChannels ? static_cast<int32_t>(left) : kPlanarChannels;
}

// ---- Where an output pixel reads. ----

//! `source = index * numerator / denominator + offset * gain + shift`, in pixels of the feature.
struct AxisTerms
{
    int64_t numerator;
    int64_t denominator;
    float gain;
    float shift;
};

//! The terms of a convention along one axis; alignseg_infer/ops/sampling.py has the table.
//!
//! \param feature Size of the feature along this axis, `across` along the other.
//! \param output Size of the output along this axis.
ALIGNSEG_HD AxisTerms axisTerms(Convention convention, int64_t feature, int64_t output, int64_t across)
{
    int64_t const last = output > 1 ? output - 1 : 1;
    if (convention == Convention::kStandard)
    {
        return {feature - 1, last, static_cast<float>(feature - 1) / static_cast<float>(last), 0.0F};
    }
    bool const swapped = convention == Convention::kRelease202105;
    float const gain = swapped ? static_cast<float>(feature) / static_cast<float>(2 * across) : 0.5F;
    return {feature, last, gain, -0.5F};
}

//! Pixels along one axis and their weights; a pixel of weight 0 may lie outside and is not read.
//! Up to three follow one another; four are two pairs.
template <int K>
struct Taps
{
    int64_t first;
    int64_t second; //!< Where the second pair begins, of four
    float weight[K];

    ALIGNSEG_HD int64_t index(int32_t tap) const
    {
        return K == 4 && tap >= 2 ? second + (tap - 2) : first + tap;
    }
};

//! The two pixels beside `base + moved + shift` along an axis of `size` pixels.
//!
//! \param moved The offset in pixels. NaN, infinity and whatever is 2^30 or farther is outside.
ALIGNSEG_HD Taps<2> cornersBeside(Position base, float moved, float shift, int64_t size)
{
    constexpr float kFarthest = 1073741824.0F;
    bool const near = moved > -kFarthest && moved < kFarthest;
    float const usable = near ? moved : 0.0F;
    float const steps = floorf(usable);
    float const rest = (usable - steps) + (base.rest + shift); // -0.5 to 2: nothing is lost to size
    float const carry = floorf(rest);
    float const fraction = rest - carry;
    int64_t const below = base.whole + (static_cast<int32_t>(steps) + static_cast<int32_t>(carry));
    Taps<2> corners;
    corners.first = below >= -1 && below < size ? below : 0;
    corners.second = corners.first;
    corners.weight[0] = near && below >= 0 && below < size ? 1.0F - fraction : 0.0F;
    corners.weight[1] = near && below >= -1 && below < size - 1 ? fraction : 0.0F;
    return corners;
}

//! Whether every pixel of the fine axis and its next lie between the same two of the coarse one.
//! So it is in the network at 1024 x 2048, whose features have 2^k + 1 pixels.
ALIGNSEG_HD bool nested(int64_t coarse, int64_t size)
{
    return coarse == 1 || size == 1 || static_cast<uint32_t>(size - 1) % static_cast<uint32_t>(coarse - 1) == 0;
}

//! Pixels along one axis that sampling after upsampling reads of the coarse feature: two where
//! coarse pixels nest, three in any upsampling, four in general.
ALIGNSEG_HD int32_t composedTaps(int64_t coarse, int64_t size)
{
    if (nested(coarse, size))
    {
        return 2;
    }
    return coarse <= size ? 3 : 4;
}

//! The coarse pixels behind two fine ones, in one step: linear maps compose.
//!
//! \param corners Two neighbours on the fine axis; those outside have lost their weight already.
//! \param coarse Pixels of the coarse axis, spread over `size` fine ones with aligned ends.
//! \tparam K At least composedTaps(coarse, size).
template <int K>
ALIGNSEG_HD Taps<K> composed(Taps<2> const& corners, int64_t coarse, int64_t size)
{
    int64_t const last = size - 1;
    int64_t const divisor = last > 0 ? last : 1;
    int64_t const lower = corners.first < 0 ? 0 : (corners.first > last ? last : corners.first);
    int64_t const upper = lower < last && corners.first >= 0 ? lower + 1 : lower;
    Position const below = positionOf(lower, coarse - 1, divisor);
    Taps<K> taps;
    taps.first = below.whole;
    if constexpr (K == 4)
    {
        Position const above = positionOf(upper, coarse - 1, divisor);
        taps.second = above.whole;
        taps.weight[2] = corners.weight[1] * (1.0F - above.rest);
        taps.weight[3] = corners.weight[1] * above.rest;
        taps.weight[0] = corners.weight[0] * (1.0F - below.rest);
        taps.weight[1] = corners.weight[0] * below.rest;
        return taps;
    }
    // At most one coarse pixel on. Rounding may see the position just below a coarse pixel that it
    // has reached, which moves its weight by no more than that rounding: interpolation is continuous.
    float const step = static_cast<float>(coarse - 1) / static_cast<float>(divisor);
    float const above = below.rest + (upper > lower ? step : 0.0F);
    taps.second = below.whole;
    float const inFirst = fmaxf(1.0F - above, 0.0F);
    bool const third = K == 3 && below.whole + 2 < coarse; // or rounding could reach past the end
    float const inThird = third ? fmaxf(above - 1.0F, 0.0F) : 0.0F;
    taps.weight[0] = corners.weight[0] * (1.0F - below.rest) + corners.weight[1] * inFirst;
    taps.weight[1] = corners.weight[0] * below.rest + corners.weight[1] * (1.0F - inFirst - inThird);
    if constexpr (K == 3)
    {
        taps.weight[2] = corners.weight[1] * inThird;
    }
    return taps;
}

// ---- Reading. ----

//! 16 bytes, moved by one instruction.
struct alignas(16) FourFloats
{
    float value[4];
};

//! Likewise: eight float16 in words, of which compilers make one load more surely than of halves.
struct alignas(16) FourWords
{
    uint32_t word[4];
};

//! 1, 4 or 8 values of a feature as floats, by one load.
template <int V>
ALIGNSEG_HD void loadFloats(float const* from, float (&values)[V])
{
    if constexpr (V == 1)
    {
        values[0] = *from;
    }
    else
    {
        FourFloats const four = *reinterpret_cast<FourFloats const*>(from);
#pragma unroll
        for (int32_t index = 0; index < V; ++index)
        {
            values[index] = four.value[index];
        }
    }
}

template <int V>
ALIGNSEG_HD void loadFloats(Half const* from, float (&values)[V])
{
    if constexpr (V == 1)
    {
        values[0] = toFloat(*from);
    }
    else
    {
        FourWords const words = *reinterpret_cast<FourWords const*>(from);
#pragma unroll
        for (int32_t index = 0; index < V; ++index)
        {
            values[index] = toFloat(Half{static_cast<uint16_t>(words.word[index / 2] >> (16 * (index % 2)))});
        }
    }
}

template <int V>
ALIGNSEG_HD void storeFloats(float* to, float const (&values)[V])
{
    if constexpr (V == 1)
    {
        *to = values[0];
    }
    else
    {
        *reinterpret_cast<FourFloats*>(to) = FourFloats{{values[0], values[1], values[2], values[3]}};
    }
}

template <int V>
ALIGNSEG_HD void storeFloats(Half* to, float const (&values)[V])
{
    if constexpr (V == 1)
    {
        *to = fromFloat<Half>(values[0]);
    }
    else
    {
        FourWords words;
#pragma unroll
        for (int32_t index = 0; index < 4; ++index)
        {
            uint32_t const low = fromFloat<Half>(values[2 * index]).bits;
            uint32_t const high = fromFloat<Half>(values[2 * index + 1]).bits;
            words.word[index] = low | (high << 16);
        }
        *reinterpret_cast<FourWords*>(to) = words;
    }
}

//! A feature of one image as one output pixel sees it: K x K pixels, and the sum of their weights
//! times values for each channel.
template <typename T, int K>
struct Window
{
    T const* feature;   //!< The image's first value
    int64_t channelStep; //!< Elements from one channel to the next
    int64_t row[K];     //!< Elements before the rows that are read
    int64_t column[K];  //!< Elements before the columns that are read
    float weight[K][K];

    //! Adds V channels from `channel` on to `sums`. Loads stand before sums, to be in flight together.
    template <int V>
    ALIGNSEG_HD void add(int64_t channel, float (&sums)[V]) const
    {
        T const* const from = feature + channel * channelStep;
#pragma unroll
        for (int32_t y = 0; y < K; ++y)
        {
#pragma unroll
            for (int32_t x = 0; x < K; ++x)
            {
                float values[V] = {};
                if (weight[y][x] != 0.0F)
                {
                    loadFloats<V>(from + (row[y] + column[x]), values);
                }
#pragma unroll
                for (int32_t index = 0; index < V; ++index)
                {
                    sums[index] += weight[y][x] * values[index];
                }
            }
        }
    }
};

//! The strides of a feature of (N, C, h, w), planar or channels last.
struct Layout
{
    int64_t image;   //!< Elements from one image to the next
    int64_t channel; //!< from one channel to the next
    int64_t row;
    int64_t pixel;
};

ALIGNSEG_HD Layout planarLayout(int64_t channels, int64_t height, int64_t width)
{
    return {channels * height * width, height * width, width, 1};
}

ALIGNSEG_HD Layout channelsLastLayout(int64_t height, int64_t width, int64_t pitch)
{
    return {height * width * pitch, 1, width * pitch, pitch};
}

//! Elements before pixel (y, x) of its image's first channel.
ALIGNSEG_HD int64_t pixelOf(Layout const& layout, Place const& place)
{
    return place.batch * layout.image + place.y * layout.row + place.x * layout.pixel;
}

//! Elements before a place, its channel included.
ALIGNSEG_HD int64_t elementOf(Layout const& layout, Place const& place)
{
    return pixelOf(layout, place) + place.channel * layout.channel;
}

template <typename T, int K>
ALIGNSEG_HD Window<T, K> windowOf(
    void const* feature, Layout const& layout, int64_t image, Taps<K> const& rows, Taps<K> const& columns)
{
    Window<T, K> window;
    window.feature = static_cast<T const*>(feature) + image * layout.image;
    window.channelStep = layout.channel;
#pragma unroll
    for (int32_t y = 0; y < K; ++y)
    {
        window.row[y] = rows.index(y) * layout.row;
        window.column[y] = columns.index(y) * layout.pixel;
#pragma unroll
        for (int32_t x = 0; x < K; ++x)
        {
            window.weight[y][x] = rows.weight[y] * columns.weight[x];
        }
    }
    return window;
}

// ---- Writing: all channels of a thread. `Read::add<V>(channel, sums)` is one or two windows. ----

//! Planar: the channels [0, count) of one pixel.
//!
//! \param output Where channel 0 of the pixel goes; the next is `plane` elements on.
template <typename T, typename Read>
ALIGNSEG_HD void writePlanar(T* output, int64_t plane, int32_t count, Read const& read)
{
    int32_t channel = 0;
    for (; channel + kPlanarUnroll <= count; channel += kPlanarUnroll)
    {
        float sums[kPlanarUnroll][1] = {};
#pragma unroll
        for (int32_t index = 0; index < kPlanarUnroll; ++index)
        {
            read.template add<1>(channel + index, sums[index]);
        }
#pragma unroll
        for (int32_t index = 0; index < kPlanarUnroll; ++index)
        {
            output[(channel + index) * plane] = fromFloat<T>(sums[index][0]);
        }
    }
#pragma unroll 1
    for (; channel < count; ++channel)
    {
        float sums[1] = {};
        read.template add<1>(channel, sums);
        output[channel * plane] = fromFloat<T>(sums[0]);
    }
}

//! Channels last: every kLastLanes-th vector of V channels of one pixel, from `lane` on; zeros in
//! the channels that pad `channels` to `pitch`.
template <int V, typename T, typename Read>
ALIGNSEG_HD void writeChannelsLast(T* output, int64_t lane, int64_t channels, int64_t pitch, Read const& read)
{
#pragma unroll 1
    for (int64_t channel = lane * V; channel < pitch; channel += kLastLanes * V)
    {
        float sums[V] = {};
        read.template add<V>(channel, sums);
#pragma unroll
        for (int32_t index = 0; index < V; ++index)
        {
            sums[index] = channel + index < channels ? sums[index] : 0.0F;
        }
        storeFloats<V>(output + channel, sums);
    }
}

//! Whether vectors of 16 bytes can be read and written: rows of channels and pointers on multiples.
template <typename T>
ALIGNSEG_HD bool vectorised(int64_t channelPitch, uint64_t addresses)
{
    return ((addresses | static_cast<uint64_t>(channelPitch) * sizeof(T)) & 15U) == 0;
}

ALIGNSEG_HD uint64_t addressOf(void const* pointer)
{
    return reinterpret_cast<uint64_t>(pointer);
}

#ifndef __CUDACC_RTC__
//! Whether all sizes are 0 to 2^31 - 1 and their product has at most 60 bits.
inline bool countable(int64_t batch, int64_t channels, int64_t height, int64_t width)
{
    int64_t count = 1;
    for (int64_t const size : {batch, channels, height, width})
    {
        if (size < 0 || size > 0x7FFFFFFF)
        {
            return false;
        }
        int64_t const factor = size > 0 ? size : 1;
        if (count > (int64_t{1} << 60) / factor)
        {
            return false;
        }
        count *= factor;
    }
    return true;
}

//! Whether `convention` is one, and `channelPitch` fits the channels.
inline bool understood(int64_t convention, int64_t channels, int64_t channelPitch)
{
    bool const known = convention >= 0 && convention <= static_cast<int64_t>(Convention::kStandard);
    return known && (channelPitch == 0 || channelPitch >= channels);
}

inline bool isScalar(Scalar scalar)
{
    return scalar == Scalar::kFloat || scalar == Scalar::kHalf;
}
#endif

} // namespace alignseg

#endif // ALIGNSEG_OFFSET_SAMPLING_MATH_H
