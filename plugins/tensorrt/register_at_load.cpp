// Registers the plugins as soon as the library is loaded, for programs that load a library of plugins
// and do nothing else with it, such as Triton. Only libalignseg_plugin_at_load.so contains this.

#include "creators.h"

#include <cstdio>
#include <dlfcn.h>

namespace
{

//! The library of the major version that this was compiled for: other registries have other methods.
constexpr char const* kTensorRt = "libnvinfer.so." ALIGNSEG_TEXT(NV_TENSORRT_MAJOR);

constexpr int kOldestMajor = 8;
constexpr int kNewestMajor = NV_TENSORRT_MAJOR + 4;

//! Whether the process has loaded only the TensorRT that this was compiled for, or none yet; else prints why.
bool isOnlyTensorRt()
{
    for (int major = kOldestMajor; major <= kNewestMajor; ++major)
    {
        char name[32];
        std::snprintf(name, sizeof name, "libnvinfer.so.%d", major);
        if (major != NV_TENSORRT_MAJOR && dlopen(name, RTLD_LAZY | RTLD_NOLOAD) != nullptr)
        {
            std::fprintf(stderr,
                "alignseg plugin: not registered: this process uses %s, but the library was built for %s; build it "
                "with -DTENSORRT_VERSION=%d\n",
                name, kTensorRt, major);
            return false;
        }
    }
    return true;
}

//! Returns TensorRT's registry; or null, and prints why. Finds it by name, without linking, so that the
//! library builds without TensorRT.
nvinfer1::IPluginRegistry* findRegistry()
{
    using GetRegistry = nvinfer1::IPluginRegistry* (*) ();
    void* const library = dlopen(kTensorRt, RTLD_NOW); // the one that this process has loaded, if any
    void* const function = library == nullptr ? nullptr : dlsym(library, "getPluginRegistry");
    if (function == nullptr)
    {
        std::fprintf(
            stderr, "alignseg plugin: not registered: %s; put %s into LD_LIBRARY_PATH\n", dlerror(), kTensorRt);
        return nullptr;
    }
    return reinterpret_cast<GetRegistry>(function)();
}

__attribute__((constructor)) void registerAtLoad()
{
    nvinfer1::IPluginRegistry* const registry = isOnlyTensorRt() ? findRegistry() : nullptr;
    int32_t count = 0;
    // getCreators might resolve to another library's function of that name.
    nvinfer1::IPluginCreatorInterface* const* const creators = alignseg::allCreators(count);
    for (int32_t index = 0; registry != nullptr && index < count; ++index)
    {
        auto* const creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[index]);
        if (!registry->registerCreator(*creator, creator->getPluginNamespace()))
        {
            std::fprintf(stderr, "alignseg plugin: %s is already registered; load one library of plugins, not two\n",
                creator->getPluginName());
        }
    }
}

} // namespace
