// What the three plugins share: TensorRT's interfaces, logging, fields and checks of shapes.
//
// For TensorRT 10 and 11. Nothing here throws, and only plugin objects are allocated: messages are
// written into buffers on the stack.

#ifndef ALIGNSEG_PLUGIN_SUPPORT_H
#define ALIGNSEG_PLUGIN_SUPPORT_H

#include "convention.h"
#include "launch.h"

#include <NvInferRuntime.h>
#include <new>

#if defined(__GNUC__)
#define ALIGNSEG_PRINTF __attribute__((format(printf, 1, 2)))
#else
#define ALIGNSEG_PRINTF
#endif

namespace alignseg
{

//! The namespace in TensorRT's registry, and the domain of the nodes in an ONNX file.
inline constexpr char const* kPluginNamespace = "alignseg";

//! Strings of the field `convention`; the index is a Convention.
inline constexpr char const* kConventionNames[] = {"release-2021-12", "release-2021-05", "standard"};

inline constexpr int32_t kMaxInputs = 4;
inline constexpr int32_t kMaxTensors = kMaxInputs + 1; // all plugins have one output

//! The names by which others know a plugin and its parts.
struct PluginContract
{
    char const* name;
    char const* version;
    char const* inputs[kMaxInputs]; //!< unused ones are null
    char const* field;              //!< null: no field
    char const* types;              //!< the types it accepts, for messages

    constexpr int32_t inputCount() const
    {
        int32_t count = 0;
        while (count < kMaxInputs && inputs[count] != nullptr)
        {
            ++count;
        }
        return count;
    }
};

//! Logs an error through TensorRT; to stderr if TensorRT has given no logger.
void logError(char const* format, ...) noexcept ALIGNSEG_PRINTF;

//! Sets where to find TensorRT's logger from now on; null forgets it.
void useLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

//! Descriptions of a plugin's tensors: inputs, then the output. Unknown ones are null.
struct Tensors
{
    nvinfer1::PluginTensorDesc const* at[kMaxTensors]{};

    nvinfer1::PluginTensorDesc const& operator[](int32_t index) const
    {
        return *at[index];
    }
};

//! Whether -1, a size that is not known yet, may stand for a size.
enum class Sizes
{
    kKnown,
    kMaybeUnknown,
};

//! Compares sizes and logs the first one that does not fit. A size that is not known yet fits.
class ShapeCheck
{
public:
    ShapeCheck(PluginContract const& contract, Tensors const& tensors, Sizes sizes) noexcept;

    //! `tensor` must have `rank` dimensions. Call this before any other check of it.
    ShapeCheck& rank(int32_t tensor, int32_t rank) noexcept;
    //! Size `axis` of `tensor`, called `what` in messages, must be `expected`.
    ShapeCheck& equals(char const* what, int32_t tensor, int32_t axis, int64_t expected) noexcept;
    //! Size `axis` of `tensor` must equal size `otherAxis` of `other`.
    ShapeCheck& same(char const* what, int32_t tensor, int32_t axis, int32_t other, int32_t otherAxis) noexcept;
    //! Batch, channels, height and width of two tensors of rank 4 must be the same.
    ShapeCheck& sameShape(int32_t tensor, int32_t other) noexcept;
    //! Height and width of two tensors of rank 4 must be the same.
    ShapeCheck& sameSize(int32_t tensor, int32_t other) noexcept;

    bool passed() const noexcept
    {
        return mPassed;
    }

private:
    char const* nameOf(int32_t tensor) const noexcept;

    PluginContract const& mContract;
    Tensors const& mTensors;
    Sizes mSizes;
    bool mPassed{true};
};

//! Whether the type is FP32 or FP16.
bool isReal(nvinfer1::DataType type) noexcept;

//! Whether the tensor is linear, FP16 in kHWC8, or FP32 in kHWC with channels in multiples of four.
bool isFeature(nvinfer1::PluginTensorDesc const& tensor) noexcept;

//! Whether the tensor is FP32 or FP16, and linear.
bool isLinearReal(nvinfer1::PluginTensorDesc const& tensor) noexcept;

bool sameTypeAndFormat(nvinfer1::PluginTensorDesc const& left, nvinfer1::PluginTensorDesc const& right) noexcept;

//! The kernels' name for FP32 or FP16.
Scalar scalarOf(nvinfer1::DataType type) noexcept;

//! Elements from one pixel to the next; 0 for the linear format, as the kernels expect.
int64_t channelPitchOf(nvinfer1::PluginTensorDesc const& feature) noexcept;

//! The part of a plugin that does not depend on what it computes.
//!
//! TensorRT sees the plugin and its three capabilities as one object.
class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime
{
public:
    Plugin(PluginContract const& contract, Convention convention) noexcept;

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;

    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
        nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs,
        int32_t nbOutputs, nvinfer1::IExprBuilder& exprBuilder) noexcept override;
    bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut,
        int32_t nbInputs, int32_t nbOutputs) noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
    char const* getTimingCacheID() noexcept override;
    char const* getMetadataString() noexcept override;

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
        nvinfer1::PluginTensorDesc const* outputDesc, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

protected:
    Plugin(Plugin const&) noexcept = default;

    //! Whether the plugin accepts the type and format of tensor `pos`. Only tensors 0..pos are known.
    virtual bool accepts(int32_t pos, Tensors const& tensors) const noexcept = 0;
    //! Tells `check` what the tensors' shapes must be.
    virtual void checkShapes(ShapeCheck& check) const noexcept = 0;
    //! The output's type and sizes. All inputs have rank 4.
    virtual nvinfer1::DataType outputType(nvinfer1::DataType const* inputTypes) const noexcept = 0;
    virtual nvinfer1::DimsExprs outputShape(nvinfer1::DimsExprs const* inputs) const noexcept = 0;
    //! Starts the kernel. Everything has been checked.
    virtual cudaError_t start(
        Tensors const& tensors, void const* const* inputs, void* output, cudaStream_t stream) const noexcept = 0;

    PluginContract const& contract() const noexcept
    {
        return mContract;
    }

    Convention convention() const noexcept
    {
        return mConvention;
    }

private:
    bool hasCounts(char const* method, int32_t nbInputs, int32_t nbOutputs) const noexcept;
    bool hasPointers(void const* const* inputs, void* const* outputs) const noexcept;
    bool acceptsAll(Tensors const& tensors, int32_t count) const noexcept;
    template <typename Desc>
    int32_t checked(char const* method, Desc const* in, int32_t nbInputs, Desc const* out, int32_t nbOutputs,
        Sizes sizes) const noexcept;

    PluginContract const& mContract;
    Convention mConvention;
    nvinfer1::PluginField mField;
    nvinfer1::PluginFieldCollection mFields;
};

//! Returns a copy; or null, and logs the reason.
template <typename Concrete>
nvinfer1::IPluginV3* cloneOf(Concrete const& plugin, PluginContract const& contract) noexcept
{
    auto* copy = new (std::nothrow) Concrete(plugin);
    if (copy == nullptr)
    {
        logError("%s: no memory for a clone; free some and try again", contract.name);
    }
    return copy;
}

//! Makes plugins from fields and refuses unknown fields.
class Creator : public nvinfer1::IPluginCreatorV3One
{
public:
    //! Makes a plugin; null if there is no memory.
    using Make = nvinfer1::IPluginV3* (*) (Convention);

    Creator(PluginContract const& contract, Make make) noexcept;

    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name,
        nvinfer1::PluginFieldCollection const* fc, nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

private:
    PluginContract const& mContract;
    Make mMake;
    nvinfer1::PluginField mField;
    nvinfer1::PluginFieldCollection mFields;
};

} // namespace alignseg

#endif // ALIGNSEG_PLUGIN_SUPPORT_H
