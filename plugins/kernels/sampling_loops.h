// The loops over channels, which take most of the time. There is one for each layout: look for "THE LOOP".
// Each turn loads the pixels around the position that was computed before, blends them in float, and
// writes the result. What a pixel loads, a SampledPixel or an AlignedPixel, is in the kernel's own file.

#ifndef ALIGNSEG_SAMPLING_LOOPS_H
#define ALIGNSEG_SAMPLING_LOOPS_H

#include "sampling_window.h"

namespace alignseg
{

//! Computes `count` planar channels of one pixel; all loads come before the first sum.
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

//! Computes any number `count` of planar channels of one pixel.
template <bool guarded, typename T, typename Pixel>
ALIGNSEG_HD void writeAllPlanes(T* output, int64_t plane, int32_t count, Pixel pixel)
{
    constexpr int32_t kAtOnce = Pixel::kUnroll;
    // THE LOOP of planes: each turn computes kAtOnce channels.
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

//! Planar: computes `count` channels of one pixel. Away from edges loads need no guard, which saves a
//! fifth of all instructions (counted in the code that nvcc 13.0 generates for sm_90).
//!
//! \param output Where the first channel goes; the next is `plane` elements further on.
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

//! Channels last: computes every kLastLanes-th vector of V channels of one pixel, and writes zeros to the
//! channels that pad `channels` to `pitch`.
//!
//! \param output Where channel 0 of the pixel goes.
template <int V, typename T, typename Pixel>
ALIGNSEG_HD void writeChannelsLast(T* output, int32_t lane, int32_t channels, int32_t pitch, Pixel pixel)
{
    pixel.setChannelsLast(pitch);
    pixel.advance(lane * V);
    // THE LOOP of channels last: in each turn eight threads compute 128 bytes of a pixel's channels.
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
        writeStored(output + channel, storedOf(output, sums));
        pixel.advance(kLastLanes * V);
    }
}

} // namespace alignseg

#endif // ALIGNSEG_SAMPLING_LOOPS_H
