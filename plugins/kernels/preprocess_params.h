// Arguments of the preprocessing kernels. Fields of 8 bytes come first, so that Python packs the same.
// Mean and std are floats because the kernel computes in them: a GPU's conversion from double is
// slow, up to 16 cycles of a multiprocessor for each of 6 in every warp.

#ifndef ALIGNSEG_PREPROCESS_PARAMS_H
#define ALIGNSEG_PREPROCESS_PARAMS_H

#include "portable.h"

namespace alignseg
{

struct PreprocessParams
{
    uint8_t const* images; //!< (N, h, w, 3) BGR
    void* output;         //!< (N, 3, H, W), planar
    int64_t batch;        //!< N
    int64_t imageHeight;  //!< h
    int64_t imageWidth;   //!< w
    int64_t height;       //!< H
    int64_t width;        //!< W
    int64_t swap;         //!< 1: output channels are RGB; 0: BGR
    float mean[3];        //!< of the output's channels, in grey levels 0..255
    float std[3];         //!< likewise
};

} // namespace alignseg

#endif // ALIGNSEG_PREPROCESS_PARAMS_H
