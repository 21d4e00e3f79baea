// A libnvinfer of which only the registry of plugins is there. It prints what is registered and
// takes each name once.

#include <NvInferRuntime.h>

#include <cstdio>
#include <set>
#include <string>

using namespace nvinfer1;

namespace
{

class Registry : public IPluginRegistry
{
public:
#if NV_TENSORRT_MAJOR == 10
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    bool registerCreator(IPluginCreator&, AsciiChar const*) noexcept override
    {
        return false;
    }

    IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override
    {
        return nullptr;
    }

    IPluginCreator* getPluginCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return nullptr;
    }

    bool deregisterCreator(IPluginCreator const&) noexcept override
    {
        return false;
    }
#endif

    bool registerCreator(IPluginCreatorInterface& creator, AsciiChar const* space) noexcept override
    {
        auto& known = static_cast<IPluginCreatorV3One&>(creator);
        std::printf("%s %s\n", space, known.getPluginName());
        return mNames.insert(known.getPluginName()).second;
    }

    void setErrorRecorder(IErrorRecorder*) noexcept override {}

    IErrorRecorder* getErrorRecorder() const noexcept override
    {
        return nullptr;
    }

    bool isParentSearchEnabled() const override
    {
        return false;
    }

    void setParentSearchEnabled(bool) override {}

    PluginLibraryHandle loadLibrary(AsciiChar const*) noexcept override
    {
        return nullptr;
    }

    void deregisterLibrary(PluginLibraryHandle) noexcept override {}

    IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override
    {
        return nullptr;
    }

    IPluginCreatorInterface* getCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return nullptr;
    }

    bool deregisterCreator(IPluginCreatorInterface const&) noexcept override
    {
        return false;
    }

    IPluginResource* acquirePluginResource(AsciiChar const*, IPluginResource*) noexcept override
    {
        return nullptr;
    }

    int32_t releasePluginResource(AsciiChar const*) noexcept override
    {
        return 0;
    }

    IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept override
    {
        return nullptr;
    }

private:
    std::set<std::string> mNames;
};

} // namespace

extern "C" IPluginRegistry* getPluginRegistry() noexcept
{
    static Registry registry;
    return &registry;
}
