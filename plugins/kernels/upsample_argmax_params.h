// Arguments of UpsampleArgmax's kernels. Every field has 8 bytes, so that Python can pack them.

#ifndef ALIGNSEG_UPSAMPLE_ARGMAX_PARAMS_H
#define ALIGNSEG_UPSAMPLE_ARGMAX_PARAMS_H

#include "portable.h"

namespace alignseg
{

struct UpsampleArgmaxParams
{
    void const* logits;   //!< (N, C, h, w), planar
    void* labels;         //!< (N, H, W); on a tie the lower label
    uint8_t* confidence;  //!< (N, H, W): round(255 * softmax probability of the label); null: none
    uint8_t* color;       //!< (N, H, W, 3) BGR; null: none
    uint8_t const* palette; //!< (C, 3) BGR; null without color
    int32_t* notFinite;   //!< Becomes 1 if a logit that is read is NaN or infinite; null: not checked
    int64_t batch;        //!< N
    int64_t classes;      //!< C
    int64_t logitsHeight; //!< h
    int64_t logitsWidth;  //!< w
    int64_t height;       //!< H
    int64_t width;        //!< W
};

} // namespace alignseg

#endif // ALIGNSEG_UPSAMPLE_ARGMAX_PARAMS_H
