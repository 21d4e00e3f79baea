// Starts a kernel and returns CUDA's status. Not for NVRTC, which compiles no host code.

#ifndef ALIGNSEG_LAUNCH_H
#define ALIGNSEG_LAUNCH_H

#include "portable.h"

#ifdef ALIGNSEG_HOST_CUDA // tests run kernels on the CPU, through the launchers
#include "host_cuda.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace alignseg
{

//! Whether threads of a block wait for each other. Only the stand-in for CUDA on the host uses it.
enum class Threads
{
    kIndependent,
    kSynchronised,
};

//! Starts `blocks` blocks of `threads` threads. It does not allocate or synchronise.
template <Threads threading = Threads::kIndependent, typename Params>
cudaError_t launch(void (*kernel)(Params), Params params, int64_t blocks, int32_t threads, cudaStream_t stream)
{
    if (blocks <= 0)
    {
        return cudaSuccess;
    }
    if (blocks > 0x7FFFFFFF)
    {
        return cudaErrorInvalidValue;
    }
    dim3 const grid(static_cast<unsigned int>(blocks));
    dim3 const block(static_cast<unsigned int>(threads));
#ifdef ALIGNSEG_HOST_CUDA
    static_cast<void>(stream); // the host runs everything in order
    return hostLaunch(kernel, params, grid, block, threading == Threads::kSynchronised);
#else
    void* arguments[] = {&params};
    return cudaLaunchKernel(reinterpret_cast<void const*>(kernel), grid, block, arguments, 0, stream);
#endif
}

} // namespace alignseg

#endif // ALIGNSEG_LAUNCH_H
