// The sampling kernels behind a C ABI, for ctypes.

#include "aligned_add_kernel.cu"
#include "offset_grid_sample_kernel.cu"

using namespace alignseg;

namespace
{

//! Runs one block of a kernel: enough to see an address that a whole run would take gigabytes for.
template <typename Params>
void runBlock(void (*kernel)(Params), Params const& params, unsigned int block)
{
    bool const synchronised = params.channelPitch != 0;
    hostLaunch(kernel, params, dim3(block + 1), dim3(kSampleThreads), synchronised, block);
}

} // namespace

extern "C"
{

int offset_grid_sample(OffsetGridSampleParams const* params, int feature, int offset)
{
    return launchOffsetGridSample(*params, static_cast<Scalar>(feature), static_cast<Scalar>(offset), nullptr);
}

int aligned_add(AlignedAddParams const* params, int feature, int offset)
{
    return launchAlignedAdd(*params, static_cast<Scalar>(feature), static_cast<Scalar>(offset), nullptr);
}

//! float16 feature, float32 offset
void offset_grid_sample_block(OffsetGridSampleParams const* params, unsigned int block)
{
    bool const planar = params->channelPitch == 0;
    runBlock(planar ? &offsetGridSamplePlanar<Half, float> : &offsetGridSampleChannelsLast<Half, float>, *params,
        block);
}

//! float16 features, float32 offsets
void aligned_add_block(AlignedAddParams const* params, unsigned int block)
{
    runBlock(alignedAddKernel<Half>(*params, Scalar::kFloat), *params, block);
}

int64_t sample_blocks(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t pitch)
{
    return sampleBlocks(batch, channels, height, width, pitch);
}

void half_of(float const* values, uint16_t* halves, int64_t count)
{
    for (int64_t index = 0; index < count; ++index)
    {
        halves[index] = fromFloat<Half>(values[index]).bits;
    }
}

void float_of(uint16_t const* halves, float* values, int64_t count)
{
    for (int64_t index = 0; index < count; ++index)
    {
        values[index] = toFloat(Half{halves[index]});
    }
}

void position_of(int64_t index, int64_t numerator, int64_t denominator, int64_t* whole, float* rest)
{
    Position const position = positionOf(index, numerator, denominator);
    *whole = position.whole;
    *rest = position.rest;
}

int composed_taps(int64_t coarse, int64_t size)
{
    return composedTaps(coarse, size);
}

} // extern "C"
