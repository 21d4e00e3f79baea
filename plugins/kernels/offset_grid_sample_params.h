// Arguments of OffsetGridSample's kernels. Every field has 8 bytes, so that Python can pack them.

#ifndef ALIGNSEG_OFFSET_GRID_SAMPLE_PARAMS_H
#define ALIGNSEG_OFFSET_GRID_SAMPLE_PARAMS_H

#include "portable.h"

namespace alignseg
{

struct OffsetGridSampleParams
{
    void const* feature;  //!< (N, C, h, w)
    void const* offset;   //!< (N, 2, H, W), planar: dx, then dy
    void* output;         //!< (N, C, H, W), stored like the feature
    int64_t batch;        //!< N
    int64_t channels;     //!< C
    int64_t featureHeight; //!< h
    int64_t featureWidth; //!< w
    int64_t height;       //!< H
    int64_t width;        //!< W
    int64_t channelPitch; //!< 0: planar, NCHW. Else channels last, with this many per pixel
    int64_t convention;   //!< a Convention
};

} // namespace alignseg

#endif // ALIGNSEG_OFFSET_GRID_SAMPLE_PARAMS_H
