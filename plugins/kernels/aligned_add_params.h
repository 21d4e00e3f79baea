// Arguments of AlignedAdd's kernels. Every field has 8 bytes, so that Python can pack them.

#ifndef ALIGNSEG_ALIGNED_ADD_PARAMS_H
#define ALIGNSEG_ALIGNED_ADD_PARAMS_H

#include "portable.h"

namespace alignseg
{

struct AlignedAddParams
{
    void const* high;       //!< (N, C, h, w), the coarse feature at its own size
    void const* low;        //!< (N, C, H, W)
    void const* highOffset; //!< (N, 2, H, W), planar: dx, then dy
    void const* lowOffset;  //!< (N, 2, H, W), planar
    void* output;           //!< (N, C, H, W), stored like the features
    int64_t batch;          //!< N
    int64_t channels;       //!< C
    int64_t highHeight;     //!< h
    int64_t highWidth;      //!< w
    int64_t height;         //!< H
    int64_t width;          //!< W
    int64_t channelPitch;   //!< 0: planar, NCHW. Else channels last, with this many per pixel
    int64_t convention;     //!< a Convention
};

} // namespace alignseg

#endif // ALIGNSEG_ALIGNED_ADD_PARAMS_H
