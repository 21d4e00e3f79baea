// Reads a feature around one output pixel and blends what it read.

#ifndef ALIGNSEG_SAMPLING_WINDOW_H
#define ALIGNSEG_SAMPLING_WINDOW_H

#include "sampling_coordinates.h"
#include "sampling_grid.h"
#include "tile.h"

namespace alignseg
{

//! V neighbouring stored values, moved by one instruction: 16 bytes, or one value.
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

// How features are read. Nothing writes them meanwhile, so loads may be reordered with stores. If the GPU
// supports it (8.0 and newer), a load asks the L2 cache for 256 bytes at once; neighbouring threads or
// blocks read the rest. On an H100, AlignedAdd takes 65 us with this and 71 without, OffsetGridSample 53
// and 57 (channels last).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
#define ALIGNSEG_READ "ld.global.nc"
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define ALIGNSEG_READ "ld.global.nc.L2::128B"
#else
#define ALIGNSEG_READ "ld.global.nc.L2::256B"
#endif

template <typename T, int V>
ALIGNSEG_HD Stored<T, V> readStored(T const* from)
{
#if defined(__CUDA_ARCH__)
    Stored<T, V> stored;
    if constexpr (V > 1)
    {
        asm(ALIGNSEG_READ ".v4.b32 {%0, %1, %2, %3}, [%4];"
            : "=r"(stored.word[0]), "=r"(stored.word[1]), "=r"(stored.word[2]), "=r"(stored.word[3])
            : "l"(from));
    }
    else if constexpr (sizeof(T) == 2)
    {
        asm(ALIGNSEG_READ ".b16 %0, [%1];" : "=h"(stored.value.bits) : "l"(from));
    }
    else
    {
        asm(ALIGNSEG_READ ".f32 %0, [%1];" : "=f"(stored.value) : "l"(from));
    }
    return stored;
#else
    return *reinterpret_cast<Stored<T, V> const*>(from);
#endif
}

template <typename T, int V>
ALIGNSEG_HD void writeStored(T* to, Stored<T, V> const& stored)
{
    if constexpr (V > 1)
    {
        Quad<uint32_t> const words{{stored.word[0], stored.word[1], stored.word[2], stored.word[3]}};
        storeWords(words, reinterpret_cast<Quad<uint32_t>*>(to));
    }
    else
    {
        *to = stored.value;
    }
}

//! V channels of the pixels in one or several rows of a window.
template <typename T, int K, int V, int rows>
struct Values
{
    Stored<T, V> at[rows][K];
};

//! A feature as one output pixel sees it: K x K pixels and their weights.
//!
//! It holds pointers that advance, not indices: compilers then add one number per row and channel instead
//! of computing each address again (seen in the code that nvcc 13.0 generates for sm_90).
template <typename T, int K>
struct Window
{
    T const* row[K];    //!< The first pixel of each row
    int64_t step;       //!< Elements from one channel to the next
    int64_t pixel;      //!< Elements from one column to the next
    int64_t gap;        //!< Elements from the first of four columns to the third
    float weight[K][K]; //!< Pixels of weight 0 may lie outside and are not read

    ALIGNSEG_HD int64_t column(int32_t x) const
    {
        return K == 4 && x >= 2 ? gap + (x - 2) * pixel : x * pixel;
    }

    //! Whether no pixel has weight 0, so that all lie inside.
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

    //! Loads V channels of the rows from `first` on, starting `channels` channels further on.
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
                    values.at[y][x] = readStored<T, V>(from + column(x));
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

    //! Loads and adds row by row: more rows at once would cost registers and gain too little time.
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

    //! Computes one channel, pixel by pixel: slow, but with few registers if the window is in shared
    //! memory.
    ALIGNSEG_HD float sumOf(int32_t channel) const
    {
        float sum = 0.0F;
#pragma unroll 1
        for (int32_t tap = 0; tap < K * K; ++tap)
        {
            float const share = weight[tap / K][tap % K];
            if (share != 0.0F)
            {
                T const* const from = row[tap / K] + channel * step + column(tap % K);
                sum += share * toFloat(readStored<T, 1>(from).value);
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

    //! Repeats what a compiler cannot know about a window that comes from shared memory: that channels
    //! are neighbours.
    ALIGNSEG_HD void setChannelsLast(int64_t pitch)
    {
        step = 1;
        pixel = pitch;
    }
};

//! The strides of a feature (N, C, h, w), planar or channels last.
struct Layout
{
    int64_t image;   //!< Elements from one image to the next
    int64_t channel; //!< Elements from one channel to the next
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

//! Elements before a place, including its channel.
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

//! Whether vectors of 16 bytes can be read and written: channel pitch and pointers are multiples of it.
template <typename T>
ALIGNSEG_HD bool vectorised(int64_t channelPitch, uint64_t addresses)
{
    return ((addresses | static_cast<uint64_t>(channelPitch) * sizeof(T)) & 15U) == 0;
}

ALIGNSEG_HD uint64_t addressOf(void const* pointer)
{
    return reinterpret_cast<uint64_t>(pointer);
}

} // namespace alignseg

#endif // ALIGNSEG_SAMPLING_WINDOW_H
