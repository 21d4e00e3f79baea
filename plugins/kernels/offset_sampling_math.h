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
//
// Instructions for each output value, counted in what nvcc 13.0 makes for sm_90, float16, 256
// channels, two taps, coordinates included:
//                      planar   channels last
//   OffsetGridSample       29              17
//   AlignedAdd             53              29
// An H100 (132 SMs, 4 x 32 a cycle, 1.755 GHz) needs 1.14 us for one of them at the size above, and
// 40 or 46 us for the bytes at its 3.35 TB/s: memory is the limit but for AlignedAdd in planes.
// None of this is a measurement.

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

//! Planar: a block has a tile of 64 x 4 output pixels, a thread one of them and 64 channels, over
//! which its coordinates are computed once. The tile is 2-D so that most second rows are read by
//! the same block and come from its L1 cache.
constexpr int32_t kPlanarTileWidth = 64;
constexpr int32_t kPlanarTileHeight = kSampleThreads / kPlanarTileWidth;
constexpr int32_t kPlanarChannels = 64;

//! Channels last: a block has a tile of 8 x 8 output pixels. One thread computes a pixel's
//! coordinates, for 8 that share them: these read 16 bytes each, one line of 128 bytes, then the
//! next line until all channels are done.
constexpr int32_t kLastLanes = 8;
constexpr int32_t kLastTileWidth = 8;
constexpr int32_t kLastTileHeight = 8;
constexpr int32_t kLastPixels = kLastTileWidth * kLastTileHeight;

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
    int32_t batch;
    int32_t y;
    int32_t x;
    int32_t channel;
};

//! ceilDivide for sizes, which have 30 bits; 64-bit divisions are slow.
ALIGNSEG_HD uint32_t tiles(int64_t size, uint32_t tile)
{
    return (static_cast<uint32_t>(size) + tile - 1) / tile;
}

//! The place of a thread among planar tiles. Tiles run along x, then y, then channels, then images:
//! blocks that run together read few planes, which stay in the L2 cache.
ALIGNSEG_HD Place planarPlace(uint32_t block, uint32_t thread, int64_t channels, int64_t height, int64_t width)
{
    uint32_t const columns = tiles(width, kPlanarTileWidth);
    uint32_t const rows = tiles(height, kPlanarTileHeight);
    uint32_t const chunks = tiles(channels, kPlanarChannels);
    uint32_t const line = block / columns;
    uint32_t const plane = line / rows;
    uint32_t const image = plane / chunks;
    Place place;
    place.batch = static_cast<int32_t>(image);
    place.channel = static_cast<int32_t>((plane - image * chunks) * kPlanarChannels);
    place.y = static_cast<int32_t>((line - plane * rows) * kPlanarTileHeight + thread / kPlanarTileWidth);
    place.x = static_cast<int32_t>((block - line * columns) * kPlanarTileWidth + thread % kPlanarTileWidth);
    return place;
}

//! The first pixel of a tile where channels are last. Tiles run along x, then y, then images.
ALIGNSEG_HD Place channelsLastTile(uint32_t block, int64_t height, int64_t width)
{
    uint32_t const columns = tiles(width, kLastTileWidth);
    uint32_t const rows = tiles(height, kLastTileHeight);
    uint32_t const line = block / columns;
    uint32_t const image = line / rows;
    Place place;
    place.batch = static_cast<int32_t>(image);
    place.channel = 0;
    place.y = static_cast<int32_t>((line - image * rows) * kLastTileHeight);
    place.x = static_cast<int32_t>((block - line * columns) * kLastTileWidth);
    return place;
}

//! Pixel `index` of a tile, 0 to kLastPixels - 1.
ALIGNSEG_HD Place pixelOfTile(Place tile, uint32_t index)
{
    tile.y += static_cast<int32_t>(index / kLastTileWidth);
    tile.x += static_cast<int32_t>(index % kLastTileWidth);
    return tile;
}

ALIGNSEG_HD bool isInside(Place const& place, int64_t height, int64_t width)
{
    return place.y < height && place.x < width;
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
    int32_t numerator;
    int32_t denominator;
    float gain;
    float shift;
};

//! The terms of a convention along one axis; alignseg_infer/ops/sampling.py has the table.
//!
//! \param feature Size of the feature along this axis, `across` along the other.
//! \param output Size of the output along this axis.
ALIGNSEG_HD AxisTerms axisTerms(Convention convention, int64_t feature, int64_t output, int64_t across)
{
    int32_t const size = static_cast<int32_t>(feature);
    int32_t const last = output > 1 ? static_cast<int32_t>(output - 1) : 1;
    if (convention == Convention::kStandard)
    {
        return {size - 1, last, quotient(static_cast<float>(size - 1), static_cast<float>(last)), 0.0F};
    }
    if (convention == Convention::kRelease202105)
    {
        float const twice = 2.0F * static_cast<float>(static_cast<int32_t>(across));
        return {size, last, quotient(static_cast<float>(size), twice), -0.5F};
    }
    return {size, last, 0.5F, -0.5F};
}

//! Pixels along one axis and their weights; a pixel of weight 0 may lie outside and is not read.
//! Up to three follow one another; four are two pairs.
template <int K>
struct Taps
{
    int32_t first;
    int32_t second; //!< Where the second pair begins, of four
    float weight[K];

    ALIGNSEG_HD int32_t index(int32_t tap) const
    {
        return K == 4 && tap >= 2 ? second + (tap - 2) : first + tap;
    }
};

//! The two pixels beside `base + moved + shift` along an axis of `size` pixels.
//!
//! \param moved The offset in pixels. NaN, infinity and whatever is 2^29 or farther is outside.
ALIGNSEG_HD Taps<2> cornersBeside(Position base, float moved, float shift, int32_t size)
{
    constexpr float kFarthest = 536870912.0F; // sizes have 30 bits: no sum below has more than 31
    bool const near = moved > -kFarthest && moved < kFarthest;
    float const usable = near ? moved : 0.0F;
    float const steps = floorf(usable);
    float const rest = (usable - steps) + (base.rest + shift); // -0.5 to 2: nothing is lost to size
    float const carry = floorf(rest);
    float const fraction = rest - carry;
    int32_t const below = static_cast<int32_t>(base.whole) + static_cast<int32_t>(steps) + static_cast<int32_t>(carry);
    Taps<2> corners;
    corners.first = below >= -1 && below < size ? below : 0;
    corners.second = corners.first;
    corners.weight[0] = near && below >= 0 && below < size ? 1.0F - fraction : 0.0F;
    corners.weight[1] = near && below >= -1 && below < size - 1 ? fraction : 0.0F;
    return corners;
}

//! Whether every pixel of the fine axis and its next lie between the same two of the coarse one.
//! So it is in the network at 1024 x 2048, whose features have 2^k + 1 pixels.
ALIGNSEG_HD bool nested(int32_t coarse, int32_t size)
{
    return coarse == 1 || size == 1 || static_cast<uint32_t>(size - 1) % static_cast<uint32_t>(coarse - 1) == 0;
}

//! Pixels along one axis that sampling after upsampling reads of the coarse feature: two where
//! coarse pixels nest, three in any upsampling, four in general.
ALIGNSEG_HD int32_t composedTaps(int32_t coarse, int32_t size)
{
    if (nested(coarse, size))
    {
        return 2;
    }
    return coarse <= size ? 3 : 4;
}

//! Where two neighbours on the fine axis lie on the coarse one.
struct CoarsePair
{
    int32_t first;  //!< Coarse pixel at or before the lower neighbour
    int32_t second; //!< With four taps, at or before the upper one; else `first` again
    float below;    //!< The lower neighbour's distance from `first`, 0 to 1
    float above;    //!< The upper neighbour's distance from `second`: 0 to 1, or to 2 with three taps
};

//! \param corners The neighbours; one that is outside counts as being where the other is.
//! \param coarse Pixels of the coarse axis, spread over `size` fine ones with aligned ends.
//! \param taps composedTaps(coarse, size), or more.
ALIGNSEG_HD CoarsePair coarsePair(Taps<2> const& corners, int32_t coarse, int32_t size, int32_t taps)
{
    int32_t const last = size - 1;
    int32_t const divisor = last > 0 ? last : 1;
    int32_t const lower = corners.first < 0 ? 0 : (corners.first > last ? last : corners.first);
    int32_t const upper = lower < last && corners.first >= 0 ? lower + 1 : lower;
    Position const below = positionOf(lower, coarse - 1, divisor);
    int32_t const first = static_cast<int32_t>(below.whole);
    if (taps == 4)
    {
        Position const above = positionOf(upper, coarse - 1, divisor);
        return {first, static_cast<int32_t>(above.whole), below.rest, above.rest};
    }
    // Rounding may see it just beside a coarse pixel that it has reached, which moves its weight by
    // no more than that rounding: interpolation is continuous.
    float const step = quotient(static_cast<float>(coarse - 1), static_cast<float>(divisor));
    return {first, first, below.rest, upper > lower ? below.rest + step : below.rest};
}

//! The coarse pixels behind two fine ones, in one step: linear maps compose.
//!
//! \param corners The fine pixels; those outside have lost their weight already.
//! \param coarse Pixels of the coarse axis.
template <int K>
ALIGNSEG_HD Taps<K> composed(Taps<2> const& corners, CoarsePair const& pair, int32_t coarse)
{
    Taps<K> taps;
    taps.first = pair.first;
    taps.second = pair.second;
    taps.weight[0] = corners.weight[0] * (1.0F - pair.below);
    taps.weight[1] = corners.weight[0] * pair.below;
    if constexpr (K == 4)
    {
        taps.weight[2] = corners.weight[1] * (1.0F - pair.above);
        taps.weight[3] = corners.weight[1] * pair.above;
        return taps;
    }
    bool const third = K == 3 && pair.first + 2 < coarse; // or rounding could reach past the end
    float const inFirst = fmaxf(1.0F - pair.above, 0.0F);
    float const inThird = third ? fmaxf(pair.above - 1.0F, 0.0F) : 0.0F;
    taps.weight[0] += corners.weight[1] * inFirst;
    taps.weight[1] += corners.weight[1] * (1.0F - inFirst - inThird);
    if constexpr (K == 3)
    {
        taps.weight[2] = corners.weight[1] * inThird;
    }
    return taps;
}

// ---- Reading. ----

//! V neighbouring values as they are stored, moved by one instruction: 16 bytes, or one value.
template <typename T, int V>
struct alignas(16) Stored
{
    static_assert(V * sizeof(T) == 16, "a vector has 16 bytes");
    uint32_t word[4];
};

template <typename T>
struct Stored<T, 1>
{
    T value;
};

template <typename T>
ALIGNSEG_HD float valueOf(Stored<T, 1> const& stored, int32_t)
{
    return toFloat(stored.value);
}

ALIGNSEG_HD float valueOf(Stored<float, 4> const& stored, int32_t index)
{
    return floatOfBits(stored.word[index]);
}

ALIGNSEG_HD float valueOf(Stored<Half, 8> const& stored, int32_t index)
{
    return toFloat(Half{static_cast<uint16_t>(stored.word[index / 2] >> (16 * (index % 2)))});
}

template <typename T>
ALIGNSEG_HD Stored<T, 1> storedOf(T*, float const (&values)[1])
{
    return {fromFloat<T>(values[0])};
}

ALIGNSEG_HD Stored<float, 4> storedOf(float*, float const (&values)[4])
{
    return {{bitsOf(values[0]), bitsOf(values[1]), bitsOf(values[2]), bitsOf(values[3])}};
}

ALIGNSEG_HD Stored<Half, 8> storedOf(Half*, float const (&values)[8])
{
    Stored<Half, 8> stored;
#pragma unroll
    for (int32_t index = 0; index < 4; ++index)
    {
        uint32_t const low = fromFloat<Half>(values[2 * index]).bits;
        uint32_t const high = fromFloat<Half>(values[2 * index + 1]).bits;
        stored.word[index] = low | (high << 16);
    }
    return stored;
}

//! V channels of a row, or of several, of the pixels that a window sees.
template <typename T, int K, int V, int rows>
struct Values
{
    Stored<T, V> at[rows][K];
};

//! A feature as one output pixel sees it: K x K pixels and their weights.
//!
//! It holds pointers that move on, not indices: compilers then add one number per row and channel,
//! where they would compute each address anew (seen in what nvcc 13.0 makes for sm_90).
template <typename T, int K>
struct Window
{
    T const* row[K];    //!< The first pixel of each row
    int64_t step;       //!< Elements from one channel to the next
    int64_t pixel;      //!< Elements from one column to the next
    int64_t gap;        //!< Elements from the first column to the third, of four
    float weight[K][K]; //!< Pixels of weight 0 may lie outside and are not read

    ALIGNSEG_HD int64_t column(int32_t x) const
    {
        return K == 4 && x >= 2 ? gap + (x - 2) * pixel : x * pixel;
    }

    //! Whether all pixels have a weight, hence lie inside.
    ALIGNSEG_HD bool isWhole() const
    {
        bool whole = true;
#pragma unroll
        for (int32_t tap = 0; tap < K * K; ++tap)
        {
            whole = whole && weight[tap / K][tap % K] != 0.0F;
        }
        return whole;
    }

    //! Loads V channels of the rows from `first` on, `channels` channels on.
    //!
    //! \tparam guarded Whether there may be pixels of weight 0.
    template <bool guarded, int V, int rows>
    ALIGNSEG_HD void load(Values<T, K, V, rows>& values, int32_t first, int32_t channels) const
    {
#pragma unroll
        for (int32_t y = 0; y < rows; ++y)
        {
            T const* const from = row[first + y] + channels * step;
#pragma unroll
            for (int32_t x = 0; x < K; ++x)
            {
                values.at[y][x] = {};
                if (!guarded || weight[first + y][x] != 0.0F)
                {
                    values.at[y][x] = *reinterpret_cast<Stored<T, V> const*>(from + column(x));
                }
            }
        }
    }

    template <int V, int rows>
    ALIGNSEG_HD void add(Values<T, K, V, rows> const& values, int32_t first, float (&sums)[V]) const
    {
#pragma unroll
        for (int32_t tap = 0; tap < rows * K; ++tap)
        {
#pragma unroll
            for (int32_t index = 0; index < V; ++index)
            {
                sums[index] += weight[first + tap / K][tap % K] * valueOf(values.at[tap / K][tap % K], index);
            }
        }
    }

    //! Loads and adds row by row: more rows at once would take more registers than they save time.
    template <int V>
    ALIGNSEG_HD void addRows(float (&sums)[V]) const
    {
#pragma unroll
        for (int32_t y = 0; y < K; ++y)
        {
            Values<T, K, V, 1> values;
            load<true>(values, y, 0);
            add(values, y, sums);
        }
    }

    //! One channel, pixel by pixel: slow, but in few registers if the window is in shared memory.
    ALIGNSEG_HD float sumOf(int32_t channel) const
    {
        float sum = 0.0F;
#pragma unroll 1
        for (int32_t tap = 0; tap < K * K; ++tap)
        {
            float const share = weight[tap / K][tap % K];
            if (share != 0.0F)
            {
                sum += share * toFloat(row[tap / K][channel * step + column(tap % K)]);
            }
        }
        return sum;
    }

    ALIGNSEG_HD void advance(int32_t channels)
    {
#pragma unroll
        for (int32_t y = 0; y < K; ++y)
        {
            row[y] += channels * step;
        }
    }

    //! Says again what a compiler cannot know of a window that comes from shared memory: that
    //! channels are neighbours, and that features are in global memory.
    ALIGNSEG_HD void setChannelsLast(int64_t pitch)
    {
        step = 1;
        pixel = pitch;
#if defined(__CUDA_ARCH__)
#pragma unroll
        for (int32_t y = 0; y < K; ++y)
        {
            __builtin_assume(__isGlobal(row[y]));
        }
#endif
    }
};

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

//! What AlignedAdd reads for one output pixel: K x K coarse pixels and 2 x 2 fine ones.
template <typename T, int K>
struct AlignedPixel
{
    static constexpr int32_t kUnroll = K == 2 ? 2 : 1; //!< 16 loads in flight, in 64 registers
    Window<T, K> high;
    Window<T, 2> low;

    template <int V>
    struct Loaded
    {
        Values<T, K, V, K> high;
        Values<T, 2, V, 2> low;
    };

    //! Of three taps one often has no weight, so that both ways would be taken.
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

    template <int V>
    ALIGNSEG_HD void addAll(float (&sums)[V]) const
    {
        high.template addRows<V>(sums);
        low.template addRows<V>(sums);
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

//! \param channel Elements before the first channel that is read.
template <typename T, int K>
ALIGNSEG_HD Window<T, K> windowOf(
    void const* feature, Layout const& layout, Place const& place, int64_t channel, Taps<K> const& rows,
    Taps<K> const& columns)
{
    T const* const first
        = static_cast<T const*>(feature) + (place.batch * layout.image + channel + columns.first * layout.pixel);
    Window<T, K> window;
    window.step = layout.channel;
    window.pixel = layout.pixel;
    window.gap = (columns.second - columns.first) * layout.pixel;
#pragma unroll
    for (int32_t y = 0; y < K; ++y)
    {
        window.row[y] = first + rows.index(y) * layout.row;
#pragma unroll
        for (int32_t x = 0; x < K; ++x)
        {
            window.weight[y][x] = rows.weight[y] * columns.weight[x];
        }
    }
    return window;
}

// ---- Writing: all channels of a thread. What it reads, a SampledPixel or an AlignedPixel, moves. ----

//! `count` planar channels of one pixel; their loads stand before the first sum.
template <int count, bool guarded, typename T, typename Pixel>
ALIGNSEG_HD void writePlanes(T* output, int64_t plane, Pixel const& pixel)
{
    typename Pixel::template Loaded<1> loaded[count];
#pragma unroll
    for (int32_t index = 0; index < count; ++index)
    {
        pixel.template load<guarded>(loaded[index], index);
    }
#pragma unroll
    for (int32_t index = 0; index < count; ++index)
    {
        float sums[1] = {};
        pixel.add(loaded[index], sums);
        output[index * plane] = fromFloat<T>(sums[0]);
    }
}

//! `count` planar channels of one pixel, however many.
template <bool guarded, typename T, typename Pixel>
ALIGNSEG_HD void writeAllPlanes(T* output, int64_t plane, int32_t count, Pixel pixel)
{
    constexpr int32_t kAtOnce = Pixel::kUnroll;
#pragma unroll 1
    for (; count >= kAtOnce; count -= kAtOnce)
    {
        writePlanes<kAtOnce, guarded>(output, plane, pixel);
        pixel.advance(kAtOnce);
        output += kAtOnce * plane;
    }
#pragma unroll 1
    for (; count > 0; --count)
    {
        writePlanes<1, guarded>(output, plane, pixel);
        pixel.advance(1);
        output += plane;
    }
}

//! Planar: `count` channels of one pixel. Away from edges loads need no guard, which saves a fifth
//! of all instructions (counted in what nvcc 13.0 makes for sm_90).
//!
//! \param output Where the first of them goes; the next is `plane` elements on.
template <typename T, typename Pixel>
ALIGNSEG_HD void writePlanar(T* output, int64_t plane, int32_t count, Pixel const& pixel)
{
    if (pixel.isWhole())
    {
        writeAllPlanes<false>(output, plane, count, pixel);
    }
    else
    {
        writeAllPlanes<true>(output, plane, count, pixel);
    }
}

//! Channels last: every kLastLanes-th vector of V channels of one pixel; zeros in the channels that
//! pad `channels` to `pitch`.
//!
//! \param output Where channel 0 of the pixel goes.
template <int V, typename T, typename Pixel>
ALIGNSEG_HD void writeChannelsLast(T* output, int32_t lane, int32_t channels, int32_t pitch, Pixel pixel)
{
    pixel.setChannelsLast(pitch);
    pixel.advance(lane * V);
#pragma unroll 1
    for (int32_t channel = lane * V; channel < pitch; channel += kLastLanes * V)
    {
        float sums[V] = {};
        pixel.template addAll<V>(sums);
        if (channel + V > channels)
        {
#pragma unroll
            for (int32_t index = 0; index < V; ++index)
            {
                sums[index] = channel + index < channels ? sums[index] : 0.0F;
            }
        }
        *reinterpret_cast<Stored<T, V>*>(output + channel) = storedOf(output, sums);
        pixel.advance(kLastLanes * V);
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
//! Whether all sizes are 0 to 2^30 - 1 and their product has at most 60 bits.
inline bool countable(int64_t batch, int64_t channels, int64_t height, int64_t width)
{
    int64_t count = 1;
    for (int64_t const size : {batch, channels, height, width})
    {
        if (size < 0 || size > 0x3FFFFFFF)
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
