// The kernels before and after the network on the CPU, for ctypes: structs as Python packs them,
// the launchers' status as an int.

#include "preprocess_kernel.h"
#include "upsample_argmax_kernel.h"

extern "C" int hostUpsampleArgmax(alignseg::UpsampleArgmaxParams const* params, int logits, int label)
{
    return alignseg::launchUpsampleArgmax(
        *params, static_cast<alignseg::Scalar>(logits), static_cast<alignseg::Label>(label), nullptr);
}

extern "C" int hostPreprocess(alignseg::PreprocessParams const* params, int output)
{
    return alignseg::launchPreprocess(*params, static_cast<alignseg::Scalar>(output), nullptr);
}
