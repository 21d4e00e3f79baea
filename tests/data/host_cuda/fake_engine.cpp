// A libnvinfer that runs one engine on the CPU, and enough of CUDA's runtime for the program around it.
//
// The plan is a text: the name of the output, the number of its type, how many classes there are, and where labels
// have an axis of channels: nchw, nhwc, or nothing for none. For an image (1, 3, H, W) the engine returns
//   logits[c, y, x] = image[c % 3, 4 y, 4 x] * (c % 5 - 2) + c  of (H / 4, W / 4), or
//   labels[y, x] = |image[0, y, x]| % classes, without what is behind the point.
// A library of plugins is loaded if it exists. FAKE_NO_GPU is set where there is no GPU, FAKE_NAN where
// the logits are not finite, and FAKE_NO_CONTEXT where there is too little memory to run the engine.

#include "fake_defaults.h" // written by the test: every method of TensorRT's interfaces ends the program

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

using namespace nvinfer1;

namespace
{

std::string gLoaded; // libraries of plugins

class Registry : public IPluginRegistryDefaults
{
public:
    PluginLibraryHandle loadLibrary(AsciiChar const* path) noexcept override
    {
        gLoaded += path;
        return std::ifstream(path).good() ? this : nullptr;
    }
};

struct Plan
{
    std::string output;
    int32_t type = 0;
    int32_t classes = 0;
    std::string layout;
};

class Context : public VExecutionContextDefaults, public IExecutionContext
{
public:
    explicit Context(Plan const& plan)
        : mPlan(plan)
    {
        IExecutionContext::mImpl = this;
    }

    bool setInputShape(char const* name, Dims const& shape) noexcept override
    {
        mImage = shape;
        return std::strcmp(name, "image") == 0 && shape.d[2] <= 64;
    }

    Dims getTensorShape(char const* name) const noexcept override
    {
        if (std::strcmp(name, "image") == 0)
        {
            return mImage;
        }
        int64_t const height = mImage.d[2], width = mImage.d[3];
        if (mPlan.output != "labels")
        {
            return Dims{4, {1, mPlan.classes, height / 4, width / 4}};
        }
        if (mPlan.layout.empty())
        {
            return Dims{3, {1, height, width}};
        }
        return mPlan.layout == "nchw" ? Dims{4, {1, 1, height, width}} : Dims{4, {1, height, width, 1}};
    }

    bool setTensorAddress(char const* name, void* data) noexcept override
    {
        mAddresses[name] = data;
        return true;
    }

    bool enqueueV3(cudaStream_t) noexcept override
    {
        auto const* image = static_cast<float const*>(mAddresses["image"]);
        return mPlan.output == "labels" ? label(image) : computeLogits(image);
    }

private:
    bool label(float const* image)
    {
        void* const output = mAddresses[mPlan.output];
        for (int64_t pixel = 0; pixel < mImage.d[2] * mImage.d[3]; ++pixel)
        {
            int32_t const found = static_cast<int32_t>(std::fabs(image[pixel])) % mPlan.classes;
            if (mPlan.type == static_cast<int32_t>(DataType::kUINT8))
            {
                static_cast<uint8_t*>(output)[pixel] = static_cast<uint8_t>(found);
            }
            else
            {
                static_cast<int32_t*>(output)[pixel] = found;
            }
        }
        return true;
    }

    bool computeLogits(float const* image)
    {
        auto* output = static_cast<float*>(mAddresses[mPlan.output]);
        int64_t const height = mImage.d[2], width = mImage.d[3];
        for (int32_t index = 0; index < mPlan.classes; ++index)
        {
            for (int64_t y = 0; y < height / 4; ++y)
            {
                for (int64_t x = 0; x < width / 4; ++x)
                {
                    float const value = image[(index % 3 * height + 4 * y) * width + 4 * x];
                    *output++ = value * static_cast<float>(index % 5 - 2) + static_cast<float>(index);
                }
            }
        }
        if (std::getenv("FAKE_NAN") != nullptr)
        {
            output[-1] = std::nanf("");
        }
        return true;
    }

    Plan mPlan;
    Dims mImage{};
    std::map<std::string, void*> mAddresses;
};

class Engine : public VCudaEngineDefaults, public ICudaEngine
{
public:
    explicit Engine(Plan const& plan)
        : mPlan(plan)
    {
        ICudaEngine::mImpl = this;
    }

    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override
    {
        return std::getenv("FAKE_NO_CONTEXT") == nullptr ? new Context(mPlan) : nullptr;
    }

    int32_t getNbIOTensors() const noexcept override
    {
        return 2;
    }

    char const* getIOTensorName(int32_t index) const noexcept override
    {
        return index == 0 ? "image" : mPlan.output.c_str();
    }

    DataType getTensorDataType(char const* name) const noexcept override
    {
        return std::strcmp(name, "image") == 0 ? DataType::kFLOAT : static_cast<DataType>(mPlan.type);
    }

private:
    Plan mPlan;
};

class Runtime : public VRuntimeDefaults, public IRuntime
{
public:
    explicit Runtime(ILogger& logger)
        : mLogger(logger)
    {
        IRuntime::mImpl = this;
    }

    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override
    {
        std::istringstream text(std::string(static_cast<char const*>(blob), size));
        Plan plan;
        if (!(text >> plan.output >> plan.type >> plan.classes))
        {
            mLogger.log(ILogger::Severity::kERROR, "the plan is damaged");
            return nullptr;
        }
        text >> plan.layout;
        std::printf("plugins '%s', code %s\n", gLoaded.c_str(), mCode ? "allowed" : "refused");
        return new Engine(plan);
    }

    IPluginRegistry& getPluginRegistry() noexcept override
    {
        static Registry registry;
        return registry;
    }

    void setEngineHostCodeAllowed(bool allowed) noexcept override
    {
        mCode = allowed;
    }

private:
    ILogger& mLogger;
    bool mCode = false;
};

} // namespace

extern "C" void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept
{
    return static_cast<IRuntime*>(new Runtime(*static_cast<ILogger*>(logger)));
}

#ifndef FAKE_WITHOUT_CUDA
extern "C"
{
cudaError_t cudaMalloc(void** memory, size_t size)
{
    *memory = std::malloc(size);
    return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* memory)
{
    std::free(memory);
    return std::getenv("FAKE_NO_GPU") == nullptr ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaMemcpyAsync(void* target, void const* source, size_t size, cudaMemcpyKind, cudaStream_t)
{
    std::memcpy(target, source, size);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t size, cudaStream_t)
{
    std::memset(memory, value, size);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t*)
{
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

char const* cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "another error";
}
}
#endif
