// Drives a library of TensorRT plugins as TensorRT does, without TensorRT: by getCreators and
// setLoggerFinder alone. tests/support/plugin_harness.py calls it through ctypes, which lays out
// TensorRT's plain structures itself; harnessSizes lets it check that.

#include <NvInferRuntime.h>

#include <cstring>
#include <dlfcn.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace
{

std::string logged;
std::string answer;

class Logger : public ILogger
{
public:
    void log(Severity severity, AsciiChar const* message) noexcept override
    {
        logged += std::to_string(static_cast<int>(severity)) + " " + message + "\n";
    }
} logger;

class Finder : public ILoggerFinder
{
public:
    bool broken{false};

    ILogger* findLogger() override
    {
        if (broken)
        {
            throw std::runtime_error("no logger");
        }
        return &logger;
    }
} finder;

//! A size by its name: "1.2" is size 2 of input 1.
class Size : public IDimensionExpr, public apiv::VDimensionExpr
{
public:
    explicit Size(std::string text)
        : name(std::move(text))
    {
        mImpl = this;
    }

    bool isConstant() const override
    {
        return false;
    }

    int64_t getConstantValue() const override
    {
        return INT64_MIN;
    }

    bool isSizeTensor() const override
    {
        return false;
    }

    std::string name;
};

//! Builds no expressions: the sizes of our outputs are sizes of inputs.
class Builder : public IExprBuilder, public apiv::VExprBuilder
{
public:
    Builder()
    {
        mImpl = this;
    }

    IDimensionExpr const* constant(int64_t) override
    {
        return nullptr;
    }

    IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&, IDimensionExpr const&) override
    {
        return nullptr;
    }

    IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) override
    {
        return nullptr;
    }
} builder;

using GetCreators = IPluginCreatorInterface* const* (*) (int32_t&);
using SetLoggerFinder = void (*)(ILoggerFinder*);

IPluginCreatorInterface* const* creators = nullptr;
int32_t creatorCount = 0;
SetLoggerFinder setFinder = nullptr;

IPluginCreatorV3One* creatorAt(int32_t index)
{
    return static_cast<IPluginCreatorV3One*>(creators[index]);
}

template <typename Capability>
Capability* capability(IPluginV3* plugin, PluginCapabilityType type)
{
    return static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

IPluginV3OneCore* core(IPluginV3* plugin)
{
    return capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
}

IPluginV3OneBuild* build(IPluginV3* plugin)
{
    return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}

IPluginV3OneRuntime* runtime(IPluginV3* plugin)
{
    return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

std::string line(char const* key, std::string const& value)
{
    return std::string(key) + "=" + value + "\n";
}

std::string interfaceOf(IVersionedInterface const* object)
{
    InterfaceInfo const info = object->getInterfaceInfo();
    return std::string(info.kind) + " " + std::to_string(info.major) + "." + std::to_string(info.minor);
}

std::string fieldsOf(PluginFieldCollection const* fields)
{
    std::string text;
    for (int32_t index = 0; index < fields->nbFields; ++index)
    {
        PluginField const& field = fields->fields[index];
        auto const* data = static_cast<char const*>(field.data);
        text += std::string(field.name) + " " + std::to_string(static_cast<int>(field.type)) + " "
            + (data == nullptr ? "null" : std::string(data, static_cast<size_t>(field.length))) + ";";
    }
    return text;
}

std::vector<DynamicPluginTensorDesc> dynamic(PluginTensorDesc const* tensors, int32_t count)
{
    std::vector<DynamicPluginTensorDesc> described(static_cast<size_t>(count));
    for (int32_t index = 0; index < count; ++index)
    {
        Dims const& dims = tensors[index].dims;
        described[static_cast<size_t>(index)] = {tensors[index], dims, dims, dims};
    }
    return described;
}

} // namespace

extern "C"
{

//! Loads the library. Returns how many creators it has, or -1 if it could not be loaded.
int32_t harnessOpen(char const* path)
{
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
    {
        logged = dlerror();
        return -1;
    }
    setFinder = reinterpret_cast<SetLoggerFinder>(dlsym(library, "setLoggerFinder"));
    auto const getCreators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    setFinder(&finder);
    creators = getCreators(creatorCount);
    return creatorCount;
}

//! Sizes of the structures that ctypes lays out.
void harnessSizes(int64_t* sizes)
{
    sizes[0] = sizeof(PluginField);
    sizes[1] = sizeof(PluginFieldCollection);
    sizes[2] = sizeof(PluginTensorDesc);
}

//! TensorRT's version, of the headers.
int32_t harnessVersion()
{
    return NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR;
}

//! 0: no logger; 1: one; 2: a finder that throws.
void harnessLogger(int32_t kind)
{
    finder.broken = kind == 2;
    setFinder(kind == 0 ? nullptr : &finder);
}

char const* harnessTakeLog()
{
    answer = logged;
    logged.clear();
    return answer.c_str();
}

char const* harnessCreator(int32_t index)
{
    IPluginCreatorV3One* const creator = creatorAt(index);
    answer = line("interface", interfaceOf(creator)) + line("name", creator->getPluginName())
        + line("version", creator->getPluginVersion()) + line("namespace", creator->getPluginNamespace())
        + line("fields", fieldsOf(creator->getFieldNames()));
    return answer.c_str();
}

IPluginV3* harnessCreate(int32_t index, char const* name, PluginFieldCollection const* fields, int32_t phase)
{
    return creatorAt(index)->createPlugin(name, fields, static_cast<TensorRTPhase>(phase));
}

void harnessDestroy(IPluginV3* plugin)
{
    delete plugin;
}

IPluginV3* harnessClone(IPluginV3* plugin)
{
    return plugin->clone();
}

IPluginV3* harnessAttach(IPluginV3* plugin)
{
    return runtime(plugin)->attachToContext(nullptr);
}

//! A plugin for the runtime from the fields that `plugin` serialises, kept apart from it.
IPluginV3* harnessRoundTrip(int32_t index, IPluginV3* plugin)
{
    PluginFieldCollection const* const fields = runtime(plugin)->getFieldsToSerialize();
    std::vector<PluginField> copies(fields->fields, fields->fields + fields->nbFields);
    std::vector<std::unique_ptr<char[]>> data;
    for (PluginField& copy : copies)
    {
        data.push_back(std::make_unique<char[]>(static_cast<size_t>(copy.length))); // no byte more
        std::memcpy(data.back().get(), copy.data, static_cast<size_t>(copy.length));
        copy.data = data.back().get();
    }
    PluginFieldCollection const copied{fields->nbFields, copies.data()};
    return creatorAt(index)->createPlugin("engine", &copied, TensorRTPhase::kRUNTIME);
}

char const* harnessPlugin(IPluginV3* plugin)
{
    answer = line("interface", interfaceOf(plugin)) + line("core", interfaceOf(core(plugin)))
        + line("build", interfaceOf(build(plugin))) + line("runtime", interfaceOf(runtime(plugin)))
        + line("name", core(plugin)->getPluginName()) + line("version", core(plugin)->getPluginVersion())
        + line("namespace", core(plugin)->getPluginNamespace())
        + line("outputs", std::to_string(build(plugin)->getNbOutputs()))
        + line("tactics", std::to_string(build(plugin)->getNbTactics()))
        + line("workspace", std::to_string(build(plugin)->getWorkspaceSize(nullptr, 0, nullptr, 0)))
        + line("timing", build(plugin)->getTimingCacheID()) + line("metadata", build(plugin)->getMetadataString())
        + line("fields", fieldsOf(runtime(plugin)->getFieldsToSerialize()));
    return answer.c_str();
}

//! Whether the plugin has the capability of that number.
int32_t harnessHas(IPluginV3* plugin, int32_t type)
{
    return plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(type)) != nullptr;
}

int32_t harnessTypes(IPluginV3* plugin, int32_t const* inputs, int32_t nbInputs, int32_t* outputs, int32_t nbOutputs)
{
    return build(plugin)->getOutputDataTypes(
        reinterpret_cast<DataType*>(outputs), nbOutputs, reinterpret_cast<DataType const*>(inputs), nbInputs);
}

//! The output's shape in sizes of inputs of these ranks; null if the plugin refuses.
char const* harnessShapes(IPluginV3* plugin, int32_t const* ranks, int32_t nbInputs, int32_t nbShapeInputs)
{
    std::vector<std::unique_ptr<Size>> sizes;
    std::vector<DimsExprs> inputs(static_cast<size_t>(nbInputs));
    for (size_t index = 0; index < inputs.size(); ++index)
    {
        inputs[index].nbDims = ranks[index];
        for (int32_t axis = 0; axis < ranks[index]; ++axis)
        {
            sizes.push_back(std::make_unique<Size>(std::to_string(index) + "." + std::to_string(axis)));
            inputs[index].d[axis] = sizes.back().get();
        }
    }
    DimsExprs output{};
    if (build(plugin)->getOutputShapes(inputs.data(), nbInputs, nullptr, nbShapeInputs, &output, 1, builder) != 0)
    {
        return nullptr;
    }
    answer.clear();
    for (int32_t axis = 0; axis < output.nbDims; ++axis)
    {
        answer += static_cast<Size const*>(output.d[axis])->name + " ";
    }
    return answer.c_str();
}

//! Shows the plugin tensors 0..pos and no more, so that a sanitizer sees it look further.
int32_t harnessSupports(
    IPluginV3* plugin, int32_t pos, PluginTensorDesc const* tensors, int32_t nbInputs, int32_t nbOutputs)
{
    std::vector<DynamicPluginTensorDesc> const shown = dynamic(tensors, pos < 0 ? 0 : pos + 1);
    return build(plugin)->supportsFormatCombination(pos, shown.data(), nbInputs, nbOutputs);
}

int32_t harnessConfigure(IPluginV3* plugin, PluginTensorDesc const* in, int32_t nbInputs,
    PluginTensorDesc const* out, int32_t nbOutputs)
{
    std::vector<DynamicPluginTensorDesc> const inputs = dynamic(in, nbInputs);
    std::vector<DynamicPluginTensorDesc> const outputs = dynamic(out, nbOutputs);
    return build(plugin)->configurePlugin(inputs.data(), nbInputs, outputs.data(), nbOutputs);
}

int32_t harnessShapeChange(IPluginV3* plugin, PluginTensorDesc const* in, int32_t nbInputs,
    PluginTensorDesc const* out, int32_t nbOutputs)
{
    return runtime(plugin)->onShapeChange(in, nbInputs, out, nbOutputs);
}

int32_t harnessEnqueue(IPluginV3* plugin, PluginTensorDesc const* in, PluginTensorDesc const* out,
    void const* const* inputs, void* const* outputs)
{
    return runtime(plugin)->enqueue(in, out, inputs, outputs, nullptr, nullptr);
}

//! Null pointers to all methods that take some; returns how many methods took them for good.
int32_t harnessNulls(IPluginV3* plugin, int32_t nbInputs)
{
    DimsExprs output{};
    int32_t accepted = 0;
    accepted += build(plugin)->getOutputDataTypes(nullptr, 1, nullptr, nbInputs) == 0;
    accepted += build(plugin)->getOutputShapes(nullptr, nbInputs, nullptr, 0, &output, 1, builder) == 0;
    accepted += build(plugin)->supportsFormatCombination(0, nullptr, nbInputs, 1);
    accepted += build(plugin)->configurePlugin(nullptr, nbInputs, nullptr, 1) == 0;
    accepted += runtime(plugin)->onShapeChange(nullptr, nbInputs, nullptr, 1) == 0;
    accepted += runtime(plugin)->enqueue(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) == 0;
    return accepted;
}

} // extern "C"
