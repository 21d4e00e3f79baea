#include "plugin_support.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <new>

using namespace nvinfer1;

namespace alignseg
{

namespace
{

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = 1;
constexpr size_t kMessageBytes = 1024; // TensorRT's own messages are not longer

std::atomic<ILoggerFinder*> loggerFinder{nullptr};

ILogger* findLogger() noexcept
{
    ILoggerFinder* const finder = loggerFinder.load();
    if (finder == nullptr)
    {
        return nullptr;
    }
    try
    {
        return finder->findLogger();
    }
    catch (...) // TensorRT does not declare findLogger noexcept
    {
        return nullptr;
    }
}

PluginTensorDesc const& plain(PluginTensorDesc const& tensor)
{
    return tensor;
}

PluginTensorDesc const& plain(DynamicPluginTensorDesc const& tensor)
{
    return tensor.desc;
}

//! The first `count` of inputs and output.
template <typename Desc>
Tensors tensorsOf(Desc const* in, int32_t nbInputs, Desc const* out, int32_t count) noexcept
{
    Tensors tensors;
    for (int32_t index = 0; index < count; ++index)
    {
        tensors.at[index] = index < nbInputs ? &plain(in[index]) : &plain(out[index - nbInputs]);
    }
    return tensors;
}

char const* typeName(DataType type) noexcept
{
    switch (type)
    {
    case DataType::kFLOAT: return "FP32";
    case DataType::kHALF: return "FP16";
    case DataType::kINT8: return "INT8";
    case DataType::kINT32: return "INT32";
    case DataType::kBOOL: return "BOOL";
    case DataType::kUINT8: return "UINT8";
    case DataType::kFP8: return "FP8";
    case DataType::kBF16: return "BF16";
    case DataType::kINT64: return "INT64";
    case DataType::kINT4: return "INT4";
    default: return "a type unknown to this plugin";
    }
}

bool isEmpty(Dims const& dims) noexcept
{
    for (int32_t axis = 0; axis < dims.nbDims; ++axis)
    {
        if (dims.d[axis] == 0)
        {
            return true;
        }
    }
    return false;
}

//! Length of a field's text, without the zeros that may follow it.
int32_t textLength(PluginField const& field) noexcept
{
    auto const* text = static_cast<char const*>(field.data);
    int32_t length = field.length;
    while (length > 0 && text[length - 1] == '\0')
    {
        --length;
    }
    return length;
}

//! Reads a Convention; logs and returns false if the field does not hold one.
bool readConvention(PluginContract const& contract, PluginField const& field, Convention& convention) noexcept
{
    if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length <= 0)
    {
        logError("%s: field '%s' has type %d and length %d%s; expected a non-empty string (kCHAR); give "
                 "one of release-2021-12, release-2021-05, standard",
            contract.name, field.name, static_cast<int>(field.type), static_cast<int>(field.length),
            field.data == nullptr ? " and no data" : "");
        return false;
    }
    int32_t const length = textLength(field);
    for (size_t index = 0; index < std::size(kConventionNames); ++index)
    {
        char const* const name = kConventionNames[index];
        if (static_cast<size_t>(length) == std::strlen(name)
            && std::memcmp(field.data, name, static_cast<size_t>(length)) == 0)
        {
            convention = static_cast<Convention>(index);
            return true;
        }
    }
    logError("%s: field '%s' is '%.*s'; expected release-2021-12, release-2021-05 or standard; export the model "
             "again with one of them",
        contract.name, field.name, length < 64 ? length : 64, static_cast<char const*>(field.data));
    return false;
}

bool isField(PluginContract const& contract, char const* name) noexcept
{
    return contract.field != nullptr && std::strcmp(name, contract.field) == 0;
}

//! Reads one field; `again` says that its name has already been read.
bool readField(PluginContract const& contract, PluginField const& field, bool again, Convention& convention) noexcept
{
    if (field.name == nullptr || !isField(contract, field.name))
    {
        logError("%s: unknown field '%s'; expected %s%s; remove it", contract.name,
            field.name == nullptr ? "(null)" : field.name, contract.field == nullptr ? "no field" : "only ",
            contract.field == nullptr ? "" : contract.field);
        return false;
    }
    if (again)
    {
        logError("%s: field '%s' is given twice; expected once; remove one", contract.name, field.name);
        return false;
    }
    return readConvention(contract, field, convention);
}

//! Reads all fields; logs and returns false if one is missing, duplicate, unknown or wrong.
bool readFields(PluginContract const& contract, PluginFieldCollection const& fields, Convention& convention) noexcept
{
    if (fields.nbFields < 0 || (fields.nbFields > 0 && fields.fields == nullptr))
    {
        logError("%s: %d fields at a null or no address; expected a collection of fields", contract.name,
            static_cast<int>(fields.nbFields));
        return false;
    }
    for (int32_t index = 0; index < fields.nbFields; ++index)
    {
        if (!readField(contract, fields.fields[index], index > 0, convention))
        {
            return false;
        }
    }
    if (contract.field != nullptr && fields.nbFields == 0)
    {
        logError("%s: field '%s' is missing; expected release-2021-12, release-2021-05 or standard; add it",
            contract.name, contract.field);
        return false;
    }
    return true;
}

} // namespace

void useLoggerFinder(ILoggerFinder* finder) noexcept
{
    loggerFinder.store(finder);
}

void logError(char const* format, ...) noexcept
{
    char message[kMessageBytes];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (ILogger* const logger = findLogger())
    {
        logger->log(ILogger::Severity::kERROR, message);
        return;
    }
    std::fprintf(stderr, "alignseg plugin: %s\n", message);
}

ShapeCheck::ShapeCheck(PluginContract const& contract, Tensors const& tensors, Sizes sizes) noexcept
    : mContract(contract)
    , mTensors(tensors)
    , mSizes(sizes)
{
}

char const* ShapeCheck::nameOf(int32_t tensor) const noexcept
{
    return tensor < mContract.inputCount() ? mContract.inputs[tensor] : "the output";
}

ShapeCheck& ShapeCheck::rank(int32_t tensor, int32_t rank) noexcept
{
    Dims const& dims = mTensors[tensor].dims;
    if (mPassed && dims.nbDims != rank)
    {
        logError("%s: %s has %d dimensions; expected %d", mContract.name, nameOf(tensor),
            static_cast<int>(dims.nbDims), static_cast<int>(rank));
        mPassed = false;
    }
    int64_t const least = mSizes == Sizes::kKnown ? 0 : -1;
    for (int32_t axis = 0; mPassed && axis < rank; ++axis)
    {
        if (dims.d[axis] < least)
        {
            logError("%s: size %d of %s is %lld; expected %lld or more", mContract.name, static_cast<int>(axis),
                nameOf(tensor), static_cast<long long>(dims.d[axis]), static_cast<long long>(least));
            mPassed = false;
        }
    }
    return *this;
}

ShapeCheck& ShapeCheck::equals(char const* what, int32_t tensor, int32_t axis, int64_t expected) noexcept
{
    if (!mPassed)
    {
        return *this;
    }
    int64_t const size = mTensors[tensor].dims.d[axis];
    if (size >= 0 && size != expected)
    {
        logError("%s: %s of %s is %lld; expected %lld", mContract.name, what, nameOf(tensor),
            static_cast<long long>(size), static_cast<long long>(expected));
        mPassed = false;
    }
    return *this;
}

ShapeCheck& ShapeCheck::same(
    char const* what, int32_t tensor, int32_t axis, int32_t other, int32_t otherAxis) noexcept
{
    if (!mPassed)
    {
        return *this;
    }
    int64_t const size = mTensors[tensor].dims.d[axis];
    int64_t const expected = mTensors[other].dims.d[otherAxis];
    if (size >= 0 && expected >= 0 && size != expected)
    {
        logError("%s: %s of %s is %lld; expected %lld, as of %s", mContract.name, what, nameOf(tensor),
            static_cast<long long>(size), static_cast<long long>(expected), nameOf(other));
        mPassed = false;
    }
    return *this;
}

ShapeCheck& ShapeCheck::sameSize(int32_t tensor, int32_t other) noexcept
{
    return same("height", tensor, 2, other, 2).same("width", tensor, 3, other, 3);
}

ShapeCheck& ShapeCheck::sameShape(int32_t tensor, int32_t other) noexcept
{
    same("batch", tensor, 0, other, 0).same("channels", tensor, 1, other, 1);
    return sameSize(tensor, other);
}

bool isReal(DataType type) noexcept
{
    return type == DataType::kFLOAT || type == DataType::kHALF;
}

bool isFeature(PluginTensorDesc const& tensor) noexcept
{
    switch (tensor.format)
    {
    case TensorFormat::kLINEAR: return isReal(tensor.type);
    case TensorFormat::kHWC8: return tensor.type == DataType::kHALF;
    case TensorFormat::kHWC:
        return tensor.type == DataType::kFLOAT && tensor.dims.nbDims == 4 && tensor.dims.d[1] > 0
            && tensor.dims.d[1] % 4 == 0;
    default: return false;
    }
}

bool isLinearReal(PluginTensorDesc const& tensor) noexcept
{
    return isReal(tensor.type) && tensor.format == TensorFormat::kLINEAR;
}

bool sameTypeAndFormat(PluginTensorDesc const& left, PluginTensorDesc const& right) noexcept
{
    return left.type == right.type && left.format == right.format;
}

Scalar scalarOf(DataType type) noexcept
{
    return type == DataType::kHALF ? Scalar::kHalf : Scalar::kFloat;
}

int64_t channelPitchOf(PluginTensorDesc const& feature) noexcept
{
    int64_t const channels = feature.dims.d[1];
    switch (feature.format)
    {
    case TensorFormat::kHWC8: return (channels + 7) / 8 * 8;
    case TensorFormat::kHWC: return channels;
    default: return 0;
    }
}

Plugin::Plugin(PluginContract const& contract, Convention convention) noexcept
    : mContract(contract)
    , mConvention(convention)
{
}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    logError("%s: asked for capability %d; expected core (0), build (1) or runtime (2)", mContract.name,
        static_cast<int>(type));
    return nullptr;
}

AsciiChar const* Plugin::getPluginName() const noexcept
{
    return mContract.name;
}

AsciiChar const* Plugin::getPluginVersion() const noexcept
{
    return mContract.version;
}

AsciiChar const* Plugin::getPluginNamespace() const noexcept
{
    return kPluginNamespace;
}

int32_t Plugin::getNbOutputs() const noexcept
{
    return 1;
}

bool Plugin::hasCounts(char const* method, int32_t nbInputs, int32_t nbOutputs) const noexcept
{
    if (nbInputs == mContract.inputCount() && nbOutputs == 1)
    {
        return true;
    }
    logError("%s: %s got %d inputs and %d outputs; expected %d and 1", mContract.name, method,
        static_cast<int>(nbInputs), static_cast<int>(nbOutputs), static_cast<int>(mContract.inputCount()));
    return false;
}

int32_t Plugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    if (!hasCounts("getOutputDataTypes", nbInputs, nbOutputs))
    {
        return kFailure;
    }
    if (outputTypes == nullptr || inputTypes == nullptr)
    {
        logError("%s: getOutputDataTypes got a null pointer; expected arrays of types", mContract.name);
        return kFailure;
    }
    PluginTensorDesc inputs[kMaxInputs]{};
    for (int32_t index = 0; index < nbInputs; ++index)
    {
        inputs[index].type = inputTypes[index];
        inputs[index].format = TensorFormat::kLINEAR; // allowed for all types
    }
    if (!acceptsAll(tensorsOf<PluginTensorDesc>(inputs, nbInputs, nullptr, nbInputs), nbInputs))
    {
        return kFailure;
    }
    outputTypes[0] = outputType(inputTypes);
    return kSuccess;
}

int32_t Plugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const* /*shapeInputs*/,
    int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs, IExprBuilder& /*exprBuilder*/) noexcept
{
    if (!hasCounts("getOutputShapes", nbInputs, nbOutputs))
    {
        return kFailure;
    }
    if (inputs == nullptr || outputs == nullptr || nbShapeInputs != 0)
    {
        logError("%s: getOutputShapes got a null pointer or %d shape inputs; expected arrays of shapes and none",
            mContract.name, static_cast<int>(nbShapeInputs));
        return kFailure;
    }
    for (int32_t index = 0; index < nbInputs; ++index)
    {
        if (inputs[index].nbDims != 4)
        {
            logError("%s: %s has %d dimensions; expected 4", mContract.name, mContract.inputs[index],
                static_cast<int>(inputs[index].nbDims));
            return kFailure;
        }
    }
    outputs[0] = outputShape(inputs);
    return kSuccess;
}

bool Plugin::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    if (!hasCounts("supportsFormatCombination", nbInputs, nbOutputs))
    {
        return false;
    }
    if (inOut == nullptr || pos < 0 || pos > nbInputs)
    {
        logError("%s: supportsFormatCombination got tensor %d or a null pointer; expected 0 to %d", mContract.name,
            static_cast<int>(pos), static_cast<int>(nbInputs));
        return false;
    }
    return accepts(pos, tensorsOf<DynamicPluginTensorDesc>(inOut, pos + 1, nullptr, pos + 1));
}

bool Plugin::acceptsAll(Tensors const& tensors, int32_t count) const noexcept
{
    for (int32_t pos = 0; pos < count; ++pos)
    {
        if (!accepts(pos, tensors))
        {
            logError("%s: %s is %s in format %d; expected %s", mContract.name,
                pos < mContract.inputCount() ? mContract.inputs[pos] : "the output", typeName(tensors[pos].type),
                static_cast<int>(tensors[pos].format), mContract.types);
            return false;
        }
    }
    return true;
}

template <typename Desc>
int32_t Plugin::checked(char const* method, Desc const* in, int32_t nbInputs, Desc const* out, int32_t nbOutputs,
    Sizes sizes) const noexcept
{
    if (!hasCounts(method, nbInputs, nbOutputs))
    {
        return kFailure;
    }
    if (in == nullptr || out == nullptr)
    {
        logError("%s: %s got a null pointer; expected descriptions of tensors", mContract.name, method);
        return kFailure;
    }
    Tensors const tensors = tensorsOf(in, nbInputs, out, nbInputs + 1);
    ShapeCheck check(mContract, tensors, sizes);
    checkShapes(check);
    return check.passed() && acceptsAll(tensors, nbInputs + 1) ? kSuccess : kFailure;
}

int32_t Plugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
    DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept
{
    return checked("configurePlugin", in, nbInputs, out, nbOutputs, Sizes::kMaybeUnknown);
}

int32_t Plugin::onShapeChange(
    PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* out, int32_t nbOutputs) noexcept
{
    return checked("onShapeChange", in, nbInputs, out, nbOutputs, Sizes::kKnown);
}

char const* Plugin::getTimingCacheID() noexcept
{
    return getMetadataString(); // TensorRT adds shapes and formats itself
}

char const* Plugin::getMetadataString() noexcept
{
    return mContract.field == nullptr ? "" : kConventionNames[static_cast<size_t>(mConvention)];
}

bool Plugin::hasPointers(void const* const* inputs, void* const* outputs) const noexcept
{
    bool present = inputs != nullptr && outputs != nullptr && outputs[0] != nullptr;
    for (int32_t index = 0; present && index < mContract.inputCount(); ++index)
    {
        present = inputs[index] != nullptr;
    }
    if (!present)
    {
        logError("%s: enqueue got a null pointer; expected the addresses of %d inputs and of the output",
            mContract.name, static_cast<int>(mContract.inputCount()));
    }
    return present;
}

int32_t Plugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void* /*workspace*/, cudaStream_t stream) noexcept
{
    int32_t const nbInputs = mContract.inputCount();
    // Check again, for a few nanoseconds: a launch must not rely on onShapeChange having been called.
    if (checked("enqueue", inputDesc, nbInputs, outputDesc, 1, Sizes::kKnown) != kSuccess)
    {
        return kFailure;
    }
    if (isEmpty(outputDesc[0].dims))
    {
        return kSuccess;
    }
    if (!hasPointers(inputs, outputs))
    {
        return kFailure;
    }
    Tensors const tensors = tensorsOf(inputDesc, nbInputs, outputDesc, nbInputs + 1);
    cudaError_t const status = start(tensors, inputs, outputs[0], stream);
    if (status != cudaSuccess)
    {
        logError("%s: the kernel did not start: %s; expected a driver, a GPU that the library is built for (its "
                 "CMAKE_CUDA_ARCHITECTURES) and sizes that are not zero",
            mContract.name, cudaGetErrorName(status));
        return kFailure;
    }
    return kSuccess;
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext* /*context*/) noexcept
{
    return clone(); // takes no resources from the context
}

PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept
{
    char const* const text = getMetadataString();
    mField = PluginField(mContract.field, text, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(text)));
    mFields = PluginFieldCollection{mContract.field == nullptr ? 0 : 1, &mField};
    return &mFields;
}

Creator::Creator(PluginContract const& contract, Make make) noexcept
    : mContract(contract)
    , mMake(make)
    , mField(contract.field, nullptr, PluginFieldType::kCHAR, 1)
    , mFields{contract.field == nullptr ? 0 : 1, &mField}
{
}

IPluginV3* Creator::createPlugin(
    AsciiChar const* name, PluginFieldCollection const* fc, TensorRTPhase phase) noexcept
{
    if (name == nullptr || fc == nullptr)
    {
        logError("%s: createPlugin got a null pointer as %s; expected a string and fields", mContract.name,
            name == nullptr ? "name" : "fields");
        return nullptr;
    }
    if (phase != TensorRTPhase::kBUILD && phase != TensorRTPhase::kRUNTIME)
    {
        logError("%s: createPlugin got phase %d; expected build (0) or runtime (1)", mContract.name,
            static_cast<int>(phase));
        return nullptr;
    }
    Convention convention{};
    if (!readFields(mContract, *fc, convention))
    {
        return nullptr;
    }
    IPluginV3* const plugin = mMake(convention);
    if (plugin == nullptr)
    {
        logError("%s: no memory for a plugin; free some and try again", mContract.name);
    }
    return plugin;
}

PluginFieldCollection const* Creator::getFieldNames() noexcept
{
    return &mFields;
}

AsciiChar const* Creator::getPluginName() const noexcept
{
    return mContract.name;
}

AsciiChar const* Creator::getPluginVersion() const noexcept
{
    return mContract.version;
}

AsciiChar const* Creator::getPluginNamespace() const noexcept
{
    return kPluginNamespace;
}

} // namespace alignseg
