// Runs the kernels before and after the network in arrays of exactly the size they need, for a
// build with sanitizers, which write to stderr what is wrong.

#include "preprocess_kernel.h"
#include "upsample_argmax_kernel.h"

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <random>

using namespace alignseg;

namespace
{

template <typename T>
std::unique_ptr<T[]> arrayOf(int64_t size)
{
    return std::unique_ptr<T[]>(new T[static_cast<size_t>(size)]);
}

std::mt19937 random(5);

//! Any bits: of logits these are NaN and infinity now and then.
template <typename T>
std::unique_ptr<T[]> noise(int64_t size)
{
    auto array = arrayOf<T>(size);
    auto* const bytes = reinterpret_cast<uint8_t*>(array.get());
    for (size_t index = 0; index < static_cast<size_t>(size) * sizeof(T); ++index)
    {
        bytes[index] = static_cast<uint8_t>(random());
    }
    return array;
}

struct Shape
{
    int64_t batch, classes, logitsHeight, logitsWidth, height, width;
};

template <typename T, typename L>
bool labels(Shape const& shape, Scalar scalar, Label label, bool confidences)
{
    int64_t const pixels = shape.batch * shape.height * shape.width;
    auto const logits = noise<T>(shape.batch * shape.classes * shape.logitsHeight * shape.logitsWidth);
    auto const palette = noise<uint8_t>(3 * shape.classes);
    auto const output = arrayOf<L>(pixels);
    auto const confidence = arrayOf<uint8_t>(pixels);
    auto const color = arrayOf<uint8_t>(3 * pixels);
    auto const notFinite = arrayOf<int32_t>(1);
    UpsampleArgmaxParams const params{logits.get(), output.get(), confidences ? confidence.get() : nullptr,
        color.get(), palette.get(), notFinite.get(), shape.batch, shape.classes, shape.logitsHeight, shape.logitsWidth, shape.height,
        shape.width};
    return launchUpsampleArgmax(params, scalar, label, nullptr) == cudaSuccess;
}

template <typename T>
bool inputs(Shape const& shape, Scalar scalar)
{
    auto const images = noise<uint8_t>(shape.batch * shape.logitsHeight * shape.logitsWidth * 3);
    auto const output = arrayOf<T>(shape.batch * 3 * shape.height * shape.width);
    PreprocessParams const params{images.get(), output.get(), shape.batch, shape.logitsHeight, shape.logitsWidth,
        shape.height, shape.width, 1, {1, 2, 3}, {1, 2, 3}};
    return launchPreprocess(params, scalar, nullptr) == cudaSuccess;
}

bool run(Shape const& shape)
{
    return labels<float, uint8_t>(shape, Scalar::kFloat, Label::kUint8, true)
        && labels<Half, uint16_t>(shape, Scalar::kHalf, Label::kUint16, false)
        && labels<Half, int32_t>(shape, Scalar::kHalf, Label::kInt32, true) && inputs<float>(shape, Scalar::kFloat)
        && inputs<Half>(shape, Scalar::kHalf);
}

} // namespace

//! Takes one argument: 1 to run all shapes, n to run every nth.
int main(int argc, char** argv)
{
    size_t const every = argc > 1 ? static_cast<size_t>(std::atoi(argv[1])) : 1;
    Shape const shapes[] = {
        {1, 3, 1, 1, 1, 1},
        {2, 3, 5, 7, 9, 11},
        {1, 3, 1, 1, 5, 130},
        {1, 2, 60, 40, 33, 131}, // corners of one tile are kept, of the next are not
        {1, 2, 9, 33, 33, 129},  // two tiles each way, of one row or column
        {1, 2, 32, 40, 32, 128}, // as many corners as are kept
        {1, 2, 21, 61, 32, 128}, // one more
        {1, 2, 60, 70, 9, 14},
        {1, 2, 5, 9, 5, 9}, // the last pixel begins at a whole word
        {1, 3, 9, 1, 1, 12},
        {1, 3, 12, 20, 24, 40},
        {1, 5, 10, 35, 37, 136},
    };
    for (size_t index = 0; index < std::size(shapes); index += every)
    {
        if (!run(shapes[index]))
        {
            return 1;
        }
    }
    std::puts("done");
    return 0;
}
