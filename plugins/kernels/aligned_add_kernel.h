// Launcher of AlignedAdd.

#ifndef ALIGNSEG_ALIGNED_ADD_KERNEL_H
#define ALIGNSEG_ALIGNED_ADD_KERNEL_H

#include "aligned_add_params.h"
#include "launch.h"

namespace alignseg
{

//! Computes sample(upsample(high), highOffset) + sample(low, lowOffset); writes only the sum to memory.
//!
//! \param feature Type of features and output.
//! \param offset Type of both offsets.
//! \return cudaErrorInvalidValue for invalid sizes or an invalid convention.
cudaError_t launchAlignedAdd(AlignedAddParams const& params, Scalar feature, Scalar offset, cudaStream_t stream);

} // namespace alignseg

#endif // ALIGNSEG_ALIGNED_ADD_KERNEL_H
