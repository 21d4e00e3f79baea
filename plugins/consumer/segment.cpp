// Labels the pixels of an image with a TensorRT engine:  segment ENGINE IMAGE.ppm LABELS.pgm [HEIGHTxWIDTH]
//
// ENGINE.json has the facts of the engine. Where they name plugins, libalignseg_plugin.so lies beside it.
// The image is a PPM file (P6). The labels are a PGM file (P5) of the image's size, with 16 bits where a
// label may be above 255. HEIGHTxWIDTH is the size of the network's input; without it, that is the
// engine's size if the engine takes only one, and the image's otherwise.

#include "files.h"
#include "preprocess_kernel.h"
#include "upsample_argmax_kernel.h"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <memory>

using namespace alignseg;

namespace
{

class Logger : public nvinfer1::ILogger
{
public:
    void log(Severity severity, char const* message) noexcept override
    {
        if (severity <= Severity::kWARNING)
        {
            std::cerr << "TensorRT: " << message << '\n';
        }
    }
};

void require(cudaError_t status, std::string const& what)
{
    if (status != cudaSuccess)
    {
        throw Failure(what + " failed: " + cudaGetErrorString(status), "a GPU, its driver, and free memory on it",
            "run nvidia-smi, which shows them");
    }
}

struct Free
{
    void operator()(void* memory) const
    {
        cudaFree(memory);
    }
};
using DeviceMemory = std::unique_ptr<void, Free>;

DeviceMemory allocate(int64_t size)
{
    void* memory = nullptr;
    require(cudaMalloc(&memory, static_cast<size_t>(size)), "allocating " + std::to_string(size) + " bytes");
    return DeviceMemory(memory);
}

//! Loads the plugins that the engine needs, then the engine.
std::unique_ptr<nvinfer1::ICudaEngine> load(nvinfer1::IRuntime& runtime, Facts const& facts, std::string const& path)
{
    runtime.setEngineHostCodeAllowed(facts.hasCode); // it is run: load only engines that you trust
    std::string const library = folderOf(path) + "libalignseg_plugin.so";
    if (facts.needsPlugins
        && (!exists(library) || runtime.getPluginRegistry().loadLibrary(library.c_str()) == nullptr))
    {
        throw Failure("the library of plugins " + library + " is not there or cannot be loaded",
            "the library built for TensorRT " + facts.tensorrt,
            "alignseg deploy cpp ENGINE --plugin libalignseg_plugin.so -o FOLDER");
    }
    std::string const plan = readFile(path, "a TensorRT engine");
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime.deserializeCudaEngine(plan.data(), plan.size()));
    if (engine == nullptr)
    {
        throw Failure(path + " cannot be loaded; TensorRT says why above",
            "TensorRT " + facts.tensorrt + ", and a GPU like the one that the engine was built on",
            "build it again here: alignseg export-trt MODEL -o ENGINE");
    }
    return engine;
}

int64_t volume(nvinfer1::Dims const& shape)
{
    int64_t count = 1;
    for (int32_t axis = 0; axis < shape.nbDims; ++axis)
    {
        count *= shape.d[axis];
    }
    return count;
}

int64_t bytesOf(nvinfer1::DataType type)
{
    switch (type)
    {
    case nvinfer1::DataType::kFLOAT:
    case nvinfer1::DataType::kINT32: return 4;
    case nvinfer1::DataType::kHALF: return 2;
    case nvinfer1::DataType::kUINT8: return 1;
    default: throw unfit("a tensor of type " + std::to_string(static_cast<int32_t>(type)));
    }
}

Scalar scalarOf(nvinfer1::DataType type)
{
    if (type != nvinfer1::DataType::kFLOAT && type != nvinfer1::DataType::kHALF)
    {
        throw unfit("an image or logits that are not floating-point numbers");
    }
    return type == nvinfer1::DataType::kFLOAT ? Scalar::kFloat : Scalar::kHalf;
}

//! Runs the engine on one image. All work is in one stream; host memory is read after it ended.
class Network
{
public:
    Network(nvinfer1::ICudaEngine& engine, Size input)
        : mEngine(engine)
        , mContext(engine.createExecutionContext())
        , mInput(input)
    {
        if (mContext == nullptr)
        {
            throw Failure("the engine cannot be prepared; TensorRT says why above", "enough free memory on the GPU",
                "end other programs that use it, which nvidia-smi lists");
        }
        if (!mContext->setInputShape("image", {4, {1, 3, input.height, input.width}}))
        {
            throw unfit("no input 'image' of 1x3x" + input.text());
        }
        for (int32_t index = 0; index < engine.getNbIOTensors(); ++index)
        {
            char const* const name = engine.getIOTensorName(index);
            int64_t const size = volume(mContext->getTensorShape(name)) * bytesOf(engine.getTensorDataType(name));
            mTensors[name] = allocate(size);
            mContext->setTensorAddress(name, mTensors[name].get());
        }
    }

    //! Returns the label of each pixel of the image.
    std::vector<uint16_t> run(Facts const& facts, Image const& image, cudaStream_t stream)
    {
        int64_t const bytes = static_cast<int64_t>(image.bgr.size());
        DeviceMemory const pixels = allocate(bytes);
        require(cudaMemcpyAsync(pixels.get(), image.bgr.data(), image.bgr.size(), cudaMemcpyHostToDevice, stream),
            "copying the image");
        PreprocessParams params{static_cast<uint8_t const*>(pixels.get()), mTensors.at("image").get(), 1,
            image.size.height, image.size.width, mInput.height, mInput.width, facts.swap ? 1 : 0, {}, {}};
        std::copy(facts.mean.begin(), facts.mean.end(), params.mean);
        std::copy(facts.std.begin(), facts.std.end(), params.std);
        require(launchPreprocess(params, scalarOf(mEngine.getTensorDataType("image")), stream), "preparing the image");
        if (!mContext->enqueueV3(stream))
        {
            throw Failure("the engine did not start; TensorRT says why above", "an engine that fits its facts",
                "build it again: alignseg export-trt MODEL -o ENGINE");
        }
        return facts.returnsLabels ? readLabels(image.size, stream) : labelLogits(facts, image.size, stream);
    }

private:
    void* output(char const* name) const
    {
        auto const found = mTensors.find(name);
        if (found == mTensors.end())
        {
            throw unfit("no output '" + std::string(name) + "'");
        }
        return found->second.get();
    }

    //! Upsamples the logits (1, C, h, w) with aligned corners, and takes the argmax, on the GPU.
    std::vector<uint16_t> labelLogits(Facts const& facts, Size size, cudaStream_t stream)
    {
        void const* const logits = output("logits");
        nvinfer1::Dims const shape = mContext->getTensorShape("logits");
        if (shape.nbDims != 4 || shape.d[1] != facts.classes)
        {
            throw unfit("logits that are not (1, " + std::to_string(facts.classes) + ", height, width)");
        }
        size_t const count = static_cast<size_t>(size.height * size.width);
        DeviceMemory const labels = allocate(static_cast<int64_t>(2 * count)), notFinite = allocate(4);
        require(cudaMemsetAsync(notFinite.get(), 0, 4, stream), "clearing a flag");
        UpsampleArgmaxParams const params{logits, labels.get(), nullptr, nullptr, nullptr,
            static_cast<int32_t*>(notFinite.get()), 1, facts.classes, shape.d[2], shape.d[3], size.height, size.width};
        Scalar const scalar = scalarOf(mEngine.getTensorDataType("logits"));
        require(launchUpsampleArgmax(params, scalar, Label::kUint16, stream), "labelling the pixels");
        std::vector<uint16_t> found(count);
        int32_t flag = 0;
        require(cudaMemcpyAsync(&flag, notFinite.get(), 4, cudaMemcpyDeviceToHost, stream), "copying a flag");
        require(cudaMemcpyAsync(found.data(), labels.get(), 2 * count, cudaMemcpyDeviceToHost, stream),
            "copying the labels");
        require(cudaStreamSynchronize(stream), "running the engine");
        if (flag != 0)
        {
            throw Failure("the network returned NaN or infinite logits", "finite logits",
                "check the weights, the mean and the std: alignseg inspect MODEL");
        }
        return found;
    }

    //! Copies labels of the input's size, and resizes them by nearest neighbour.
    std::vector<uint16_t> readLabels(Size size, cudaStream_t stream)
    {
        void const* const labels = output("labels");
        bool const isByte = mEngine.getTensorDataType("labels") == nvinfer1::DataType::kUINT8;
        int64_t const count = mInput.height * mInput.width;
        if (volume(mContext->getTensorShape("labels")) != count)
        {
            throw unfit("labels that are not of the input's size");
        }
        std::vector<uint8_t> raw(static_cast<size_t>(isByte ? count : 4 * count));
        require(cudaMemcpyAsync(raw.data(), labels, raw.size(), cudaMemcpyDeviceToHost, stream), "copying the labels");
        require(cudaStreamSynchronize(stream), "running the engine");
        std::vector<uint16_t> found;
        found.reserve(static_cast<size_t>(size.height * size.width));
        for (int64_t pixel = 0; pixel < size.height * size.width; ++pixel)
        {
            int64_t const row = (2 * (pixel / size.width) + 1) * mInput.height / (2 * size.height);
            int64_t const column = (2 * (pixel % size.width) + 1) * mInput.width / (2 * size.width);
            size_t const place = static_cast<size_t>(row * mInput.width + column);
            found.push_back(isByte ? raw[place] : static_cast<uint16_t>(reinterpret_cast<int32_t const*>(raw.data())[place]));
        }
        return found;
    }

    nvinfer1::ICudaEngine& mEngine;
    std::unique_ptr<nvinfer1::IExecutionContext> mContext;
    Size mInput;
    std::map<std::string, DeviceMemory> mTensors;
};

void segment(std::string const& engine, std::string const& image, std::string const& labels, std::string const& size)
{
    Facts const facts = readFacts(engine + ".json");
    Image const picture = readImage(image);
    Size const input = facts.inputSize(picture.size, size);
    require(cudaFree(nullptr), "opening the GPU");
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> const runtime(nvinfer1::createInferRuntime(logger));
    if (runtime == nullptr)
    {
        throw Failure("TensorRT does not start; it says why above", "TensorRT " + facts.tensorrt + " and a driver for it",
            "run nvidia-smi, which shows the driver");
    }
    auto const loaded = load(*runtime, facts, engine);
    cudaStream_t stream = nullptr;
    require(cudaStreamCreate(&stream), "creating a stream");
    std::vector<uint16_t> const found = Network(*loaded, input).run(facts, picture, stream);
    require(cudaStreamDestroy(stream), "ending the stream");
    writeLabels(labels, found, picture.size, std::max(facts.classes - 1, facts.unnamed));
    std::cout << labels << ": " << picture.size.text() << facts.shares(found) << '\n';
}

} // namespace

int main(int count, char** words)
{
    if (count < 4 || count > 5)
    {
        std::cerr << "usage: segment ENGINE IMAGE.ppm LABELS.pgm [HEIGHTxWIDTH]\n";
        return 2;
    }
    try
    {
        segment(words[1], words[2], words[3], count == 5 ? words[4] : "");
        return 0;
    }
    catch (std::exception const& error)
    {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
}
