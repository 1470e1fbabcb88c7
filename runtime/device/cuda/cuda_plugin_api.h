// What the program and its GPU plug-in (tandem_cuda.so) share. The plug-in alone is compiled with
// CUDA; it is linked with the static runtime and never with the driver, so that it opens on
// machines without one and can say so.
#pragma once

#include <cstdint>

#include "kernels/gpu/gpu_ops.h"

namespace tandem {

// Plug-in and program are built together: another number is another build.
inline constexpr uint32_t kCudaPluginVersion = 4;
inline constexpr const char* kCudaPluginSymbol = "tandem_cuda_plugin";

inline constexpr int kMostCudaDevices = 16;

struct CudaDeviceFacts {
  char name[256];
  int sm;  // 89 is compute capability 8.9
  int64_t vram_bytes;
};

// As the CUDA runtime says it.
struct CudaFacts {
  int error;           // cudaError_t of counting devices
  char message[256];   // what the runtime calls it
  int driver_version;  // of CUDA that the driver supports, 12040 is 12.4; 0: no driver
  int runtime_version;
  int n_devices;
  CudaDeviceFacts devices[kMostCudaDevices];
};

// The functions of the CUDA runtime that CudaDevice calls, as the "CUDA Runtime API" reference has
// them; each returns a cudaError_t, 0 for success. Tests put a table of their own in its place.
struct CudaRuntime {
  const char* (*error_text)(int error);
  int (*set_device)(int device);
  int (*memory)(int64_t* free_bytes, int64_t* total_bytes);
  int (*alloc)(void** at, int64_t bytes);
  int (*free)(void* at);
  // Page-locked memory of the host: new, or made of what is there.
  int (*alloc_host)(void** at, int64_t bytes);
  int (*free_host)(void* at);
  int (*pin)(const void* at, int64_t bytes);
  int (*unpin)(const void* at);
  // Streams do not wait for the default stream. Events take no times.
  int (*create_stream)(void** stream);
  int (*destroy_stream)(void* stream);
  int (*stream_wait)(void* stream, void* event);
  int (*create_event)(void** event);
  int (*destroy_event)(void* event);
  int (*record)(void* event, void* stream);
  int (*event_query)(void* event);  // cudaErrorNotReady, 600, before it has come
  int (*sync)();
  int (*copy_to_device)(void* to, const void* from, int64_t bytes, void* stream);
  int (*copy_to_host)(void* to, const void* from, int64_t bytes, void* stream);
  int (*copy_rows_to_device)(void* to, int64_t to_stride, const void* from, int64_t from_stride,
                             int64_t row_bytes, int64_t rows, void* stream);
  // What is enqueued on `stream` in between becomes a graph that can be launched
  // (cudaStreamBeginCapture, cudaStreamEndCapture, cudaGraphInstantiate).
  int (*begin_capture)(void* stream);
  int (*end_capture)(void* stream, void** graph);
  int (*launch_graph)(void* graph, void* stream);
  int (*destroy_graph)(void* graph);
  // What is enqueued later starts when *counter, page-locked memory of the host's, has come to
  // `value`, going round: (int)(*counter - value) >= 0. cuStreamWaitValue32 of the driver; error
  // 801 where there is none.
  int (*wait_value)(void* stream, const uint32_t* counter, uint32_t value);
  // A thread of the driver's calls f(data); what is enqueued later starts when it has returned.
  int (*host_function)(void* stream, void (*f)(void*), void* data);
  // Of launches since the last call.
  int (*last_error)();
};

struct CudaPlugin {
  uint32_t version;
  void (*look)(CudaFacts* facts);
  const CudaRuntime* runtime;
  const gpu::GpuOps* ops;
};

// The one symbol that the plug-in exports.
using CudaPluginFunction = const CudaPlugin* (*)();

}  // namespace tandem
