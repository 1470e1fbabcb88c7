// What a decode token costs the thread that feeds a GPU: routing, planning, tables, launches,
// waits, bookkeeping. The CUDA runtime and the kernels are stand-ins that do nothing, and so are
// the products of experts on the CPU, so what is measured is ours alone; a real runtime adds its
// own time to every call, and how many there are is printed. Waiting for the CPU's experts is left
// out.
#include <fmt/format.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "bench/gpu/fewest_bytes.h"
#include "bench/gpu/routes.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"
#include "runtime/config/embedded.h"
#include "runtime/config/machine_profile.h"
#include "runtime/config/scheduling_policy.h"
#include "runtime/device/cuda_device.h"
#include "runtime/engine/engine.h"

namespace tandem {
namespace {

int64_t calls = 0;
int64_t d_model = 0;
int64_t n_vocab = 0;
Routes* routes = nullptr;

int done() {
  ++calls;
  return 0;
}

// Address space that costs nothing until it is touched.
int reserve(void** at, int64_t bytes) {
  *at = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *at == MAP_FAILED ? 2 : done();
}

// What the host gets of a layer: the experts' input, and behind it logits of one router or more.
struct GateCopy {
  float* to = nullptr;
  int64_t n = 0;
};
bool capturing = false;
GateCopy captured;
std::vector<GateCopy> graphs;

// Router logits are new ones each time; everything else stays as it is.
void give_logits(const GateCopy& copy) {
  routes->next({copy.to + d_model, static_cast<size_t>(copy.n - d_model)});
}

int copy_to_host(void* to, const void* /*from*/, int64_t bytes, void* /*stream*/) {
  const int64_t n = bytes / static_cast<int64_t>(sizeof(float));
  if (n == n_vocab) return done();
  const GateCopy copy{static_cast<float*>(to), n};
  if (capturing) {
    captured = copy;
  } else {
    give_logits(copy);
  }
  return done();
}

int begin_capture(void* /*stream*/) {
  capturing = true;
  captured = {};
  return done();
}

int end_capture(void* /*stream*/, void** graph) {
  capturing = false;
  graphs.push_back(captured);
  *graph = reinterpret_cast<void*>(graphs.size());
  return done();
}

int launch_graph(void* graph, void* /*stream*/) {
  const GateCopy& copy = graphs[reinterpret_cast<uintptr_t>(graph) - 1];
  if (copy.to != nullptr) give_logits(copy);
  return done();
}

// Waits once, for the trial at the opening; later nothing is behind it.
int wait_value(void* /*stream*/, const uint32_t* counter, uint32_t value) {
  static bool tried = false;
  while (!tried && __atomic_load_n(counter, __ATOMIC_ACQUIRE) != value) std::this_thread::yield();
  tried = true;
  return done();
}

constexpr CudaRuntime kNothing = {
    .error_text = [](int) -> const char* { return "no memory"; },
    .set_device = [](int) { return done(); },
    .memory =
        [](int64_t* free_bytes, int64_t* total) {
          *free_bytes = *total = int64_t{1} << 40;
          return done();
        },
    .alloc = &reserve,
    .free = [](void*) { return done(); },
    .alloc_host = &reserve,
    .free_host = [](void*) { return done(); },
    .pin = [](const void*, int64_t) { return done(); },
    .unpin = [](const void*) { return done(); },
    .create_stream = [](void** stream) { return *stream = nullptr, done(); },
    .destroy_stream = [](void*) { return done(); },
    .stream_wait = [](void*, void*) { return done(); },
    .create_event = [](void** event) { return *event = nullptr, done(); },
    .destroy_event = [](void*) { return done(); },
    .record = [](void*, void*) { return done(); },
    .event_query = [](void*) { return done(); },
    .sync = [] { return done(); },
    .copy_to_device = [](void*, const void*, int64_t, void*) { return done(); },
    .copy_to_host = &copy_to_host,
    .copy_rows_to_device = [](void*, int64_t, const void*, int64_t, int64_t, int64_t,
                              void*) { return done(); },
    .begin_capture = &begin_capture,
    .end_capture = &end_capture,
    .launch_graph = &launch_graph,
    .destroy_graph = [](void*) { return done(); },
    .wait_value = &wait_value,
    .host_function = [](void*, void (*)(void*), void*) { return done(); },
    .last_error = [] { return 0; },
};

constexpr gpu::GpuOps kNoKernels = {
    .pack_x = [](void*, XKind, const float*, int, int, uint8_t*, int) { done(); },
    .product = [](void*, DType, const gpu::ProductParts&, const gpu::PackedX&, int) { done(); },
    .product_few = [](void*, DType, const gpu::ProductParts&, const float*, int, int,
                      int) { done(); },
    .norm_product = [](void*, DType, const gpu::ResidualNorm&, const gpu::ProductParts&, int, int,
                       int) { done(); },
    .expert_hidden = [](void*, DType, gpu::HiddenPart, const gpu::ExpertCalls&, const gpu::PackedX&,
                        const int*, int, float*) { done(); },
    .expert_output = [](void*, DType, const gpu::ExpertCalls&, const gpu::PackedX&, int,
                        float*) { done(); },
    .expert_output_few = [](void*, DType, const gpu::ExpertCalls&, const float*, int, int, int,
                            float*) { done(); },
    .residual_norm = [](void*, const gpu::ResidualNorm&, int, int) { done(); },
    .top_experts = [](void*, const gpu::TopExperts&, int) { done(); },
    .prepare_heads = [](void*, const gpu::PreparedHeads&, const gpu::KvCache&, int) { done(); },
    .attention = [](void*, const gpu::KvCache&, const float*, int, int, int, float, float*,
                    float*) { done(); },
    .wait_flag = [](void*, const uint32_t*, uint32_t) { done(); },
};

double percentile(std::vector<double> sorted, double p) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1))];
}

// The CPU's experts without their products; what is left is handing them over.
SimdOps no_products() {
  SimdOps ops = simd();
  ops.dot = [](auto...) {};
  ops.dot_packed = [](auto...) {};
  ops.dot_int8 = [](auto...) {};
  ops.pack_x = [](auto...) {};
  ops.silu_mul = [](auto...) {};
  return ops;
}

struct Wish {
  std::string path{};
  int tokens = 500;
  int rounds = 5;
  int slots = 0;
  bool cpu = false;
  bool random = false;
};

void measure(const Wish& wish) {
  const std::string& path = wish.path;
  const int tokens = wish.tokens;
  Model model = Model::load(path.empty() ? GgufFile::from_memory(embedded_model(), "demo")
                                         : GgufFile::open(path));
  model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
  const SimdOps nothing = no_products();
  override_simd(&nothing);
  MachineProfile machine = load_machine_profile(std::string(kDefaultMachine));
  // Or a CPU that no plan wants, so that misses are fetched.
  if (!wish.cpu) machine.cpu = {0.01, 0.01, 1000, 0};
  EngineSettings settings;
  settings.scheduling = load_scheduling_policy(std::string(kDefaultPolicy));
  settings.n_threads = 1;
  if (wish.slots > 0) settings.expert_slots = wish.slots;
  settings.n_ctx = tokens + 64;
  d_model = model.config().d_model;
  n_vocab = model.config().n_vocab;
  std::unique_ptr<Routes> given;
  if (wish.random) {
    given = std::make_unique<RandomRoutes>();
  } else {
    given = std::make_unique<TraceRoutes>(model.config(), tokens);
  }
  routes = given.get();

  CudaDeviceFacts facts{};
  Engine engine(model, machine, settings,
                {std::make_unique<CudaDevice>(machine, kNothing, kNoKernels, facts, 0,
                                              int64_t{1} << 39, 0, HandOverKind::kMemoryOperation),
                 {"device", "nothing", "nothing", ""}});
  const int32_t token = 1;

  const int64_t layers = model.config().n_layers;
  for (int round = 0; round < wish.rounds; ++round) {
    engine.rewind(0);
    routes->rewind();
    std::vector<double> us;
    const auto on_cpu_now = [&] {
      const ExecutorStats stats = engine.stats().experts;
      return stats.experts_cpu + stats.experts_split;
    };
    const uint64_t on_cpu = on_cpu_now();
    const int64_t calls_before = calls;
    const int64_t bytes_before = engine.device().kernel_bytes();
    for (int i = 0; i < tokens; ++i) {
      const double waited = engine.stats().experts.cpu_wait_us;
      const auto start = std::chrono::steady_clock::now();
      engine.eval({&token, 1});
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - start;
      const double for_cpu = engine.stats().experts.cpu_wait_us - waited;
      us.push_back((took.count() - for_cpu) / static_cast<double>(layers));
    }
    const int64_t moved = (engine.device().kernel_bytes() - bytes_before) / tokens;
    const int64_t fewest = fewest_bytes(model, settings, tokens);
    fmt::print("{},{},{:.2f},{:.2f},{:.2f},{:.1f},{:.3f},{},{},{:.4f}\n", model.config().name,
               round, percentile(us, 0.5), percentile(us, 0.9), percentile(us, 0.99),
               static_cast<double>(calls - calls_before) / static_cast<double>(tokens * layers),
               static_cast<double>(on_cpu_now() - on_cpu) / static_cast<double>(tokens * layers),
               moved, fewest, static_cast<double>(moved) / static_cast<double>(fewest));
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  CLI::App app{"Time of the host alone, per layer of a decode token"};
  tandem::Wish wish;
  app.add_option("-m,--model", wish.path, "GGUF file; without it the built-in demo model");
  app.add_option("-n", wish.tokens, "tokens a round")->check(CLI::Range(1, 100000));
  app.add_option("--slots", wish.slots, "expert slots; 0: all experts have one")
      ->check(CLI::Range(0, 1000000));
  app.add_option("-r,--rounds", wish.rounds, "rounds")->check(CLI::Range(1, 1000));
  app.add_flag("--cpu", wish.cpu, "a CPU that plans give experts to");
  app.add_flag("--random", wish.random, "routes without a past, instead of a synthetic trace's");
  CLI11_PARSE(app, argc, argv);
  fmt::print(
      "model,round,us_median,us_p90,us_p99,cuda_calls,experts_on_cpu,device_bytes,fewest_bytes,"
      "ratio\n");
  tandem::measure(wish);
  return 0;
}
