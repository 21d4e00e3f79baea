// UpsampleArgmax: a block labels a tile of the image.
//
// It finds the label at each corner of the logits that its tile touches, and keeps these logits in shared
// memory if they fit. It fills the cells whose four corners agree, and computes all classes only for
// pixels of the other cells, about a tenth of an image of things. Logits are read once (1.4 times with
// the tiles' edges, which are in the L2 cache), and labels are written once: 10 + 2 MB at
// 19x257x513 -> 1024x2048.

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
constexpr int32_t kMixed = -1; // instead of a cell's label: its corners disagree

//! The memory that a block's threads share. Pixels are numbered row * kTileWidth + column within the tile.
template <typename T, typename L, bool kConfidence>
struct Shared
{
    alignas(16) L labels[kTilePixels];
    alignas(4) uint8_t confidences[kConfidence ? kTilePixels : 4];
    T logits[kUpsampleArgmaxKept]; //!< logits of the region, class by class, if they fit
    Tap rows[kTileHeight];
    Tap columns[kTileWidth];
    int32_t corners[kUpsampleArgmaxCorners]; //!< label at each corner
    int32_t cells[kUpsampleArgmaxCorners];   //!< label of the cell to the lower right of each corner
    uint16_t mixed[kTilePixels];             //!< where runs begin in cells whose corners disagree
    int32_t mixedCount;
    uint8_t runs[kTileWidth];   //!< how many columns, starting at each, are computed together
    uint8_t starts[kTileWidth]; //!< columns where runs begin
    int32_t runCount;
};

//! The corners of the cells that a tile's pixels lie in.
struct Region
{
    int32_t top;
    int32_t left;
    int64_t height;
    int64_t width;

    //! Whether there is room for the labels of all corners.
    __device__ bool isLabelled() const
    {
        return height * width <= kUpsampleArgmaxCorners;
    }
};

//! The logits of a tile's region, in global or in shared memory.
template <typename T>
struct View
{
    T const* origin; //!< class 0 at the region's first corner
    int64_t pitch;   //!< elements from one row to the next
    int64_t plane;   //!< elements from one class to the next
};

//! Computes where the tile's columns and rows read, one per thread. Quads may reach beyond the last column;
//! those columns read like the last one.
template <typename S>
__device__ void findTaps(UpsampleArgmaxParams const& params, Tile const& tile, S& shared)
{
    static_assert(kThreads >= kTileWidth + kTileHeight, "each thread finds one tap");
    int32_t const index = threadIdx.x;
    int32_t const row = index - kTileWidth;
    if (index < kTileWidth)
    {
        int32_t const column = index < tile.width ? index : tile.width - 1;
        int64_t const place = tile.left + column;
        Tap const tap = upsampleTap(place, params.logitsWidth, params.width);
        int64_t const right = tile.left + tile.width;
        int32_t const run = runAt(place, tap, tile.left, right, params.logitsWidth, params.width);
        shared.columns[index] = tap;
        shared.runs[index] = static_cast<uint8_t>(index < tile.width ? run : 0);
        if (shared.runs[index] != 0)
        {
            shared.starts[atomicAdd(&shared.runCount, 1)] = static_cast<uint8_t>(index);
        }
    }
    else if (row < tile.height)
    {
        shared.rows[row] = upsampleTap(tile.top + row, params.logitsHeight, params.height);
    }
}

template <typename S>
__device__ Region regionOf(Tile const& tile, S const& shared)
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

//! Reports that a logit is not finite.
__device__ void reportFinite(UpsampleArgmaxParams const& params, bool finite)
{
    if (!finite && params.notFinite != nullptr)
    {
        atomicExch(params.notFinite, 1);
    }
}

//! Labels the region's corners, and stores their logits if `kept` says that they fit.
template <typename T, typename S>
__device__ void labelCorners(
    View<T> const& logits, UpsampleArgmaxParams const& params, Region const& region, bool kept, S& shared)
{
    int32_t const width = static_cast<int32_t>(region.width);
    int32_t const count = static_cast<int32_t>(region.height) * width;
    int32_t const classes = static_cast<int32_t>(params.classes);
    for (int32_t index = threadIdx.x; index < count; index += kThreads)
    {
        int32_t const row = index / width;
        T const* const corner = logits.origin + row * logits.pitch + (index - row * width);
        Best const best = bestAtCorner(corner, classes, logits.plane, kept ? shared.logits + index : nullptr, count);
        shared.corners[index] = best.label;
        reportFinite(params, best.finite);
    }
}

//! Finds the label that the four corners of each cell agree on. At the region's far edges a cell has two
//! corners or one: only pixels that lie on these corners read it.
template <typename S>
__device__ void labelCells(Region const& region, S& shared)
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

//! Labels those of four pixels whose cells have corners that agree.
//!
//! \return A bit for each of the other pixels that begins a run.
template <typename L, typename S>
__device__ int32_t fillQuad(int32_t row, int32_t left, Region const& region, S& shared)
{
    int32_t const cellRow = (shared.rows[row].first - region.top) * static_cast<int32_t>(region.width);
    Quad<L> labels;
    int32_t mixed = 0;
    for (int32_t index = 0; index < 4; ++index)
    {
        int32_t const label = shared.cells[cellRow + shared.columns[left + index].first - region.left];
        labels.values[index] = static_cast<L>(label);
        mixed |= label == kMixed && shared.runs[left + index] != 0 ? 1 << index : 0;
    }
    *reinterpret_cast<Quad<L>*>(shared.labels + row * kTileWidth + left) = labels;
    return mixed;
}

//! Appends to the list of runs to compute those pixels from `pixel` on whose bit is set.
template <typename S>
__device__ void listMixed(int32_t mixed, int32_t pixel, S& shared)
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
template <typename L, typename S>
__device__ void fillCells(Tile const& tile, Region const& region, S& shared)
{
    for (int32_t quad = threadIdx.x; quad < tile.height * kRowQuads; quad += kThreads)
    {
        int32_t const row = quad / kRowQuads;
        int32_t const left = quad % kRowQuads * 4;
        if (left < tile.width)
        {
            int32_t const mixed = fillQuad<L>(row, left, region, shared);
            if (mixed != 0)
            {
                listMixed(mixed, row * kTileWidth + left, shared);
            }
        }
    }
}

//! The cell of class 0 that a pixel of the tile lies in.
template <typename T, typename S>
__device__ Cell<T> cellOfPixel(View<T> const& logits, Region const& region, int32_t pixel, S const& shared)
{
    Tap const row = shared.rows[pixel / kTileWidth];
    Tap const column = shared.columns[pixel % kTileWidth];
    T const* const top = logits.origin + (row.first - region.top) * logits.pitch + (column.first - region.left);
    return {top, top + row.step() * logits.pitch, column.step(), row.weight(), column.weight()};
}

//! The weights of a run's columns; a shorter run repeats its first.
template <typename S>
__device__ void weightsOf(int32_t column, int32_t count, S const& shared, float (&weights)[kUpsampleArgmaxRun])
{
    for (int32_t next = 0; next < kUpsampleArgmaxRun; ++next)
    {
        weights[next] = shared.columns[next < count ? column + next : column].weight();
    }
}

//! Labels the listed runs by computing every class.
template <typename T, typename L, typename S>
__device__ void labelRuns(View<T> const& logits, int32_t classes, Region const& region, S& shared)
{
    for (int32_t index = threadIdx.x; index < shared.mixedCount; index += kThreads)
    {
        int32_t const pixel = shared.mixed[index];
        int32_t const column = pixel % kTileWidth;
        int32_t const count = shared.runs[column];
        float weights[kUpsampleArgmaxRun];
        weightsOf(column, count, shared, weights);
        int32_t labels[kUpsampleArgmaxRun];
        labelRun(cellOfPixel(logits, region, pixel, shared), classes, logits.plane, weights, labels);
        for (int32_t next = 0; next < kUpsampleArgmaxRun; ++next)
        {
            if (next < count)
            {
                shared.labels[pixel + next] = static_cast<L>(labels[next]);
            }
        }
    }
}

//! Labels all pixels by computing every class.
template <typename T, typename L, typename S>
__device__ void labelPixels(
    View<T> const& logits, UpsampleArgmaxParams const& params, Tile const& tile, Region const& region, S& shared)
{
    int32_t const classes = static_cast<int32_t>(params.classes);
    for (int32_t index = threadIdx.x; index < tile.height * tile.width; index += kThreads)
    {
        int32_t const row = index / tile.width;
        int32_t const pixel = row * (kTileWidth - tile.width) + index;
        Best const best = bestInside(cellOfPixel(logits, region, pixel, shared), classes, logits.plane);
        shared.labels[pixel] = static_cast<L>(best.label);
        reportFinite(params, best.finite);
    }
}

//! Computes the confidences of all pixels, run by run.
template <typename T, typename S>
__device__ void findConfidences(
    View<T> const& logits, int32_t classes, Tile const& tile, Region const& region, S& shared)
{
    int32_t const runs = shared.runCount;
    for (int32_t index = threadIdx.x; index < tile.height * runs; index += kThreads)
    {
        int32_t const row = index / runs;
        int32_t const column = shared.starts[index - row * runs];
        int32_t const pixel = row * kTileWidth + column;
        int32_t const count = shared.runs[column];
        float weights[kUpsampleArgmaxRun];
        weightsOf(column, count, shared, weights);
        int32_t labels[kUpsampleArgmaxRun];
        for (int32_t next = 0; next < kUpsampleArgmaxRun; ++next)
        {
            labels[next] = static_cast<int32_t>(shared.labels[next < count ? pixel + next : pixel]);
        }
        uint8_t levels[kUpsampleArgmaxRun];
        confidenceOfRun(cellOfPixel(logits, region, pixel, shared), classes, logits.plane, weights, labels, levels);
        for (int32_t next = 0; next < kUpsampleArgmaxRun; ++next)
        {
            if (next < count)
            {
                shared.confidences[pixel + next] = levels[next];
            }
        }
    }
}

template <typename L>
__device__ ColorQuad colorsOf(Quad<L> const& labels, int32_t count, uint8_t const* palette)
{
    ColorQuad colors;
    for (int32_t index = 0; index < 4; ++index)
    {
        int64_t const label = index < count ? labels.values[index] : 0; // the other values are undefined
        for (int32_t channel = 0; channel < 3; ++channel)
        {
            colors.values[3 * index + channel] = palette[3 * label + channel];
        }
    }
    return colors;
}

//! Writes labels, and confidences and colors if wanted.
template <typename L, bool kConfidence, typename S>
__device__ void writeTile(UpsampleArgmaxParams const& params, Tile const& tile, S const& shared)
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
            auto const confidences = *reinterpret_cast<Quad<uint8_t> const*>(shared.confidences + pixel);
            store(confidences, params.confidence + place, count);
        }
    }
}

//! Computes the labels of all pixels, and their confidences, in shared memory.
template <typename T, typename L, bool kConfidence, typename S>
__device__ void computeTile(View<T> const& logits, UpsampleArgmaxParams const& params, Tile const& tile,
    Region const& region, S& shared)
{
    int32_t const classes = static_cast<int32_t>(params.classes);
    if (region.isLabelled()) // the same for all threads, so they may synchronise inside
    {
        labelRuns<T, L>(logits, classes, region, shared);
    }
    else
    {
        labelPixels<T, L>(logits, params, tile, region, shared);
    }
    __syncthreads();
    if constexpr (kConfidence)
    {
        findConfidences(logits, classes, tile, region, shared);
        __syncthreads();
    }
}

//! What one block does. Confidence needs every class of every pixel, and registers for that; if it is not
//! wanted, a kernel without it runs.
template <typename T, typename L, bool kConfidence>
__device__ void labelTile(UpsampleArgmaxParams const& params)
{
    __shared__ Shared<T, L, kConfidence> shared;
    Tile const tile = tileOf(blockIdx.x, params.height, params.width, kTileHeight, kTileWidth);
    if (threadIdx.x == 0)
    {
        shared.mixedCount = 0;
        shared.runCount = 0;
    }
    __syncthreads();
    findTaps(params, tile, shared);
    __syncthreads();
    Region const region = regionOf(tile, shared);
    int64_t const plane = params.logitsHeight * params.logitsWidth;
    T const* const image = static_cast<T const*>(params.logits) + tile.image * params.classes * plane;
    View<T> const logits{image + region.top * params.logitsWidth + region.left, params.logitsWidth, plane};
    bool const kept = region.isLabelled() && region.height * region.width * params.classes <= kUpsampleArgmaxKept;
    if (region.isLabelled())
    {
        labelCorners(logits, params, region, kept, shared);
        __syncthreads();
        labelCells(region, shared);
        __syncthreads();
        fillCells<L>(tile, region, shared);
        __syncthreads();
    }
    if (kept)
    {
        View<T> const near{shared.logits, region.width, region.height * region.width};
        computeTile<T, L, kConfidence>(near, params, tile, region, shared);
    }
    else
    {
        computeTile<T, L, kConfidence>(logits, params, tile, region, shared);
    }
    writeTile<L, kConfidence>(params, tile, shared);
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

//! Whether there is something to read and somewhere to write, and a launch can take all blocks.
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
