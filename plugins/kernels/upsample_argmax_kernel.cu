// UpsampleArgmax: a block labels a tile of the image.
//
// It finds the label at every corner of the logits that its tile touches, fills the cells whose
// four corners agree, and computes all classes for pixels of the other cells only, about a tenth
// of an image of things. Logits are read once (1.3 times with the tiles' edges), labels written
// once: 10 + 2 MB at 19x257x513 -> 1024x2048.

#include "upsample_argmax_math.h"

#ifndef __CUDACC_RTC__
#include "upsample_argmax_kernel.h"
#endif

namespace alignseg
{
namespace
{

constexpr int32_t kThreads = kUpsampleArgmaxThreads;
constexpr int32_t kTileWidth = kUpsampleArgmaxTileWidth;
constexpr int32_t kTileHeight = kUpsampleArgmaxTileHeight;
constexpr int32_t kTilePixels = kTileHeight * kTileWidth;
constexpr int32_t kRowQuads = kTileWidth / 4;
constexpr int32_t kMixed = -1; // in place of a cell's label: its corners disagree

//! What a block's threads share. Pixels are numbered row * kTileWidth + column within the tile.
template <typename L>
struct Shared
{
    alignas(16) L labels[kTilePixels];
    Tap rows[kTileHeight];
    Tap columns[kTileWidth];
    int32_t corners[kUpsampleArgmaxCorners]; //!< label at each corner
    int32_t cells[kUpsampleArgmaxCorners];   //!< label of the cell right below each corner
    uint16_t mixed[kTilePixels];             //!< pixels of cells whose corners disagree
    int32_t mixedCount;
};

//! The corners that a tile's pixels lie between.
struct Region
{
    int32_t top;
    int32_t left;
    int64_t height;
    int64_t width;

    __device__ bool isKept() const
    {
        return height * width <= kUpsampleArgmaxCorners;
    }
};

//! Where the tile's columns and rows read, one per thread. Quads may reach beyond the last column,
//! and read as that one does.
template <typename L>
__device__ void findTaps(UpsampleArgmaxParams const& params, Tile const& tile, Shared<L>& shared)
{
    static_assert(kThreads >= kTileWidth + kTileHeight, "each thread finds one tap");
    int32_t const index = threadIdx.x;
    int32_t const row = index - kTileWidth;
    if (index < kTileWidth)
    {
        int32_t const column = index < tile.width ? index : tile.width - 1;
        shared.columns[index] = upsampleTap(tile.left + column, params.logitsWidth, params.width);
    }
    else if (row < tile.height)
    {
        shared.rows[row] = upsampleTap(tile.top + row, params.logitsHeight, params.height);
    }
    if (index == 0)
    {
        shared.mixedCount = 0;
    }
}

template <typename L>
__device__ Region regionOf(Tile const& tile, Shared<L> const& shared)
{
    Tap const lastRow = shared.rows[tile.height - 1];
    Tap const lastColumn = shared.columns[tile.width - 1];
    Region region;
    region.top = shared.rows[0].first;
    region.left = shared.columns[0].first;
    region.height = static_cast<int64_t>(lastRow.first) + lastRow.step() + 1 - region.top;
    region.width = static_cast<int64_t>(lastColumn.first) + lastColumn.step() + 1 - region.left;
    return region;
}

//! Says that some logit is not finite.
__device__ void reportFinite(UpsampleArgmaxParams const& params, bool finite)
{
    if (!finite && params.notFinite != nullptr)
    {
        atomicExch(params.notFinite, 1);
    }
}

template <typename T, typename L>
__device__ void labelCorners(
    T const* logits, UpsampleArgmaxParams const& params, Region const& region, Shared<L>& shared)
{
    int32_t const width = static_cast<int32_t>(region.width);
    int32_t const count = static_cast<int32_t>(region.height) * width;
    int32_t const classes = static_cast<int32_t>(params.classes);
    for (int32_t index = threadIdx.x; index < count; index += kThreads)
    {
        int32_t const row = index / width;
        int64_t const y = region.top + row;
        int64_t const x = region.left + (index - row * width);
        T const* const corner = logits + y * params.logitsWidth + x;
        Best const best = bestAtCorner(corner, classes, params.logitsHeight * params.logitsWidth);
        shared.corners[index] = best.label;
        reportFinite(params, best.finite);
    }
}

//! The label that the four corners of each cell agree on. At the region's far edges a cell has
//! two corners or one: only pixels that lie on these read it.
template <typename L>
__device__ void labelCells(Region const& region, Shared<L>& shared)
{
    int32_t const width = static_cast<int32_t>(region.width);
    int32_t const count = static_cast<int32_t>(region.height) * width;
    for (int32_t index = threadIdx.x; index < count; index += kThreads)
    {
        int32_t const right = (index + 1) % width == 0 ? 0 : 1;
        int32_t const down = index + width < count ? width : 0;
        int32_t const label = shared.corners[index];
        bool const agree = shared.corners[index + right] == label && shared.corners[index + down] == label
            && shared.corners[index + down + right] == label;
        shared.cells[index] = agree ? label : kMixed;
    }
}

//! Labels four pixels where the corners of their cells agree.
//!
//! \return A bit for each of the others.
template <typename L>
__device__ int32_t fillQuad(int32_t row, int32_t left, Region const& region, Shared<L>& shared)
{
    int32_t const cellRow = (shared.rows[row].first - region.top) * static_cast<int32_t>(region.width);
    Quad<L> labels;
    int32_t mixed = 0;
    for (int32_t index = 0; index < 4; ++index)
    {
        int32_t const label = shared.cells[cellRow + shared.columns[left + index].first - region.left];
        labels.values[index] = static_cast<L>(label);
        mixed |= label == kMixed ? 1 << index : 0;
    }
    *reinterpret_cast<Quad<L>*>(shared.labels + row * kTileWidth + left) = labels;
    return mixed;
}

//! Appends pixels after `pixel` whose bit is set to the list of those to compute.
template <typename L>
__device__ void listMixed(int32_t mixed, int32_t pixel, Shared<L>& shared)
{
    int32_t const count = (mixed & 1) + (mixed >> 1 & 1) + (mixed >> 2 & 1) + (mixed >> 3 & 1);
    int32_t place = atomicAdd(&shared.mixedCount, count);
    for (int32_t index = 0; index < 4; ++index)
    {
        if ((mixed >> index & 1) != 0)
        {
            shared.mixed[place++] = static_cast<uint16_t>(pixel + index);
        }
    }
}

//! Labels the pixels of cells whose corners agree; lists the others.
template <typename L>
__device__ void fillCells(Tile const& tile, Region const& region, Shared<L>& shared)
{
    for (int32_t quad = threadIdx.x; quad < tile.height * kRowQuads; quad += kThreads)
    {
        int32_t const row = quad / kRowQuads;
        int32_t const left = quad % kRowQuads * 4;
        int32_t const wanted = tile.width - left;
        if (wanted <= 0)
        {
            continue;
        }
        int32_t const mixed = fillQuad(row, left, region, shared) & (wanted < 4 ? (1 << wanted) - 1 : 15);
        if (mixed != 0)
        {
            listMixed(mixed, row * kTileWidth + left, shared);
        }
    }
}

template <typename T, typename L>
__device__ Cell<T> cellOfPixel(
    T const* logits, UpsampleArgmaxParams const& params, int32_t pixel, Shared<L> const& shared)
{
    Tap const row = shared.rows[pixel / kTileWidth];
    Tap const column = shared.columns[pixel % kTileWidth];
    return cellOf(logits, params.logitsWidth, row, column);
}

//! Labels the listed pixels, or all where none is filled yet, by computing every class.
template <typename T, typename L>
__device__ void labelPixels(
    T const* logits, UpsampleArgmaxParams const& params, Tile const& tile, bool listed, Shared<L>& shared)
{
    int32_t const count = listed ? shared.mixedCount : tile.height * tile.width;
    int32_t const classes = static_cast<int32_t>(params.classes);
    int64_t const plane = params.logitsHeight * params.logitsWidth;
    for (int32_t index = threadIdx.x; index < count; index += kThreads)
    {
        int32_t const row = index / tile.width;
        int32_t const pixel = listed ? shared.mixed[index] : row * (kTileWidth - tile.width) + index;
        Cell<T> const cell = cellOfPixel(logits, params, pixel, shared);
        Best const best = bestInside(cell, classes, plane);
        shared.labels[pixel] = static_cast<L>(best.label);
        reportFinite(params, best.finite);
    }
}

template <typename L>
__device__ ColorQuad colorsOf(Quad<L> const& labels, int32_t count, uint8_t const* palette)
{
    ColorQuad colors;
    for (int32_t index = 0; index < 4; ++index)
    {
        int64_t const label = index < count ? labels.values[index] : 0; // others hold anything
        for (int32_t channel = 0; channel < 3; ++channel)
        {
            colors.values[3 * index + channel] = palette[3 * label + channel];
        }
    }
    return colors;
}

template <typename T, typename L>
__device__ Quad<uint8_t> confidencesOf(T const* logits, UpsampleArgmaxParams const& params, int32_t pixel,
    Quad<L> const& labels, int32_t count, Shared<L> const& shared)
{
    int32_t const classes = static_cast<int32_t>(params.classes);
    int64_t const plane = params.logitsHeight * params.logitsWidth;
    Quad<uint8_t> confidences;
    for (int32_t index = 0; index < 4; ++index)
    {
        confidences.values[index] = 0;
        if (index < count)
        {
            Cell<T> const cell = cellOfPixel(logits, params, pixel + index, shared);
            int32_t const label = static_cast<int32_t>(labels.values[index]);
            confidences.values[index] = confidenceInside(cell, label, classes, plane);
        }
    }
    return confidences;
}

//! Writes labels, and what is asked for besides.
template <typename T, typename L, bool kConfidence>
__device__ void writeTile(T const* logits, UpsampleArgmaxParams const& params, Tile const& tile, Shared<L> const& shared)
{
    for (int32_t quad = threadIdx.x; quad < tile.height * kRowQuads; quad += kThreads)
    {
        int32_t const row = quad / kRowQuads;
        int32_t const left = quad % kRowQuads * 4;
        int32_t const count = tile.width - left < 4 ? tile.width - left : 4;
        if (count <= 0)
        {
            continue;
        }
        int32_t const pixel = row * kTileWidth + left;
        int64_t const place = (tile.image * params.height + tile.top + row) * params.width + tile.left + left;
        Quad<L> const labels = *reinterpret_cast<Quad<L> const*>(shared.labels + pixel);
        store(labels, static_cast<L*>(params.labels) + place, count);
        if (params.color != nullptr)
        {
            store(colorsOf(labels, count, params.palette), params.color + 3 * place, 3 * count);
        }
        if constexpr (kConfidence)
        {
            Quad<uint8_t> const confidences = confidencesOf(logits, params, pixel, labels, count, shared);
            store(confidences, params.confidence + place, count);
        }
    }
}

//! What one block does. Confidence needs every class of every pixel, and registers for it: those
//! who do not ask for it get a kernel without.
template <typename T, typename L, bool kConfidence>
__device__ void labelTile(UpsampleArgmaxParams const& params)
{
    __shared__ Shared<L> shared;
    Tile const tile = tileOf(blockIdx.x, params.height, params.width, kTileHeight, kTileWidth);
    int64_t const size = params.classes * params.logitsHeight * params.logitsWidth;
    T const* const logits = static_cast<T const*>(params.logits) + tile.image * size;
    findTaps(params, tile, shared);
    __syncthreads();
    Region const region = regionOf(tile, shared);
    bool const kept = region.isKept(); // the same for all threads: they may wait inside
    if (kept)
    {
        labelCorners(logits, params, region, shared);
        __syncthreads();
        labelCells(region, shared);
        __syncthreads();
        fillCells(tile, region, shared);
        __syncthreads();
    }
    labelPixels(logits, params, tile, kept, shared);
    __syncthreads();
    writeTile<T, L, kConfidence>(logits, params, tile, shared);
}

#ifndef __CUDACC_RTC__
template <typename T, typename L, bool kConfidence>
__global__ void upsampleArgmax(UpsampleArgmaxParams params)
{
    labelTile<T, L, kConfidence>(params);
}

bool isSound(UpsampleArgmaxParams const& params, Label label)
{
    int64_t const sizes[] = {params.batch, params.classes, params.logitsHeight, params.logitsWidth, params.height,
        params.width};
    for (int64_t const size : sizes)
    {
        if (!isSide(size))
        {
            return false;
        }
    }
    int64_t const limit = label == Label::kUint8 ? 0x100 : label == Label::kUint16 ? 0x10000 : 0x7FFFFFFF;
    return params.classes <= limit;
}

bool isEmpty(UpsampleArgmaxParams const& params)
{
    return params.batch == 0 || params.height == 0 || params.width == 0;
}

//! Something to read, somewhere to write it, and not more blocks than a launch takes.
bool isComplete(UpsampleArgmaxParams const& params)
{
    bool const hasLogits = params.classes > 0 && params.logitsHeight > 0 && params.logitsWidth > 0;
    bool const hasColors = params.color == nullptr || params.palette != nullptr;
    int64_t const blocks = upsampleArgmaxBlocks(1, params.height, params.width);
    return hasLogits && hasColors && params.logits != nullptr && params.labels != nullptr
        && blocks <= 0x7FFFFFFF / params.batch;
}

template <typename T, typename L>
cudaError_t launchLabel(UpsampleArgmaxParams const& params, cudaStream_t stream)
{
    int64_t const blocks = upsampleArgmaxBlocks(params.batch, params.height, params.width);
    auto const kernel = params.confidence == nullptr ? upsampleArgmax<T, L, false> : upsampleArgmax<T, L, true>;
    return launch<Threads::kSynchronised>(kernel, params, blocks, kThreads, stream);
}

template <typename T>
cudaError_t launchLogits(UpsampleArgmaxParams const& params, Label label, cudaStream_t stream)
{
    switch (label)
    {
    case Label::kUint8: return launchLabel<T, uint8_t>(params, stream);
    case Label::kUint16: return launchLabel<T, uint16_t>(params, stream);
    case Label::kInt32: return launchLabel<T, int32_t>(params, stream);
    }
    return cudaErrorInvalidValue;
}
#endif

} // namespace

#ifndef __CUDACC_RTC__
cudaError_t launchUpsampleArgmax(UpsampleArgmaxParams const& params, Scalar logits, Label label, cudaStream_t stream)
{
    if (!isSound(params, label))
    {
        return cudaErrorInvalidValue;
    }
    if (isEmpty(params))
    {
        return cudaSuccess;
    }
    if (!isComplete(params))
    {
        return cudaErrorInvalidValue;
    }
    switch (logits)
    {
    case Scalar::kFloat: return launchLogits<float>(params, label, stream);
    case Scalar::kHalf: return launchLogits<Half>(params, label, stream);
    }
    return cudaErrorInvalidValue;
}
#endif

} // namespace alignseg

#if defined(__CUDACC_RTC__) || defined(ALIGNSEG_ENTRIES)
#define ALIGNSEG_ENTRY(name, T, L, confidence)                                                                         \
    extern "C" __global__ void name(alignseg::UpsampleArgmaxParams params)                                             \
    {                                                                                                                  \
        alignseg::labelTile<T, L, confidence>(params);                                                                 \
    }

// Labels and color; the pointer to confidence is ignored.
ALIGNSEG_ENTRY(upsample_argmax_float_uint8, float, uint8_t, false)
ALIGNSEG_ENTRY(upsample_argmax_float_uint16, float, uint16_t, false)
ALIGNSEG_ENTRY(upsample_argmax_float_int32, float, int32_t, false)
ALIGNSEG_ENTRY(upsample_argmax_half_uint8, alignseg::Half, uint8_t, false)
ALIGNSEG_ENTRY(upsample_argmax_half_uint16, alignseg::Half, uint16_t, false)
ALIGNSEG_ENTRY(upsample_argmax_half_int32, alignseg::Half, int32_t, false)

// Confidence as well; its pointer must not be null.
ALIGNSEG_ENTRY(upsample_argmax_confidence_float_uint8, float, uint8_t, true)
ALIGNSEG_ENTRY(upsample_argmax_confidence_float_uint16, float, uint16_t, true)
ALIGNSEG_ENTRY(upsample_argmax_confidence_float_int32, float, int32_t, true)
ALIGNSEG_ENTRY(upsample_argmax_confidence_half_uint8, alignseg::Half, uint8_t, true)
ALIGNSEG_ENTRY(upsample_argmax_confidence_half_uint16, alignseg::Half, uint16_t, true)
ALIGNSEG_ENTRY(upsample_argmax_confidence_half_int32, alignseg::Half, int32_t, true)
#endif
