// Resizes and normalises images like alignseg_infer/pixels/preprocess.py; for host and device.
//
// Resizing equals OpenCV's INTER_LINEAR of 8-bit images, bit for bit: half-pixel centres, coefficients
// of 11 bits, and sums truncated as in its vector code. At a border one pixel is read twice. There
// OpenCV gives the first pixel of a column tap all the weight, which has the same result, since both
// weights add up to 2048. Its rows keep two weights, as here: the sum of two truncated halves may be
// one level below the whole.

#ifndef ALIGNSEG_PREPROCESS_MATH_H
#define ALIGNSEG_PREPROCESS_MATH_H

#include "preprocess_params.h"
#include "tile.h"

namespace alignseg
{

constexpr int32_t kPreprocessThreads = 256;
constexpr int32_t kPreprocessTileHeight = 8; // four pixels per thread
constexpr int32_t kPreprocessTileWidth = 128;

//! How many blocks of kPreprocessThreads threads cover N inputs of HxW.
ALIGNSEG_HD int64_t preprocessBlocks(int64_t batch, int64_t height, int64_t width)
{
    return batch * tilesAlong(height, kPreprocessTileHeight) * tilesAlong(width, kPreprocessTileWidth);
}

//! Where an output row or column reads, and the weights, in units of 1/2048.
struct ResizeTap
{
    int32_t first;
    int32_t second;
    int32_t firstWeight;
    int32_t secondWeight;
};

//! Input pixels per output pixel; inverted twice to round as OpenCV does.
ALIGNSEG_HD double resizeScale(int64_t input, int64_t output)
{
    return 1.0 / (static_cast<double>(output) / static_cast<double>(input));
}

//! Computes (index + 1/2) * scale - 1/2 and rounds after both operations.
ALIGNSEG_HD float resizePosition(int64_t index, double scale)
{
#ifdef __CUDA_ARCH__ // or a GPU compiler would fuse them
    return static_cast<float>(__dadd_rn(__dmul_rn(static_cast<double>(index) + 0.5, scale), -0.5));
#else
    return static_cast<float>((static_cast<double>(index) + 0.5) * scale - 0.5);
#endif
}

//! Clamps `index` to 0..size-1.
ALIGNSEG_HD int32_t clamped(int64_t index, int64_t size)
{
    return static_cast<int32_t>(index < 0 ? 0 : index < size ? index : size - 1);
}

//! The tap of output `index` along an axis of `size` input pixels.
ALIGNSEG_HD ResizeTap resizeTap(int64_t index, double scale, int64_t size)
{
    float const position = resizePosition(index, scale);
    float const whole = floorf(position);
    float const rest = position - whole;
    int64_t const first = static_cast<int64_t>(whole);
    ResizeTap tap;
    tap.first = clamped(first, size);
    tap.second = clamped(first + 1, size);
    tap.firstWeight = static_cast<int32_t>(rintf((1.0F - rest) * 2048.0F));
    tap.secondWeight = static_cast<int32_t>(rintf(rest * 2048.0F));
    return tap;
}

//! The weighted sum of two pixels of a row, times 2048.
ALIGNSEG_HD int32_t blendColumns(int32_t first, int32_t second, ResizeTap const& tap)
{
    return first * tap.firstWeight + second * tap.secondWeight;
}

//! The weighted sum of two such sums, as a grey level 0..255.
ALIGNSEG_HD int32_t blendRows(int32_t first, int32_t second, int32_t firstWeight, int32_t secondWeight)
{
    int32_t const upper = firstWeight * (first >> 4) >> 16;
    int32_t const lower = secondWeight * (second >> 4) >> 16;
    return (upper + lower + 2) >> 2;
}

} // namespace alignseg

#endif // ALIGNSEG_PREPROCESS_MATH_H
