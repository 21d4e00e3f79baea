// Which thread of OffsetGridSample and AlignedAdd computes which output pixel, in either layout.
// Python computes the same numbers when it launches kernels compiled by NVRTC.

#ifndef ALIGNSEG_SAMPLING_GRID_H
#define ALIGNSEG_SAMPLING_GRID_H

#include "convention.h"
#include "portable.h"

#ifndef __CUDACC_RTC__
#include <initializer_list>
#endif

namespace alignseg
{

//! Threads of a block, in every layout.
constexpr int32_t kSampleThreads = 256;

//! Planar: a block computes 32 columns of a strip of 8 rows; a thread computes one of these pixels in 16
//! channels, which share its coordinates. The tile is 2-D so that the same block reads most second rows
//! and finds them in its L1 cache. Compared on an H100, in an earlier form of these kernels,
//! OffsetGridSample took 84 us with 16 channels, 95 with 32 and 119 with 64; AlignedAdd 129, 126 and 155.
constexpr int32_t kPlanarTileWidth = 32;
constexpr int32_t kPlanarTileHeight = kSampleThreads / kPlanarTileWidth;
constexpr int32_t kPlanarChannels = 16;

//! Channels last: a block computes a tile of 8 x 4 output pixels. One thread computes the coordinates of
//! a pixel, and 8 threads share them. These read 16 bytes each, a line of 128 bytes together, then the
//! next line, until all channels are done.
constexpr int32_t kLastLanes = 8;
constexpr int32_t kLastTileWidth = 8;
constexpr int32_t kLastTileHeight = 4;
constexpr int32_t kLastPixels = kLastTileWidth * kLastTileHeight;
static_assert(kLastPixels * kLastLanes == kSampleThreads, "each pixel has its threads");

ALIGNSEG_HD int64_t ceilDivide(int64_t value, int64_t by)
{
    return (value + by - 1) / by;
}

//! How many blocks of kSampleThreads threads compute an output of (N, C, H, W); 0 if it is empty.
//!
//! \param channelPitch 0: planar. Any other value: channels last.
ALIGNSEG_HD int64_t sampleBlocks(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t channelPitch)
{
    if (channels <= 0)
    {
        return 0;
    }
    if (channelPitch == 0)
    {
        int64_t const strips = ceilDivide(height, kPlanarTileHeight);
        return batch * ceilDivide(channels, kPlanarChannels) * ceilDivide(strips * width, kPlanarTileWidth);
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

//! The place of a thread among planar tiles. The strips of an image are joined end to end, and tiles run
//! along them, so that a width of 2^k + 1 costs no tile of one column. Then come channels, then images:
//! blocks that run at the same time read few planes, which stay in the L2 cache.
ALIGNSEG_HD Place planarPlace(uint32_t block, uint32_t thread, int64_t channels, int64_t height, int64_t width)
{
    uint32_t const strips = tiles(height, kPlanarTileHeight);
    uint32_t const across = static_cast<uint32_t>(width);
    uint32_t const blocks = tiles(static_cast<int64_t>(strips) * width, kPlanarTileWidth); // of a plane
    uint32_t const chunks = tiles(channels, kPlanarChannels);
    uint32_t const plane = block / blocks;
    uint32_t const image = plane / chunks;
    uint32_t const column = (block - plane * blocks) * kPlanarTileWidth + thread % kPlanarTileWidth;
    uint32_t const strip = column / across;
    Place place;
    place.batch = static_cast<int32_t>(image);
    place.channel = static_cast<int32_t>((plane - image * chunks) * kPlanarChannels);
    place.y = static_cast<int32_t>(strip * kPlanarTileHeight + thread / kPlanarTileWidth);
    place.x = static_cast<int32_t>(column - strip * across);
    return place;
}

//! The first pixel of a tile with channels last. Tiles run along x, then y, then images.
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

//! How many channels a planar thread computes from `first` on.
ALIGNSEG_HD int32_t channelsHere(int64_t channels, int64_t first)
{
    int64_t const left = channels - first;
    return left < kPlanarChannels ? static_cast<int32_t>(left) : kPlanarChannels;
}

#ifndef __CUDACC_RTC__
//! Whether all sizes are 0 to 2^30 - 1, and pixel counts fit 34 bits for a plane and 60 for all of it.
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
    return height * width <= int64_t{1} << 34;
}

//! Whether `convention` is valid and `channelPitch` fits the channels.
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

#endif // ALIGNSEG_SAMPLING_GRID_H
