// The three sampling conventions; alignseg_infer/ops/sampling.py has their formulas.

#ifndef ALIGNSEG_CONVENTION_H
#define ALIGNSEG_CONVENTION_H

#include "portable.h"

namespace alignseg
{

enum class Convention : int64_t
{
    kRelease202112 = 0, //!< "release-2021-12"
    kRelease202105 = 1, //!< "release-2021-05"
    kStandard = 2,      //!< "standard"
};

} // namespace alignseg

#endif // ALIGNSEG_CONVENTION_H
