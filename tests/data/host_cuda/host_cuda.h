// Enough of CUDA for our kernels to run on the CPU, compiled by a plain C++ compiler: one block
// after the other, its threads one after the other, or as real threads where they synchronise.
// What it shows is arithmetic and addresses; not races between blocks, nor speed.

#ifndef ALIGNSEG_TESTS_HOST_CUDA_H
#define ALIGNSEG_TESTS_HOST_CUDA_H

#include <atomic>
#include <barrier>
#include <thread>
#include <vector>

#ifdef ALIGNSEG_REAL_CUDA_HEADERS // TensorRT's headers bring CUDA's types, and words for nvcc
#include <cuda_runtime_api.h>
#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __shared__
#undef __launch_bounds__
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

#ifndef ALIGNSEG_REAL_CUDA_HEADERS
using cudaStream_t = void*;
enum cudaError_t
{
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
};

struct uint3
{
    unsigned int x, y, z;
};

struct dim3
{
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
        : x(x_)
        , y(y_)
        , z(z_)
    {
    }
};
#endif

//! Of all that CUDA's runtime has, the one function that the plugins call.
extern "C" inline char const* cudaGetErrorName(cudaError_t error)
{
    return error == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "another error";
}

inline thread_local uint3 threadIdx;
inline thread_local uint3 blockIdx;
inline thread_local dim3 blockDim;
inline thread_local dim3 gridDim;
inline std::barrier<>* hostBarrier = nullptr;

inline void __syncthreads()
{
    hostBarrier->arrive_and_wait();
}

inline int atomicExch(int* address, int value)
{
    return std::atomic_ref<int>(*address).exchange(value);
}

inline int atomicAdd(int* address, int value)
{
    return std::atomic_ref<int>(*address).fetch_add(value);
}

//! Runs a kernel of a one-dimensional grid, from block `first` on, to its end.
template <typename Params>
cudaError_t hostLaunch(
    void (*kernel)(Params), Params params, dim3 grid, dim3 block, bool synchronised, unsigned int first = 0)
{
    auto const runThread = [&](unsigned int thread, unsigned int of) {
        gridDim = grid;
        blockDim = block;
        for (unsigned int blockNumber = first; blockNumber < grid.x; ++blockNumber)
        {
            blockIdx = {blockNumber, 0, 0};
            for (unsigned int index = thread; index < block.x; index += of)
            {
                threadIdx = {index, 0, 0};
                kernel(params);
            }
            if (synchronised)
            {
                __syncthreads(); // no thread begins the next block before all ended this one
            }
        }
    };
    if (!synchronised)
    {
        runThread(0, 1);
        return cudaSuccess;
    }
    std::barrier<> barrier(static_cast<std::ptrdiff_t>(block.x));
    hostBarrier = &barrier;
    std::vector<std::thread> threads;
    for (unsigned int thread = 0; thread < block.x; ++thread)
    {
        threads.emplace_back(runThread, thread, block.x);
    }
    for (auto& thread : threads)
    {
        thread.join();
    }
    return cudaSuccess;
}

#endif // ALIGNSEG_TESTS_HOST_CUDA_H
