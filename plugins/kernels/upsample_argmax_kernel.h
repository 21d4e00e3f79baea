// Launcher of UpsampleArgmax.

#ifndef ALIGNSEG_UPSAMPLE_ARGMAX_KERNEL_H
#define ALIGNSEG_UPSAMPLE_ARGMAX_KERNEL_H

#include "launch.h"
#include "upsample_argmax_params.h"

namespace alignseg
{

//! Types in which labels are stored.
enum class Label : int32_t
{
    kUint8 = 0,
    kUint16 = 1,
    kInt32 = 2,
};

//! Computes the argmax over classes of bilinear upsampling with aligned corners; stores no upsampled logits.
//!
//! \param logits Type of the logits.
//! \param label Type of the labels.
//! \return cudaErrorInvalidValue for invalid sizes, or more classes than `label` can hold.
cudaError_t launchUpsampleArgmax(UpsampleArgmaxParams const& params, Scalar logits, Label label, cudaStream_t stream);

} // namespace alignseg

#endif // ALIGNSEG_UPSAMPLE_ARGMAX_KERNEL_H
