/* A CUDA driver without a GPU: device memory is host memory, and work is done at once.

   It holds callers to the driver's rules: a context must be current, a capture forbids waiting, and
   what was freed is gone. Its kernels are `scale` of tests/gpu/test_gpu_cuda.py, and for any cubin what
   tests/support/host_entries.py has compiled for the CPU. Only for tests of what calls a driver; built as
   libcuda.so.1 by tests/plugins/test_host_driver.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901
};
enum { MOST_WORK = 64, MOST_DEPTH = 64 };
#define ROOM ((size_t)4 << 30)

typedef struct { void *target; const void *source; size_t size; } Copy;
typedef struct { int count; Copy copies[MOST_WORK]; } Graph;
typedef struct { int capturing, spoilt; Graph *graph; } Stream;
typedef struct { struct timespec time; } Event;
typedef struct { enum { UNLOADED, CUBIN, PTX } kind; } Module;
typedef uint64_t Address;

static int retained;
static _Thread_local int depth;

#define NEED_CONTEXT do { if (depth == 0) return INVALID_CONTEXT; } while (0)

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int index) { *device = index; return index ? INVALID_DEVICE : OK; }
int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, size, "no GPU at all");
  return device ? INVALID_DEVICE : OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 41 ? 1 : 1024;
  return device ? INVALID_DEVICE : OK;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) {
  *major = 9, *minor = 0;
  return device ? INVALID_DEVICE : OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
  ++retained;
  *context = (void *)0xC0;
  return device ? INVALID_DEVICE : OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  return device || retained-- == 0 ? INVALID_CONTEXT : OK;
}
int cuCtxPushCurrent_v2(void *context) {
  if (context != (void *)0xC0 || !retained || depth == MOST_DEPTH) return INVALID_CONTEXT;
  ++depth;
  return OK;
}
int cuCtxPopCurrent_v2(void **context) {
  NEED_CONTEXT;
  --depth;
  *context = (void *)0xC0;
  return OK;
}

int cuMemGetInfo_v2(size_t *unused, size_t *total) { NEED_CONTEXT; *unused = *total = ROOM; return OK; }
static int allocate(void **memory, size_t size) {
  NEED_CONTEXT;
  if (size == 0) return INVALID_VALUE;
  if (size > ROOM) return OUT_OF_MEMORY;
  *memory = malloc(size);
  return *memory ? OK : OUT_OF_MEMORY;
}
int cuMemAlloc_v2(Address *address, size_t size) { return allocate((void **)address, size); }
int cuMemFree_v2(Address address) { NEED_CONTEXT; free((void *)address); return OK; }
int cuMemHostAlloc(void **memory, size_t size, unsigned flags) {
  return flags == 1 ? allocate(memory, size) : INVALID_VALUE;
}
int cuMemFreeHost(void *memory) { NEED_CONTEXT; free(memory); return OK; }

static int copy(Stream *stream, Copy work) {
  NEED_CONTEXT;
  if (stream == NULL) return INVALID_HANDLE;
  if (!stream->capturing) {
    memcpy(work.target, work.source, work.size);
    return OK;
  }
  if (stream->graph->count == MOST_WORK) return OUT_OF_MEMORY;
  stream->graph->copies[stream->graph->count++] = work;
  return OK;
}
int cuMemcpyHtoDAsync_v2(Address target, const void *source, size_t size, Stream *stream) {
  return copy(stream, (Copy){(void *)target, source, size});
}
int cuMemcpyDtoHAsync_v2(void *target, Address source, size_t size, Stream *stream) {
  return copy(stream, (Copy){target, (const void *)source, size});
}

int cuStreamCreate(Stream **stream, unsigned flags) {
  NEED_CONTEXT;
  *stream = calloc(1, sizeof **stream);
  return flags == 1 ? OK : INVALID_VALUE;
}
int cuStreamDestroy_v2(Stream *stream) { NEED_CONTEXT; free(stream); return OK; }
int cuStreamSynchronize(Stream *stream) {
  NEED_CONTEXT;
  stream->spoilt |= stream->capturing;
  return stream->capturing ? CAPTURE_UNSUPPORTED : OK;
}

int cuEventCreate(Event **event, unsigned flags) {
  NEED_CONTEXT;
  *event = calloc(1, sizeof **event);
  return flags ? INVALID_VALUE : OK;
}
int cuEventDestroy_v2(Event *event) { NEED_CONTEXT; free(event); return OK; }
int cuEventRecord(Event *event, Stream *stream) {
  NEED_CONTEXT;
  clock_gettime(CLOCK_MONOTONIC, &event->time);
  return stream ? OK : INVALID_HANDLE;
}
int cuEventSynchronize(Event *event) { NEED_CONTEXT; return event ? OK : INVALID_HANDLE; }
int cuEventElapsedTime(float *ms, Event *start, Event *end) {
  NEED_CONTEXT;
  *ms = (end->time.tv_sec - start->time.tv_sec) * 1e3f;
  *ms += (end->time.tv_nsec - start->time.tv_nsec) * 1e-6f;
  return OK;
}
int cuEventElapsedTime_v2(float *ms, Event *start, Event *end) {
  return cuEventElapsedTime(ms, start, end);
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
  NEED_CONTEXT;
  if (mode != 1) return INVALID_VALUE; /* any but THREAD_LOCAL would stop other threads */
  stream->capturing = 1;
  stream->spoilt = 0;
  stream->graph = calloc(1, sizeof *stream->graph);
  return OK;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
  NEED_CONTEXT;
  stream->capturing = 0;
  *graph = stream->spoilt ? NULL : stream->graph;
  return stream->spoilt ? CAPTURE_INVALIDATED : OK;
}
int cuGraphInstantiateWithFlags(Graph **made, const Graph *graph, unsigned long long flags) {
  NEED_CONTEXT;
  *made = malloc(sizeof **made);
  **made = *graph;
  return flags ? INVALID_VALUE : OK;
}
int cuGraphLaunch(const Graph *graph, Stream *stream) {
  for (int i = 0; i < graph->count; ++i) {
    int status = copy(stream, graph->copies[i]);
    if (status != OK) return status;
  }
  return OK;
}
int cuGraphDestroy(Graph *graph) { NEED_CONTEXT; free(graph); return OK; }
int cuGraphExecDestroy(Graph *graph) { NEED_CONTEXT; free(graph); return OK; }

int cuModuleLoadData(Module **module, const char *image) {
  NEED_CONTEXT;
  const int cubin = !memcmp(image, "\177ELF", 4);
  *module = malloc(sizeof **module);
  (*module)->kind = cubin ? CUBIN : PTX;
  return cubin || strstr(image, ".entry scale(") ? OK : INVALID_IMAGE;
}
int cuModuleLoadDataEx(Module **module, const char *image, unsigned count, int *options, void **values) {
  (void)count, (void)options, (void)values;
  return cuModuleLoadData(module, image);
}
int cuModuleUnload(Module *module) {
  NEED_CONTEXT;
  if (module->kind == UNLOADED) return INVALID_HANDLE;
  module->kind = UNLOADED; /* its memory stays, so that a later use is seen */
  return OK;
}
/* Of a cubin, what $HOST_KERNELS has compiled for the CPU: libraries, with a colon after each. */
static void *host_kernel(const char *name) {
  char symbol[128], path[4096];
  const char *rest = getenv("HOST_KERNELS");
  snprintf(symbol, sizeof symbol, "run_%s", name);
  while (rest && *rest) {
    size_t length = strcspn(rest, ":");
    snprintf(path, sizeof path, "%.*s", (int)length, rest);
    void *library = dlopen(path, RTLD_NOW), *function = library ? dlsym(library, symbol) : NULL;
    if (function) return function;
    rest += length + (rest[length] == ':');
  }
  return NULL;
}
int cuModuleGetFunction(void **function, const Module *module, const char *name) {
  NEED_CONTEXT;
  if (module->kind == UNLOADED) return INVALID_HANDLE;
  if (module->kind == CUBIN) return (*function = host_kernel(name)) ? OK : NOT_FOUND;
  *function = (void *)0xF0;
  return strcmp(name, "scale") ? NOT_FOUND : OK;
}
int cuFuncSetBlockShape(void *function, int x, int y, int z) {
  return function && x * y * z > 0 ? OK : INVALID_VALUE; /* PyCUDA still calls it */
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, Stream *stream, void **values, void **packed) {
  NEED_CONTEXT;
  if (function != (void *)0xF0 && stream && !shared && gy * gz * by * bz == 1) {
    /* Our kernels take one structure. PyCUDA packs it. */
    ((void (*)(const void *, unsigned, unsigned))function)(packed ? packed[1] : values[0], gx, bx);
    return OK;
  }
  if (function != (void *)0xF0 || stream == NULL || shared || gy * gz * by * bz != 1) return INVALID_VALUE;
  char *buffer = packed ? packed[1] : NULL; /* after CU_LAUNCH_PARAM_BUFFER_POINTER */
  float *data = *(float **)(buffer ? buffer : values[0]);
  float factor = *(float *)(buffer ? buffer + 8 : values[1]);
  unsigned count = *(unsigned *)(buffer ? buffer + 12 : values[2]);
  for (unsigned i = 0; i < count && i < gx * bx; ++i) data[i] *= factor;
  return OK;
}

int cuGetErrorString(int status, const char **text) {
  *text = status == OK ? "no error" : "an error of the host driver";
  return OK;
}
int cuGetErrorName(int status, const char **text) { return cuGetErrorString(status, text); }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  (void)version, (void)flags;
  char newer[128];
  Dl_info self;
  dladdr((void *)cuInit, &self);
  void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  snprintf(newer, sizeof newer, "%s_v2", name);
  *function = dlsym(library, newer);
  if (*function == NULL) *function = dlsym(library, name);
  if (*function == NULL && !strcmp(name, "cuGraphInstantiate")) *function = (void *)cuGraphInstantiateWithFlags;
  if (status) *status = *function ? 0 : 1;
  return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
