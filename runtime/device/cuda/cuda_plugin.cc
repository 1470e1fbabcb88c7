#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "runtime/device/cuda/cuda_plugin_api.h"

namespace tandem {
namespace {

// A kernel that is loaded when it is first launched may have to wait for the GPU, which may be
// waiting for the host, and takes memory that was free when the rest of it was planned (CUDA
// Programming Guide, Lazy Loading). The driver reads this at its first call.
void load_all_kernels_at_once() { (void)setenv("CUDA_MODULE_LOADING", "EAGER", 1); }

// Makes no context: that takes memory of the GPU, and time.
void look(CudaFacts* facts) {
  load_all_kernels_at_once();
  *facts = {};
  (void)cudaDriverGetVersion(&facts->driver_version);
  (void)cudaRuntimeGetVersion(&facts->runtime_version);
  int n = 0;  // left as it is where there is no driver
  const cudaError_t counted = cudaGetDeviceCount(&n);
  facts->error = static_cast<int>(counted);
  std::snprintf(facts->message, sizeof facts->message, "%s", cudaGetErrorString(counted));
  (void)cudaGetLastError();
  if (counted != cudaSuccess) return;
  for (int i = 0; i < std::min(n, kMostCudaDevices); ++i) {
    cudaDeviceProp properties{};
    const cudaError_t error = cudaGetDeviceProperties(&properties, i);
    if (error != cudaSuccess) {
      facts->error = static_cast<int>(error);
      std::snprintf(facts->message, sizeof facts->message, "device %d: %s", i,
                    cudaGetErrorString(error));
      (void)cudaGetLastError();
      return;
    }
    CudaDeviceFacts& device = facts->devices[facts->n_devices++];
    std::snprintf(device.name, sizeof device.name, "%s", properties.name);
    device.sm = 10 * properties.major + properties.minor;
    device.vram_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  }
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(void* event) { return static_cast<cudaEvent_t>(event); }
size_t size_of(int64_t bytes) { return static_cast<size_t>(bytes); }

int memory(int64_t* free_bytes, int64_t* total_bytes) {
  size_t free_now = 0;
  size_t total = 0;
  const cudaError_t error = cudaMemGetInfo(&free_now, &total);
  *free_bytes = static_cast<int64_t>(free_now);
  *total_bytes = static_cast<int64_t>(total);
  return error;
}

int create_stream(void** stream) {
  return cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking);
}

int create_event(void** event) {
  return cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t*>(event), cudaEventDisableTiming);
}

// The driver's function, which the static runtime finds in the driver that it has opened: nothing
// is linked against it.
using WaitValue = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned int);

WaitValue find_wait_value() {
  constexpr unsigned int kSince = 12000;  // the form without an attribute to ask for first
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuStreamWaitValue32", &found, kSince,
                                                             cudaEnableDefault, &result);
  (void)cudaGetLastError();
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess
             ? reinterpret_cast<WaitValue>(found)
             : nullptr;
}

int wait_value(void* stream, const uint32_t* counter, uint32_t value) {
  static const WaitValue kWait = find_wait_value();
  if (kWait == nullptr) return cudaErrorNotSupported;
  // Page-locked memory has one address for host and GPU (unified addressing). Errors of the driver
  // have the runtime's numbers.
  return static_cast<int>(kWait(static_cast<CUstream>(stream),
                                reinterpret_cast<CUdeviceptr>(counter), value,
                                CU_STREAM_WAIT_VALUE_GEQ));
}

// What failed is not reported again by calls that have nothing to do with it.
int checked(cudaError_t error) {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

int end_capture(void* stream, void** graph) {
  cudaGraph_t captured = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream_of(stream), &captured);
  if (error != cudaSuccess) return checked(error);
  cudaGraphExec_t made = nullptr;
  error = cudaGraphInstantiate(&made, captured, 0);
  (void)cudaGraphDestroy(captured);
  // Now, so that memory is refused here and not at the first launch.
  if (error == cudaSuccess) {
    error = cudaGraphUpload(made, stream_of(stream));
    if (error != cudaSuccess) (void)cudaGraphExecDestroy(made);
  }
  *graph = error == cudaSuccess ? made : nullptr;
  return checked(error);
}

constexpr CudaRuntime kRuntime = {
    .error_text = [](int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); },
    .set_device = [](int device) -> int { return cudaSetDevice(device); },
    .memory = &memory,
    .alloc = [](void** at, int64_t bytes) { return checked(cudaMalloc(at, size_of(bytes))); },
    .free = [](void* at) -> int { return cudaFree(at); },
    .alloc_host =
        [](void** at, int64_t bytes) {
          return checked(cudaHostAlloc(at, size_of(bytes), cudaHostAllocDefault));
        },
    .free_host = [](void* at) -> int { return cudaFreeHost(at); },
    .pin =
        [](const void* at, int64_t bytes) {
          return checked(
              cudaHostRegister(const_cast<void*>(at), size_of(bytes), cudaHostRegisterDefault));
        },
    .unpin = [](const void* at) -> int { return cudaHostUnregister(const_cast<void*>(at)); },
    .create_stream = &create_stream,
    .destroy_stream = [](void* stream) -> int { return cudaStreamDestroy(stream_of(stream)); },
    .stream_wait = [](void* stream, void* event) -> int {
      return cudaStreamWaitEvent(stream_of(stream), event_of(event), 0);
    },
    .create_event = &create_event,
    .destroy_event = [](void* event) -> int { return cudaEventDestroy(event_of(event)); },
    .record = [](void* event, void* stream) -> int {
      return cudaEventRecord(event_of(event), stream_of(stream));
    },
    .event_query = [](void* event) { return checked(cudaEventQuery(event_of(event))); },
    .sync = []() -> int { return cudaDeviceSynchronize(); },
    .copy_to_device = [](void* to, const void* from, int64_t bytes, void* stream) -> int {
      return cudaMemcpyAsync(to, from, size_of(bytes), cudaMemcpyHostToDevice, stream_of(stream));
    },
    .copy_to_host = [](void* to, const void* from, int64_t bytes, void* stream) -> int {
      return cudaMemcpyAsync(to, from, size_of(bytes), cudaMemcpyDeviceToHost, stream_of(stream));
    },
    .copy_rows_to_device = [](void* to, int64_t to_stride, const void* from, int64_t from_stride,
                              int64_t row_bytes, int64_t rows, void* stream) -> int {
      return cudaMemcpy2DAsync(to, size_of(to_stride), from, size_of(from_stride),
                               size_of(row_bytes), size_of(rows), cudaMemcpyHostToDevice,
                               stream_of(stream));
    },
    .begin_capture =
        [](void* stream) {
          return checked(
              cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal));
        },
    .end_capture = &end_capture,
    .launch_graph = [](void* graph, void* stream) -> int {
      return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream));
    },
    .destroy_graph = [](void* graph) -> int {
      return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
    },
    .wait_value = &wait_value,
    .host_function =
        [](void* stream, void (*f)(void*), void* data) {
          return checked(cudaLaunchHostFunc(stream_of(stream), f, data));
        },
    .last_error = []() -> int { return cudaGetLastError(); },
};

constexpr CudaPlugin kPlugin = {kCudaPluginVersion, &look, &kRuntime, &gpu::kCudaOps};

}  // namespace
}  // namespace tandem

extern "C" __attribute__((visibility("default"))) const tandem::CudaPlugin* tandem_cuda_plugin() {
  return &tandem::kPlugin;
}
