// Cuts images into tiles, one per block, and rows of a tile into groups of four pixels, one per thread.
// The kernels before and after the network share this.

#ifndef ALIGNSEG_TILE_H
#define ALIGNSEG_TILE_H

#include "portable.h"

namespace alignseg
{

//! A rectangle of an output image.
struct Tile
{
    int64_t image;
    int64_t top;
    int64_t left;
    int32_t height;
    int32_t width;
};

//! Whether kernels accept `size` as a batch, a side or a number of classes.
ALIGNSEG_HD bool isSide(int64_t size)
{
    return size >= 0 && size <= 0x7FFFFFFF;
}

//! How many tiles of `tile` pixels cover `size`.
ALIGNSEG_HD int64_t tilesAlong(int64_t size, int32_t tile)
{
    return (size + tile - 1) / tile;
}

//! The tile of a block: columns of tiles first, then rows, then images. Sides and blocks are below 2^31,
//! so 32 bits are enough; a 64-bit division costs a GPU five times as much.
ALIGNSEG_HD Tile tileOf(uint32_t block, int64_t height, int64_t width, uint32_t tileHeight, uint32_t tileWidth)
{
    uint32_t const imageHeight = static_cast<uint32_t>(height);
    uint32_t const imageWidth = static_cast<uint32_t>(width);
    uint32_t const columns = (imageWidth + tileWidth - 1) / tileWidth;
    uint32_t const rows = (imageHeight + tileHeight - 1) / tileHeight;
    uint32_t const row = block / columns;
    uint32_t const image = row / rows;
    uint32_t const top = (row - image * rows) * tileHeight;
    uint32_t const left = (block - row * columns) * tileWidth;
    uint32_t const below = imageHeight - top;
    uint32_t const right = imageWidth - left;
    Tile tile;
    tile.image = image;
    tile.top = top;
    tile.left = left;
    tile.height = static_cast<int32_t>(below < tileHeight ? below : tileHeight);
    tile.width = static_cast<int32_t>(right < tileWidth ? right : tileWidth);
    return tile;
}

//! Values of `kCount` neighbours, aligned so that they move as whole words.
template <typename T, int32_t kCount, int32_t kAlignment>
struct alignas(kAlignment) Packed
{
    T values[kCount];
};

//! One value for each of four neighbouring pixels: moves in one step.
template <typename T>
using Quad = Packed<T, 4, 4 * sizeof(T)>;

//! Three bytes for each of four neighbouring pixels: moves as three words.
using ColorQuad = Packed<uint8_t, 12, 4>;

template <typename P>
ALIGNSEG_HD bool isAligned(void const* address)
{
    return reinterpret_cast<uint64_t>(address) % alignof(P) == 0;
}

//! Writes `packed` to global memory by one instruction, or three for a ColorQuad. On a GPU it names the
//! instruction: for sm_87, 89 and 90 nvcc 13.0 splits a plain assignment into one store per value.
template <typename T, int32_t kCount, int32_t kAlignment>
ALIGNSEG_HD void storeWords(Packed<T, kCount, kAlignment> const& packed, Packed<T, kCount, kAlignment>* to)
{
#if defined(__CUDA_ARCH__)
    constexpr int32_t kWords = kCount * static_cast<int32_t>(sizeof(T)) / 4;
    static_assert(kAlignment == 4 || kAlignment == 4 * kWords, "words move alone, or all at once");
    uint32_t word[kWords];
    memcpy(word, packed.values, sizeof word); // in registers: copies nothing
    if constexpr (kAlignment == 16)
    {
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                     :
                     : "l"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3])
                     : "memory");
    }
    else if constexpr (kAlignment == 8)
    {
        asm volatile("st.global.v2.b32 [%0], {%1, %2};" : : "l"(to), "r"(word[0]), "r"(word[1]) : "memory");
    }
    else
    {
        for (int32_t index = 0; index < kWords; ++index)
        {
            asm volatile("st.global.b32 [%0], %1;"
                         :
                         : "l"(reinterpret_cast<uint32_t*>(to) + index), "r"(word[index])
                         : "memory");
        }
    }
#else
    *to = packed;
#endif
}

//! Writes the first `count` values: as whole words if all are wanted and the address allows it.
template <typename T, int32_t kCount, int32_t kAlignment>
ALIGNSEG_HD void store(Packed<T, kCount, kAlignment> const& packed, T* to, int32_t count)
{
    using P = Packed<T, kCount, kAlignment>;
    if (count == kCount && isAligned<P>(to))
    {
        storeWords(packed, reinterpret_cast<P*>(to));
        return;
    }
    for (int32_t index = 0; index < kCount; ++index) // unrolled: values stay in registers
    {
        if (index < count)
        {
            to[index] = packed.values[index];
        }
    }
}

//! Reads the first `count` bytes: as words if all are wanted and the address allows it. The other
//! bytes are 0.
template <int32_t kCount, int32_t kAlignment>
ALIGNSEG_HD void load(Packed<uint8_t, kCount, kAlignment>& packed, uint8_t const* from, int32_t count)
{
    using P = Packed<uint8_t, kCount, kAlignment>;
    if (count == kCount && isAligned<P>(from))
    {
        packed = *reinterpret_cast<P const*>(from);
        return;
    }
    for (int32_t index = 0; index < kCount; ++index)
    {
        packed.values[index] = index < count ? from[index] : uint8_t{0};
    }
}

} // namespace alignseg

#endif // ALIGNSEG_TILE_H
