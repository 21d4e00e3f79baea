// Where an output pixel reads a feature: the pixels along each axis and their weights.
//
// Positions are exact integers plus a small float (positionOf), so their error does not grow with
// the width. A normalised float32 grid is off by 1e-4 pixel at width 2048, a float16 one by 1/4.

#ifndef ALIGNSEG_SAMPLING_COORDINATES_H
#define ALIGNSEG_SAMPLING_COORDINATES_H

#include "convention.h"
#include "portable.h"

namespace alignseg
{

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

//! Pixels along one axis and their weights. A pixel of weight 0 may lie outside and is not read. Up to
//! three pixels are consecutive; four are two pairs.
template <int K>
struct Taps
{
    int32_t first;
    int32_t second; //!< Where the second pair of four pixels begins
    float weight[K];

    ALIGNSEG_HD int32_t index(int32_t tap) const
    {
        return K == 4 && tap >= 2 ? second + (tap - 2) : first + tap;
    }
};

//! Finds the two pixels around `base + moved + shift` along an axis of `size` pixels.
//!
//! \param moved The offset in pixels. NaN, infinity and anything from 2^29 on count as outside.
ALIGNSEG_HD Taps<2> cornersBeside(Position base, float moved, float shift, int32_t size)
{
    constexpr float kFarthest = 536870912.0F; // sizes have 30 bits: no sum below has more than 31
    bool const near = moved > -kFarthest && moved < kFarthest;
    float const usable = near ? moved : 0.0F;
    float const steps = floorf(usable);
    float const rest = (usable - steps) + (base.rest + shift); // -0.5 to 2: size costs no precision
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

//! Whether every two neighbours on the fine axis lie between the same two pixels of the coarse one.
//! This holds in the network at 1024 x 2048, whose features have 2^k + 1 pixels.
ALIGNSEG_HD bool nested(int32_t coarse, int32_t size)
{
    return coarse == 1 || size == 1 || static_cast<uint32_t>(size - 1) % static_cast<uint32_t>(coarse - 1) == 0;
}

//! How many pixels of the coarse feature sampling after upsampling reads along one axis: two if
//! coarse pixels nest, three in any upsampling, four in general.
ALIGNSEG_HD int32_t composedTaps(int32_t coarse, int32_t size)
{
    if (nested(coarse, size))
    {
        return 2;
    }
    return coarse <= size ? 3 : 4;
}

//! The positions of two fine neighbours on the coarse axis.
struct CoarsePair
{
    int32_t first;  //!< Coarse pixel at or before the lower neighbour
    int32_t second; //!< With four taps, the coarse pixel at or before the upper neighbour; else `first` again
    float below;    //!< The lower neighbour's distance from `first`, 0 to 1
    float above;    //!< The upper neighbour's distance from `second`: 0 to 1, or to 2 with three taps
};

//! \param corners The neighbours; one that is outside takes the position of the other.
//! \param coarse Pixels of the coarse axis, which span `size` fine ones with aligned ends.
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
    // Rounding may place the neighbour just beside a coarse pixel that it lies on. This moves its weight
    // by no more than that rounding, since interpolation is continuous.
    float const step = quotient(static_cast<float>(coarse - 1), static_cast<float>(divisor));
    return {first, first, below.rest, upper > lower ? below.rest + step : below.rest};
}

//! Finds the coarse pixels that two fine ones depend on, in one step, since linear maps compose.
//!
//! \param corners The fine pixels; those outside already have weight 0.
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
    bool const third = K == 3 && pair.first + 2 < coarse; // else rounding could reach past the end
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

} // namespace alignseg

#endif // ALIGNSEG_SAMPLING_COORDINATES_H
