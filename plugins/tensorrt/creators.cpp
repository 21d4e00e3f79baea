// The two functions that TensorRT looks for in a library of plugins, and its version. Loading the library registers
// nothing, so it loads without TensorRT.

#include "creators.h"

#include "aligned_add_plugin.h"
#include "offset_grid_sample_plugin.h"
#include "upsample_argmax_plugin.h"

#if defined(_MSC_VER)
#define ALIGNSEG_EXPORT __declspec(dllexport)
#else
#define ALIGNSEG_EXPORT __attribute__((visibility("default")))
#endif

namespace
{

template <typename Concrete>
nvinfer1::IPluginV3* make(alignseg::Convention convention)
{
    return new (std::nothrow) Concrete(convention);
}

} // namespace

nvinfer1::IPluginCreatorInterface* const* alignseg::allCreators(int32_t& count)
{
    static Creator sampleCreator(kOffsetGridSample, make<OffsetGridSamplePlugin>);
    static Creator addCreator(kAlignedAdd, make<AlignedAddPlugin>);
    static Creator argmaxCreator(kUpsampleArgmax, make<UpsampleArgmaxPlugin>);
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&sampleCreator, &addCreator, &argmaxCreator};
    count = static_cast<int32_t>(sizeof creators / sizeof creators[0]);
    return creators;
}

//! For which TensorRT this was built; Python finds the text in the file, before it loads the library.
extern "C" ALIGNSEG_EXPORT char const alignsegTensorRtVersion[];
char const alignsegTensorRtVersion[]
    = "alignseg plugins for TensorRT " ALIGNSEG_TEXT(NV_TENSORRT_MAJOR) "." ALIGNSEG_TEXT(NV_TENSORRT_MINOR);

//! Returns all creators, and their number in `count`.
extern "C" ALIGNSEG_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    return alignseg::allCreators(count);
}

//! Gives the library TensorRT's logger; null removes it.
extern "C" ALIGNSEG_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    alignseg::useLoggerFinder(finder);
}
