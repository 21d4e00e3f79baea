// Launcher of OffsetGridSample.

#ifndef ALIGNSEG_OFFSET_GRID_SAMPLE_KERNEL_H
#define ALIGNSEG_OFFSET_GRID_SAMPLE_KERNEL_H

#include "launch.h"
#include "offset_grid_sample_params.h"

namespace alignseg
{

//! Samples params.feature at the positions that params.offset points to.
//!
//! \param feature Type of feature and output.
//! \param offset Type of the offset.
//! \return cudaErrorInvalidValue for invalid sizes or an invalid convention.
cudaError_t launchOffsetGridSample(
    OffsetGridSampleParams const& params, Scalar feature, Scalar offset, cudaStream_t stream);

} // namespace alignseg

#endif // ALIGNSEG_OFFSET_GRID_SAMPLE_KERNEL_H
