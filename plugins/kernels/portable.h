// What kernels need from their environment, for nvcc, NVRTC and a plain C++ compiler alike.
//
// This file includes nothing from CUDA: NVRTC finds no headers unless told where they are, and a C++
// compiler that builds the arithmetic for a test has none. Therefore float16 is a struct of its bits.

#ifndef ALIGNSEG_PORTABLE_H
#define ALIGNSEG_PORTABLE_H

#ifdef __CUDACC_RTC__
using int32_t = int;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

#ifdef __CUDACC__
#define ALIGNSEG_HD __host__ __device__ __forceinline__
#else
#define ALIGNSEG_HD inline
#endif

// Stands after `void` of a kernel: the threads of a block, and how many blocks must fit on a
// multiprocessor. They would fit without it, but it changes how many registers ptxas uses, and with
// them the order of loads.
#ifdef __CUDACC__
#define ALIGNSEG_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#else
#define ALIGNSEG_BOUNDS(threads, blocks)
#endif

// Unrolls the loop that follows, so that `count` of its loads are in flight at once.
#ifdef __CUDACC__
#define ALIGNSEG_PRAGMA(text) _Pragma(#text)
#define ALIGNSEG_UNROLL(count) ALIGNSEG_PRAGMA(unroll count)
#else
#define ALIGNSEG_UNROLL(count)
#endif

namespace alignseg
{

//! A float16, stored as its bits. Arithmetic happens in float.
struct Half
{
    uint16_t bits;
};

//! Types in which features, offsets and logits are stored.
enum class Scalar : int32_t
{
    kFloat = 0,
    kHalf = 1,
};

#if !defined(__CUDA_ARCH__)
namespace host
{

//! Converts float16 bits to float; exact.
inline float floatOf(uint16_t bits)
{
    uint32_t const sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
    uint32_t const exponent = (bits >> 10) & 0x1FU;
    uint32_t const mantissa = bits & 0x3FFU;
    if (exponent == 0) // zero and subnormal numbers
    {
        float const magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8F; // 2^-24
        return sign != 0 ? -magnitude : magnitude;
    }
    uint32_t const raised = exponent == 0x1FU ? 0xFFU : exponent + 112U; // 127 - 15
    uint32_t const word = sign | (raised << 23) | (mantissa << 13);
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

//! Converts to the nearest float16; ties go to even, as on GPUs.
inline uint16_t halfOf(float value)
{
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    uint16_t const sign = static_cast<uint16_t>((word >> 16) & 0x8000U);
    uint32_t const magnitude = word & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U)
    {
        return 0x7FFFU; // the NaN that cvt.rn.f16.f32 gives
    }
    if (magnitude >= 0x477FF000U) // rounds to 65536 or more
    {
        return static_cast<uint16_t>(sign | 0x7C00U);
    }
    if (magnitude < 0x38800000U) // below 2^-14: in units of 2^-24
    {
        float scaled;
        std::memcpy(&scaled, &magnitude, sizeof scaled);
        return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyintf(scaled * 16777216.0F)));
    }
    uint32_t const odd = (magnitude >> 13) & 1U;
    uint32_t const rounded = magnitude + 0xFFFU + odd;
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

} // namespace host
#endif

ALIGNSEG_HD float toFloat(float value)
{
    return value;
}

ALIGNSEG_HD float toFloat(Half value)
{
#if defined(__CUDA_ARCH__)
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    return host::floatOf(value.bits);
#endif
}

//! Converts `value` to the type it is stored in, rounded to nearest even.
template <typename T>
ALIGNSEG_HD T fromFloat(float value);

template <>
ALIGNSEG_HD float fromFloat<float>(float value)
{
    return value;
}

template <>
ALIGNSEG_HD Half fromFloat<Half>(float value)
{
    Half result;
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    result.bits = host::halfOf(value);
#endif
    return result;
}

ALIGNSEG_HD uint32_t bitsOf(float value)
{
#if defined(__CUDA_ARCH__)
    return __float_as_uint(value);
#else
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

ALIGNSEG_HD float floatOfBits(uint32_t bits)
{
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

//! Computes `dividend / divisor` of sizes: non-negative numbers below 2^64, none of them tiny. A GPU's
//! `/` handles all other numbers too, which takes a branch and a call; this is as exact except for
//! rare ties.
ALIGNSEG_HD float quotient(float dividend, float divisor)
{
#if defined(__CUDA_ARCH__)
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(divisor));
    float const guess = dividend * reciprocal;
    return fmaf(fmaf(-guess, divisor, dividend), reciprocal, guess);
#else
    return dividend / divisor;
#endif
}

//! Computes e^value with a relative error of 2^-16 for values above -90: for confidences, which have 8
//! bits.
ALIGNSEG_HD float exponential(float value)
{
#if defined(__CUDA_ARCH__)
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value * 1.4426950408889634F));
    return result;
#else
    return expf(value);
#endif
}

//! A rational position on a line of pixels: `whole + rest`, 0 <= rest < 1.
struct Position
{
    int64_t whole;
    float rest;
};

//! Computes `index * numerator / denominator`, exact except for the one rounding of `rest`. A float
//! product would be off by up to 2^-12 pixel at index 4096.
ALIGNSEG_HD Position positionOf(int64_t index, int64_t numerator, int64_t denominator)
{
    uint64_t const product = static_cast<uint64_t>(index) * static_cast<uint64_t>(numerator);
    uint64_t const divisor = static_cast<uint64_t>(denominator);
    if ((product | divisor) <= 0xFFFFFFFFU) // a 64-bit division costs a GPU five times as much
    {
        uint32_t const small = static_cast<uint32_t>(product);
        uint32_t const by = static_cast<uint32_t>(divisor);
        uint32_t const whole = small / by;
        return {static_cast<int64_t>(whole), quotient(static_cast<float>(small - whole * by), static_cast<float>(by))};
    }
    uint64_t const whole = product / divisor;
    return {static_cast<int64_t>(whole), quotient(static_cast<float>(product - whole * divisor), static_cast<float>(divisor))};
}

} // namespace alignseg

#endif // ALIGNSEG_PORTABLE_H
