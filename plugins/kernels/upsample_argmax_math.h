// Bilinear upsampling with aligned corners, and its argmax over classes; for host and device.
//
// Output row i reads input row i*(h-1)/(H-1), as in alignseg_infer/pixels/postprocess.py. Logits are
// interpolated as u*a + v*b with u, v >= 0. However this is rounded, it never falls when a or b rises.
// Therefore a class that is highest at all four corners of a cell is highest everywhere inside it, in
// float as in exact arithmetic, and the rest of the cell needs no logits.
//
// Logits may be infinite or NaN. The label is the lowest of the classes whose interpolated logit is
// highest. NaN never wins, and logits of weight 0 are not read. If no class is above minus infinity, the
// label is 0.

#ifndef ALIGNSEG_UPSAMPLE_ARGMAX_MATH_H
#define ALIGNSEG_UPSAMPLE_ARGMAX_MATH_H

#include "tile.h"
#include "upsample_argmax_params.h"

namespace alignseg
{

// At 257x513 -> 1024x2048 a tile reads 10x18 corners: at most one per thread.
constexpr int32_t kUpsampleArgmaxThreads = 256;
constexpr int32_t kUpsampleArgmaxTileHeight = 32;
constexpr int32_t kUpsampleArgmaxTileWidth = 64;

//! How many corners of a tile can be labelled; if it has more, as when an image shrinks, none are.
constexpr int32_t kUpsampleArgmaxCorners = 640;

//! How many logits of a tile fit in shared memory: 19 classes of 10x18 corners. If there are more, as in
//! networks with 150 classes, they are read from global memory again.
constexpr int32_t kUpsampleArgmaxKept = 3500;

//! How many logits of a corner a thread reads before it compares any: one takes memory as long as all.
//! The 19 classes of Cityscapes take two rounds.
constexpr int32_t kUpsampleArgmaxAtOnce = 10;

//! How many blocks of kUpsampleArgmaxThreads threads cover N images of HxW.
ALIGNSEG_HD int64_t upsampleArgmaxBlocks(int64_t batch, int64_t height, int64_t width)
{
    return batch * tilesAlong(height, kUpsampleArgmaxTileHeight) * tilesAlong(width, kUpsampleArgmaxTileWidth);
}

//! Where an output row or column reads: between `first` and `first + step`.
struct Tap
{
    int32_t first;
    float rest; //!< 0 on an input row or column itself, which may be the last

    ALIGNSEG_HD int32_t step() const
    {
        return rest > 0.0F ? 1 : 0;
    }

    //! Weight of the second. With a step of 0, first and second are the same: then each weighs one half,
    //! which is right for infinity too, while 0 * infinity would give NaN.
    ALIGNSEG_HD float weight() const
    {
        return rest > 0.0F ? rest : 0.5F;
    }
};

//! The tap of output `index` of `output` along an axis of `input`.
ALIGNSEG_HD Tap upsampleTap(int64_t index, int64_t input, int64_t output)
{
    Position const position = positionOf(index, input - 1, output > 1 ? output - 1 : 1);
    if (position.rest >= 1.0F) // 1 - 1/2^25 and above round to 1
    {
        return {static_cast<int32_t>(position.whole + 1), 0.0F};
    }
    return {static_cast<int32_t>(position.whole), position.rest};
}

//! How many columns are computed together, since the upper and lower logits of a cell serve them all.
constexpr int32_t kUpsampleArgmaxRun = 4;

//! How many columns of [left, right) from `index` on are computed together, because they lie inside one
//! cell. 0: `index` belongs to the run of an earlier column. `tap` is the tap of `index`.
ALIGNSEG_HD int32_t runAt(int64_t index, Tap tap, int64_t left, int64_t right, int64_t input, int64_t output)
{
    if (tap.step() == 0 || output > 1 << 24) // beyond that, the rest may round to the next cell
    {
        return 1;
    }
    Position const before = positionOf(tap.first, output - 1, input - 1);
    Position const after = positionOf(static_cast<int64_t>(tap.first) + 1, output - 1, input - 1);
    int64_t const begin = before.whole + 1 > left ? before.whole + 1 : left;
    int64_t const cellEnd = after.whole + (after.rest > 0.0F ? 1 : 0);
    int64_t const end = cellEnd < right ? cellEnd : right;
    if ((index - begin) % kUpsampleArgmaxRun != 0)
    {
        return 0;
    }
    return static_cast<int32_t>(end - index < kUpsampleArgmaxRun ? end - index : kUpsampleArgmaxRun);
}

//! Computes (1 - weight)*first + weight*second, rounded the same everywhere: two results with equal
//! arguments must differ by 0, however large the arguments are.
ALIGNSEG_HD float between(float first, float second, float weight)
{
    return fmaf(weight, second, (1.0F - weight) * first);
}

//! The four logits of a class around an output pixel, and where the pixel lies between them.
template <typename T>
struct Cell
{
    T const* top;    //!< the left one of the upper two
    T const* bottom; //!< the left one of the lower two
    int32_t right;   //!< elements to the right one
    float y;         //!< weight of the lower two
    float x;         //!< weight of the right two

    //! The same cell, `elements` further on.
    ALIGNSEG_HD Cell after(int64_t elements) const
    {
        return {top + elements, bottom + elements, right, y, x};
    }

    //! The logit at the left side, or `column` elements further right.
    ALIGNSEG_HD float side(int32_t column) const
    {
        return between(toFloat(top[column]), toFloat(bottom[column]), y);
    }

    //! The logit inside the cell.
    ALIGNSEG_HD float logit() const
    {
        return between(side(0), side(right), x);
    }
};

//! The highest of the classes so far; the lower one on a tie.
struct Best
{
    float value;
    int32_t label;
    bool finite; //!< whether all logits so far are finite

    ALIGNSEG_HD void offer(float other, int32_t otherLabel)
    {
        finite = finite && other - other == 0.0F; // false for NaN and infinity
        if (other > value)
        {
            value = other;
            label = otherLabel;
        }
    }
};

//! No class yet: minus infinity, which all other numbers exceed.
ALIGNSEG_HD Best noClass()
{
#ifdef __CUDA_ARCH__
    return {__int_as_float(static_cast<int32_t>(0xFF800000U)), 0, true};
#else
    return {-HUGE_VALF, 0, true};
#endif
}

//! The best class at a corner. `logit` points to class 0; classes are `plane` elements apart.
//!
//! \param kept Where to store the logits, `keptPlane` elements apart; null: nowhere.
template <typename T>
ALIGNSEG_HD Best bestAtCorner(T const* logit, int32_t classes, int64_t plane, T* kept, int32_t keptPlane)
{
    Best best = noClass();
    for (int32_t first = 0; first < classes; first += kUpsampleArgmaxAtOnce)
    {
        T values[kUpsampleArgmaxAtOnce];
        for (int32_t index = 0; index < kUpsampleArgmaxAtOnce; ++index)
        {
            values[index] = *logit;
            logit += first + index + 1 < classes ? plane : 0; // repeating the last class changes nothing
        }
        for (int32_t index = 0; index < kUpsampleArgmaxAtOnce; ++index)
        {
            best.offer(toFloat(values[index]), first + index);
            if (kept != nullptr && first + index < classes)
            {
                kept[(first + index) * keptPlane] = values[index];
            }
        }
    }
    return best;
}

//! The best class inside a cell. `cell` is the cell of class 0; classes are `plane` elements apart.
template <typename T>
ALIGNSEG_HD Best bestInside(Cell<T> cell, int32_t classes, int64_t plane)
{
    Best best = noClass();
    ALIGNSEG_UNROLL(2)
    for (int32_t label = 0; label < classes; ++label)
    {
        best.offer(cell.logit(), label);
        cell = cell.after(plane);
    }
    return best;
}

//! Labels a run of columns inside a cell, given the weights of its right side.
template <typename T>
ALIGNSEG_HD void labelRun(Cell<T> cell, int32_t classes, int64_t plane, float const (&weights)[kUpsampleArgmaxRun],
    int32_t (&labels)[kUpsampleArgmaxRun])
{
    Best best[kUpsampleArgmaxRun];
    for (Best& one : best)
    {
        one = noClass();
    }
    // The most expensive loop where different labels meet.
    ALIGNSEG_UNROLL(2) // the kernel takes 17.5 us on an H100; 18.2 with 1
    for (int32_t label = 0; label < classes; ++label)
    {
        float const left = cell.side(0);
        float const right = cell.side(cell.right);
        for (int32_t index = 0; index < kUpsampleArgmaxRun; ++index)
        {
            best[index].offer(between(left, right, weights[index]), label);
        }
        cell = cell.after(plane);
    }
    for (int32_t index = 0; index < kUpsampleArgmaxRun; ++index)
    {
        labels[index] = best[index].label;
    }
}

//! Computes round(255 * softmax probability) of the labels of a run of columns inside a cell, given the
//! weights of its right side; 0 for NaN.
template <typename T>
ALIGNSEG_HD void confidenceOfRun(Cell<T> cell, int32_t classes, int64_t plane,
    float const (&weights)[kUpsampleArgmaxRun], int32_t const (&labels)[kUpsampleArgmaxRun],
    uint8_t (&levels)[kUpsampleArgmaxRun])
{
    float highest[kUpsampleArgmaxRun];
    float total[kUpsampleArgmaxRun];
    for (int32_t index = 0; index < kUpsampleArgmaxRun; ++index)
    {
        Cell<T> const best = cell.after(labels[index] * plane);
        highest[index] = between(best.side(0), best.side(best.right), weights[index]);
        total[index] = 0.0F;
    }
    ALIGNSEG_UNROLL(2)
    for (int32_t label = 0; label < classes; ++label)
    {
        float const left = cell.side(0);
        float const right = cell.side(cell.right);
        for (int32_t index = 0; index < kUpsampleArgmaxRun; ++index)
        {
            total[index] += exponential(between(left, right, weights[index]) - highest[index]);
        }
        cell = cell.after(plane);
    }
    for (int32_t index = 0; index < kUpsampleArgmaxRun; ++index)
    {
        float const level = rintf(255.0F / total[index]);
        levels[index] = level <= 255.0F ? static_cast<uint8_t>(level) : uint8_t{0}; // false for NaN
    }
}

} // namespace alignseg

#endif // ALIGNSEG_UPSAMPLE_ARGMAX_MATH_H
