// In the place of NVIDIA's runtime library, for the objects that nvcc made: it does nothing, and
// keeps what it was asked for. So the code around kernels that only nvcc compiles runs once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem::test {

struct CudaLaunch {
  std::string kernel;  // without namespaces, template arguments and parameters
  uint64_t grid[3];
  uint64_t block[3];
  uint64_t dynamic_shared_bytes;
  void* stream;
  std::vector<std::vector<uint8_t>> arguments;

  bool operator==(const CudaLaunch&) const = default;
};

struct FakeCudart {
  std::vector<CudaLaunch> launches;
  std::vector<std::string> calls;  // "cudaMalloc 256", pointers as p1, p2, … of known()
  int error = 0;                   // what all calls return
  int64_t registered_kernels = 0;
  // Sizes of the arguments of launches to come, as many as are kept of each.
  std::vector<std::vector<size_t>> argument_bytes;
  std::string module_loading;  // CUDA_MODULE_LOADING when the driver's version was asked for

  // How `calls` names what a test passes.
  static void* pointer(int n) { return reinterpret_cast<void*>(uintptr_t{0x1000} * unsigned(n)); }
};

FakeCudart& fake_cudart();

}  // namespace tandem::test
