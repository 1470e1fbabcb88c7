// What nvcc and the host's compiler made for real GPUs, run on a CUDA runtime that does nothing
// (fake_cudart.h): each kernel is launched as its emulated twin is, and each function of the
// plug-in calls what it should. What kernels compute is not in it: that is test_gpu's, by their
// source.
#include <algorithm>
#include <functional>

#include "kernels/gpu/emulation/emulation.h"
#include "runtime/device/cuda/cuda_plugin_api.h"
#include "runtime/device/sim_device.h"
#include "runtime/selftest/kernel_checks.h"
#include "tests/gpu/fake_cudart.h"
#include "tests/selftest/selftest_testing.h"
#include "tests/support/catch.h"

extern "C" const tandem::CudaPlugin* tandem_cuda_plugin();

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

std::vector<vgpu::Launch> emulated_launches;
int64_t n_pairs = 0;
int64_t n_arguments = 0;

// Of "scale<8>" and "(scale<8, 1>)".
std::string base_name(std::string name) {
  name.erase(std::remove(name.begin(), name.end(), '('), name.end());
  return name.substr(0, name.find('<'));
}

CudaLaunch as_cuda(const vgpu::Launch& launch, void* stream) {
  return {base_name(launch.name),
          {launch.grid.x, launch.grid.y, launch.grid.z},
          {launch.block.x, launch.block.y, launch.block.z},
          launch.dynamic_shared_bytes,
          stream,
          {}};
}

// What is not padding is the same.
bool same(const vgpu::Argument& expected, const std::vector<uint8_t>& bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (((expected.bytes[i] ^ bytes[i]) & expected.meant[i]) != 0) return false;
  }
  return bytes.size() == expected.bytes.size();
}

// The sizes are those of the emulated twin, so a kernel with fewer arguments is not noticed here:
// it is the same source.
void check_arguments(const std::vector<vgpu::Launch>& expected, std::vector<CudaLaunch>* launches) {
  REQUIRE(expected.size() == launches->size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::vector<vgpu::Argument>& arguments = expected[i].arguments;
    INFO(expected[i].name);
    REQUIRE_FALSE(arguments.empty());
    REQUIRE((*launches)[i].arguments.size() == arguments.size());
    for (size_t a = 0; a < arguments.size(); ++a) {
      INFO("argument " << a);
      CHECK(same(arguments[a], (*launches)[i].arguments[a]));
      ++n_arguments;
    }
    (*launches)[i].arguments.clear();
  }
}

// kMember of the emulated table and then of CUDA's, with the same arguments.
template <auto kMember>
struct Pair;
template <typename... Ts, void (*gpu::GpuOps::*kMember)(void*, Ts...)>
struct Pair<kMember> {
  static void run(void* stream, Ts... arguments) {
    emulated_launches.clear();
    fake_cudart().launches.clear();
    auto* emulation = static_cast<vgpu::Emulation*>(stream);
    emulation->log_launches(&emulated_launches);
    (gpu::kEmulatedOps.*kMember)(stream, arguments...);
    emulation->log_launches(nullptr);
    fake_cudart().argument_bytes.clear();
    for (const vgpu::Launch& launch : emulated_launches) {
      std::vector<size_t>& sizes = fake_cudart().argument_bytes.emplace_back();
      for (const vgpu::Argument& a : launch.arguments) sizes.push_back(a.bytes.size());
    }
    (tandem_cuda_plugin()->ops->*kMember)(stream, arguments...);
    check_arguments(emulated_launches, &fake_cudart().launches);
    std::vector<CudaLaunch> expected;
    for (const vgpu::Launch& launch : emulated_launches) {
      expected.push_back(as_cuda(launch, stream));
    }
    CHECK(fake_cudart().launches == expected);
    n_pairs += static_cast<int64_t>(expected.size());
  }
};

constexpr gpu::GpuOps kPairs = {
    &Pair<&gpu::GpuOps::pack_x>::run,
    &Pair<&gpu::GpuOps::product>::run,
    &Pair<&gpu::GpuOps::product_few>::run,
    &Pair<&gpu::GpuOps::norm_product>::run,
    &Pair<&gpu::GpuOps::expert_hidden>::run,
    &Pair<&gpu::GpuOps::expert_output>::run,
    &Pair<&gpu::GpuOps::expert_output_few>::run,
    &Pair<&gpu::GpuOps::residual_norm>::run,
    &Pair<&gpu::GpuOps::top_experts>::run,
    &Pair<&gpu::GpuOps::prepare_heads>::run,
    &Pair<&gpu::GpuOps::attention>::run,
    &Pair<&gpu::GpuOps::wait_flag>::run,
};

void* p(int n) { return FakeCudart::pointer(n); }

// What was called since the last time.
Strings calls() {
  Strings all;
  all.swap(fake_cudart().calls);
  return all;
}

}  // namespace

TEST_CASE("nvcc's stubs launch each kernel as the emulation does, with every type and shape") {
  CHECK(fake_cudart().registered_kernels > 50);
  SimDevice device(some_machine(), kSomeVram, emulated());
  Results results;
  CheckRun run = results.run();
  run_kernel_checks(device, kPairs, {}, &run);
  CHECK(results.failed() == Strings{});
  CHECK(n_pairs > 200);
  CHECK(n_arguments > 600);
}

TEST_CASE("the plug-in describes GPUs as the runtime does") {
  CudaFacts facts{};
  tandem_cuda_plugin()->look(&facts);
  CHECK(tandem_cuda_plugin()->version == kCudaPluginVersion);
  CHECK(facts.error == 0);
  CHECK(facts.driver_version == 13000);
  REQUIRE(facts.n_devices == 2);
  CHECK(facts.devices[0].name == std::string("GPU 0"));
  CHECK(facts.devices[0].sm == 86);
  CHECK(facts.devices[1].sm == 87);
  CHECK(facts.devices[1].vram_bytes == 8192);
  fake_cudart().error = 999;
  tandem_cuda_plugin()->look(&facts);
  fake_cudart().error = 0;
  CHECK(facts.error == 999);
  CHECK(facts.n_devices == 0);
}

// The driver reads it once, at its first call. By default it loads a kernel when it is launched for
// the first time, and may then wait for what the GPU does: forever, if that waits for the host.
TEST_CASE("all kernels are loaded before the first of them waits for the host") {
  for (const char* before : {"", "LAZY"}) {
    setenv("CUDA_MODULE_LOADING", before, 1);
    CudaFacts facts{};
    calls();
    tandem_cuda_plugin()->look(&facts);
    CHECK(calls().front() == "cudaDriverGetVersion");
    CHECK(fake_cudart().module_loading == "EAGER");
  }
}

// The numbers are those of driver_types.h: 1 to the device, 2 to the host; streams that do not
// block, events without times, a capture of this thread's.
TEST_CASE("each function of the plug-in calls CUDA's with its arguments in their order") {
  const CudaRuntime& cuda = *tandem_cuda_plugin()->runtime;
  calls();
  void* at = nullptr;
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
  const auto called = [&](int error, const Strings& expected) {
    CHECK(error == 0);
    CHECK(calls() == expected);
  };
  called(cuda.set_device(3), {"cudaSetDevice 3"});
  called(cuda.memory(&free_bytes, &total_bytes), {"cudaMemGetInfo"});
  CHECK(free_bytes == 1000);
  CHECK(total_bytes == 4000);
  called(cuda.alloc(&at, 256), {"cudaMalloc 256"});
  CHECK(at == p(1));
  called(cuda.free(p(7)), {"cudaFree p7"});
  called(cuda.alloc_host(&at, 64), {"cudaHostAlloc 64 0"});
  CHECK(at == p(2));
  called(cuda.free_host(p(7)), {"cudaFreeHost p7"});
  called(cuda.pin(p(7), 4096), {"cudaHostRegister p7 4096 0"});
  called(cuda.unpin(p(7)), {"cudaHostUnregister p7"});
  called(cuda.create_stream(&at), {"cudaStreamCreateWithFlags 1"});
  CHECK(at == p(3));
  called(cuda.destroy_stream(p(7)), {"cudaStreamDestroy p7"});
  called(cuda.stream_wait(p(7), p(8)), {"cudaStreamWaitEvent p7 p8 0"});
  called(cuda.create_event(&at), {"cudaEventCreateWithFlags 2"});
  CHECK(at == p(4));
  called(cuda.destroy_event(p(7)), {"cudaEventDestroy p7"});
  called(cuda.record(p(7), p(8)), {"cudaEventRecord p7 p8"});
  called(cuda.event_query(p(7)), {"cudaEventQuery p7"});
  called(cuda.sync(), {"cudaDeviceSynchronize"});
  called(cuda.copy_to_device(p(7), p(8), 100, p(9)), {"cudaMemcpyAsync p7 p8 100 1 p9"});
  called(cuda.copy_to_host(p(7), p(8), 100, p(9)), {"cudaMemcpyAsync p7 p8 100 2 p9"});
  called(cuda.copy_rows_to_device(p(7), 64, p(8), 48, 32, 5, p(9)),
         {"cudaMemcpy2DAsync p7 64 p8 48 32 5 1 p9"});
  called(cuda.begin_capture(p(7)), {"cudaStreamBeginCapture p7 1"});
  called(cuda.end_capture(p(7), &at), {"cudaStreamEndCapture p7", "cudaGraphInstantiate p5 0",
                                       "cudaGraphDestroy p5", "cudaGraphUpload p6 p7"});
  CHECK(at == p(6));
  called(cuda.launch_graph(p(7), p(8)), {"cudaGraphLaunch p7 p8"});
  called(cuda.destroy_graph(p(7)), {"cudaGraphExecDestroy p7"});
  int seen = 0;
  called(cuda.host_function(
             p(7), [](void* data) { ++*static_cast<int*>(data); }, &seen),
         {"cudaLaunchHostFunc p7"});
  CHECK(seen == 1);
  called(cuda.last_error(), {"cudaGetLastError"});
}

// Of the driver: 0 is CU_STREAM_WAIT_VALUE_GEQ.
TEST_CASE("the driver's function that waits for memory is found and called") {
  calls();
  const auto* counter = static_cast<const uint32_t*>(p(8));
  CHECK(tandem_cuda_plugin()->runtime->wait_value(p(7), counter, 5) == 0);
  CHECK(calls() == Strings{"cudaGetDriverEntryPointByVersion cuStreamWaitValue32 12000 0",
                           "cudaGetLastError", "cuStreamWaitValue32 p7 p8 5 0"});
}

// Or the next call that has nothing to do with it would report it.
TEST_CASE("an error that the plug-in returns is not left behind in the runtime") {
  const CudaRuntime& cuda = *tandem_cuda_plugin()->runtime;
  fake_cudart().error = 2;
  void* at = nullptr;
  for (const auto& fail : std::initializer_list<std::function<int()>>{
           [&] { return cuda.alloc(&at, 256); }, [&] { return cuda.alloc_host(&at, 256); },
           [&] { return cuda.pin(p(1), 256); }, [&] { return cuda.event_query(p(1)); },
           [&] { return cuda.begin_capture(p(1)); }, [&] { return cuda.end_capture(p(1), &at); }}) {
    calls();
    CHECK(fail() == 2);
    CHECK(calls().back() == "cudaGetLastError");
  }
  fake_cudart().error = 0;
}

}  // namespace tandem::test
