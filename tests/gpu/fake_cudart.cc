#include "tests/gpu/fake_cudart.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <fmt/format.h>

#include <cstdlib>
#include <map>
#include <memory>

namespace tandem::test {
namespace {

// Of the launch that is being made: the stub pushes and pops it.
struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared;
  cudaStream_t stream;
};
std::vector<Configuration>& pushed() {
  static std::vector<Configuration> all;
  return all;
}

// Stubs are registered before main().
std::map<const void*, std::string>& kernels() {
  static std::map<const void*, std::string> all;
  return all;
}

std::string readable(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : mangled;
}

// "void tandem::gpu::cuda::(anonymous namespace)::scale<8>(float*)" is scale.
std::string base_name(const char* mangled) {
  std::string name = readable(mangled);
  const std::string hidden = "(anonymous namespace)::";
  for (size_t at = name.find(hidden); at != std::string::npos; at = name.find(hidden)) {
    name.erase(at, hidden.size());
  }
  name.resize(std::min(name.find('<'), name.find('(')));
  const size_t from = name.find_last_of(": ");
  return from == std::string::npos ? name : name.substr(from + 1);
}

// A small multiple of 0x1000 is FakeCudart::pointer().
std::string text(const void* at) {
  const auto value = reinterpret_cast<uintptr_t>(at);
  return value % 0x1000 == 0 && value < 0x100000 ? fmt::format("p{}", value / 0x1000) : "?";
}
std::string text(uint64_t n) { return fmt::format("{}", n); }

template <typename... Ts>
cudaError_t call(const char* name, Ts... arguments) {
  std::string line = name;
  ((line += " " + text(arguments)), ...);
  fake_cudart().calls.push_back(line);
  return static_cast<cudaError_t>(fake_cudart().error);
}

template <typename T>
cudaError_t give(const char* name, T* to, int n, const std::string& what = {}) {
  *to = reinterpret_cast<T>(FakeCudart::pointer(n));
  fake_cudart().calls.push_back(name + (what.empty() ? "" : " " + what));
  return static_cast<cudaError_t>(fake_cudart().error);
}

// cuStreamWaitValue32 of the driver.
CUresult wait_value(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags) {
  call("cuStreamWaitValue32", static_cast<const void*>(stream), reinterpret_cast<const void*>(at),
       uint64_t{value}, uint64_t{flags});
  return static_cast<CUresult>(fake_cudart().error);
}

}  // namespace

FakeCudart& fake_cudart() {
  static FakeCudart all;
  return all;
}

}  // namespace tandem::test

using namespace tandem::test;  // NOLINT: all of this is the runtime's

extern "C" {

// What stubs of nvcc call.
void** __cudaRegisterFatBinary(void* /*binary*/) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void** /*handle*/) {}
void __cudaUnregisterFatBinary(void** /*handle*/) {}
char __cudaInitModule(void** /*handle*/) { return 1; }
void __cudaRegisterFunction(void** /*handle*/, const char* stub, char* /*name*/,
                            const char* mangled, int /*threads*/, uint3* /*thread*/,
                            uint3* /*block*/, dim3* /*size*/, dim3* /*grid*/, int* /*warp*/) {
  kernels()[stub] = base_name(mangled);
  ++fake_cudart().registered_kernels;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  pushed().push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration last = pushed().back();
  pushed().pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
  const auto it = kernels().find(stub);
  if (it == kernels().end()) return cudaErrorInvalidDeviceFunction;
  FakeCudart& fake = fake_cudart();
  std::vector<std::vector<uint8_t>> kept;
  if (fake.launches.size() < fake.argument_bytes.size()) {
    for (const size_t bytes : fake.argument_bytes[fake.launches.size()]) {
      const auto* at = static_cast<const uint8_t*>(arguments[kept.size()]);
      kept.emplace_back(at, at + bytes);
    }
  }
  fake.launches.push_back({it->second,
                           {grid.x, grid.y, grid.z},
                           {block.x, block.y, block.z},
                           shared,
                           stream,
                           std::move(kept)});
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

// What the plug-in calls.
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error";
}
cudaError_t cudaGetLastError() { return call("cudaGetLastError"); }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  const char* loading = std::getenv("CUDA_MODULE_LOADING");
  fake_cudart().module_loading = loading != nullptr ? loading : "";
  return call("cudaDriverGetVersion");
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return call("cudaRuntimeGetVersion");
}
cudaError_t cudaGetDeviceCount(int* n) {
  *n = 2;
  return call("cudaGetDeviceCount");
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {};
  fmt::format_to_n(properties->name, sizeof properties->name - 1, "GPU {}", device);
  properties->major = 8;
  properties->minor = 6 + device;
  properties->totalGlobalMem = size_t{4096} << static_cast<unsigned>(device);
  return call("cudaGetDeviceProperties", static_cast<uint64_t>(device));
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = reinterpret_cast<void*>(&wait_value);
  *result = cudaDriverEntryPointSuccess;
  return call(fmt::format("cudaGetDriverEntryPointByVersion {} {}", name, version).c_str(),
              uint64_t{flags});
}
cudaError_t cudaSetDevice(int device) {
  return call("cudaSetDevice", static_cast<uint64_t>(device));
}
cudaError_t cudaDeviceSynchronize() { return call("cudaDeviceSynchronize"); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = 1000;
  *total_bytes = 4000;
  return call("cudaMemGetInfo");
}
cudaError_t cudaMalloc(void** at, size_t bytes) {
  return give("cudaMalloc", at, 1, text(uint64_t{bytes}));
}
cudaError_t cudaFree(void* at) { return call("cudaFree", static_cast<const void*>(at)); }
cudaError_t cudaHostAlloc(void** at, size_t bytes, unsigned flags) {
  return give("cudaHostAlloc", at, 2, fmt::format("{} {}", bytes, flags));
}
cudaError_t cudaFreeHost(void* at) { return call("cudaFreeHost", static_cast<const void*>(at)); }
cudaError_t cudaHostRegister(void* at, size_t bytes, unsigned flags) {
  return call("cudaHostRegister", static_cast<const void*>(at), uint64_t{bytes}, uint64_t{flags});
}
cudaError_t cudaHostUnregister(void* at) {
  return call("cudaHostUnregister", static_cast<const void*>(at));
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return give("cudaStreamCreateWithFlags", stream, 3, text(uint64_t{flags}));
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call("cudaStreamDestroy", static_cast<const void*>(stream));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return call("cudaStreamWaitEvent", static_cast<const void*>(stream),
              static_cast<const void*>(event), uint64_t{flags});
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return give("cudaEventCreateWithFlags", event, 4, text(uint64_t{flags}));
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call("cudaEventDestroy", static_cast<const void*>(event));
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", static_cast<const void*>(event), static_cast<const void*>(stream));
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call("cudaEventQuery", static_cast<const void*>(event));
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call("cudaMemcpyAsync", static_cast<const void*>(to), from, uint64_t{bytes},
              static_cast<uint64_t>(kind), static_cast<const void*>(stream));
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_stride, const void* from, size_t from_stride,
                              size_t row_bytes, size_t rows, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return call("cudaMemcpy2DAsync", static_cast<const void*>(to), uint64_t{to_stride}, from,
              uint64_t{from_stride}, uint64_t{row_bytes}, uint64_t{rows},
              static_cast<uint64_t>(kind), static_cast<const void*>(stream));
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call("cudaStreamBeginCapture", static_cast<const void*>(stream),
              static_cast<uint64_t>(mode));
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return give("cudaStreamEndCapture", graph, 5, text(static_cast<const void*>(stream)));
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph,
                                 unsigned long long flags) {
  return give("cudaGraphInstantiate", made, 6,
              fmt::format("{} {}", text(static_cast<const void*>(graph)), flags));
}
cudaError_t cudaGraphUpload(cudaGraphExec_t made, cudaStream_t stream) {
  return call("cudaGraphUpload", static_cast<const void*>(made), static_cast<const void*>(stream));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call("cudaGraphDestroy", static_cast<const void*>(graph));
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
  return call("cudaGraphLaunch", static_cast<const void*>(made), static_cast<const void*>(stream));
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) {
  return call("cudaGraphExecDestroy", static_cast<const void*>(made));
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  function(data);
  return call("cudaLaunchHostFunc", static_cast<const void*>(stream));
}

}  // extern "C"
