// Launcher of AlignedAdd.

#ifndef ALIGNSEG_ALIGNED_ADD_KERNEL_H
#define ALIGNSEG_ALIGNED_ADD_KERNEL_H

#include "aligned_add_params.h"
#include "launch.h"

namespace alignseg
{

//! sample(upsample(high), highOffset) + sample(low, lowOffset), with neither written to memory.
//!
//! \param feature Type of features and output.
//! \param offset Type of both offsets.
//! \return cudaErrorInvalidValue for sizes or a convention that make no sense.
cudaError_t launchAlignedAdd(AlignedAddParams const& params, Scalar feature, Scalar offset, cudaStream_t stream);

} // namespace alignseg

#endif // ALIGNSEG_ALIGNED_ADD_KERNEL_H
