// Launcher of the preprocessing kernel.

#ifndef ALIGNSEG_PREPROCESS_KERNEL_H
#define ALIGNSEG_PREPROCESS_KERNEL_H

#include "launch.h"
#include "preprocess_params.h"

namespace alignseg
{

//! Resizes like OpenCV's INTER_LINEAR, orders channels and computes (pixel - mean) / std.
//!
//! \param output Type of the output.
//! \return cudaErrorInvalidValue for invalid sizes.
cudaError_t launchPreprocess(PreprocessParams const& params, Scalar output, cudaStream_t stream);

} // namespace alignseg

#endif // ALIGNSEG_PREPROCESS_KERNEL_H
