// CudaDevice on a CUDA runtime of the tests' own (fake_cuda.h): what it asks of CUDA, and whole
// models. What the real runtime and a real GPU do, this cannot show.
#include "runtime/device/cuda_device.h"

#include <set>

#include "runtime/device/host_array.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/expert_slots.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/fake_cuda.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int kCompute = 0;
constexpr int kCopy = 1;

std::unique_ptr<CudaDevice> open(std::optional<int64_t> vram = int64_t{1} << 28) {
  return std::make_unique<CudaDevice>(test_machine(), FakeCuda::table(), gpu::kEmulatedOps,
                                      FakeCuda::facts(), 0, vram);
}

Timepoint kernel(Device& device, bool marked) {
  return device.launch(Stream::kCompute,
                       {"kernel",
                        {},
                        0,
                        0,
                        [](const KernelScope& scope) { FakeCuda::launch(scope.stream()); },
                        marked});
}

// Logits of all tokens of a small model. calls: made until they were there; then things end.
std::vector<float> run_model(const Model& model, std::unique_ptr<Device> device,
                             const FakeCuda* fake = nullptr, int64_t* calls = nullptr) {
  const std::vector<int32_t> tokens{1, 5, 9, 13, 17};
  StepHarness harness(model, 3, std::move(device));
  NoPrefetcher prefetcher;
  std::vector<float> all;
  size_t at = 0;
  for (const size_t n : {3, 1, 1}) {  // one token is a graph a layer
    const std::span<const int32_t> some = std::span(tokens).subspan(at, n);
    const auto logits =
        run_step({some, static_cast<int64_t>(at), static_cast<int32_t>(n)}, harness.executor,
                 harness.planner, harness.cache, prefetcher, harness.plan);
    at += n;
    all.insert(all.end(), logits.begin(), logits.end());
  }
  if (calls != nullptr) *calls = fake->calls;
  return all;
}

Model small_model() { return Model::load(GgufFile::open(kFamilies + "qwen2moe-bf16.gguf")); }

}  // namespace

TEST_CASE("copies that are not marked are waited for with those behind them") {
  FakeCuda fake;
  {
    const auto device = open();
    const DeviceAddr at = device->alloc(1024, "x");
    std::vector<std::byte> host(1024);
    const Timepoint first = device->copy_to_device(Stream::kCopy, at, host.data(), 1024);
    device->copy_to_device(Stream::kCopy, at, host.data(), 1024);
    device->wait(Stream::kCompute, first);
    REQUIRE(fake.waits.size() == 1);
    CHECK(fake.waits[0].n == 2);
  }
  CHECK(fake.misuse.empty());
}

TEST_CASE("who waits for a fetched expert waits for no expert behind it") {
  Model model = small_model();
  model.pack(PackScope::kExperts, serial_for, [](int64_t) {});  // else the host waits for copies
  FakeCuda fake;
  {
    const auto device = open();
    CacheShape shape;
    shape.n_layers = static_cast<int32_t>(model.config().n_layers);
    shape.n_experts = model.config().routing.n_experts;
    shape.expert_bytes = ExpertSlots::expert_bytes(model, *device);
    shape.capacity_bytes = int64_t{1} << 24;
    ExpertSlots slots(model, *device, {shape, 0});
    REQUIRE(slots.count() >= 2);
    const int64_t ff = model.config().expert_ff;
    const uint64_t before = slots.ready(SlotId{0}).n;
    slots.fetch({LayerId{0}, ExpertId{0}}, SlotId{0}, 0, ff);
    const Timepoint first = slots.ready(SlotId{0});
    slots.fetch({LayerId{0}, ExpertId{1}}, SlotId{1}, 0, ff);
    CHECK(first.n > before);
    CHECK(slots.ready(SlotId{1}).n > first.n);
    fake.waits.clear();
    device->wait(Stream::kCompute, first);
    REQUIRE(fake.waits.size() == 1);
    CHECK(fake.waits[0].n == first.n);
  }
  CHECK(fake.misuse.empty());
}

TEST_CASE("a stream that waits for another's operation waits for an event recorded behind it") {
  FakeCuda fake;
  {
    const auto device = open();
    const DeviceAddr at = device->alloc(1024, "x");
    std::vector<std::byte> host(1024);
    const auto copy = [&] { return device->copy_to_device(Stream::kCopy, at, host.data(), 1024); };
    const Timepoint first = copy();
    device->mark(Stream::kCopy);
    copy();
    device->wait(Stream::kCompute, first);
    REQUIRE(fake.waits.size() == 1);
    CHECK(fake.waits[0].waiting == kCompute);
    CHECK(fake.waits[0].waited_for == kCopy);
    CHECK(fake.waits[0].n == 1);  // not for the second copy
    device->wait(Stream::kCopy, kernel(*device, true));
    CHECK(fake.waits[1].waiting == kCopy);
    CHECK(fake.waits[1].waited_for == kCompute);
    device->wait(Stream::kCopy, first);     // of its own stream: in order anyway
    device->wait(Stream::kCompute, {});     // of nothing
    device->wait(Stream::kCompute, first);  // waited for already
    const Timepoint third = copy();
    device->host_wait(third);
    device->wait(Stream::kCompute, third);  // over
    CHECK(fake.waits.size() == 2);
  }
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("an operation without an event of its own is waited for with a later one's") {
  FakeCuda fake;
  const auto device = open();
  const int64_t before = fake.events_created;
  const Timepoint unmarked = kernel(*device, false);
  kernel(*device, false);
  CHECK(fake.events_created == before);
  device->host_wait(unmarked);
  CHECK(fake.syncs.back().n == 2);  // recorded now, behind both
  const size_t syncs = fake.syncs.size();
  kernel(*device, false);
  device->host_wait(unmarked);
  device->wait(Stream::kCopy, unmarked);
  CHECK(fake.syncs.size() == syncs);  // it is over
  CHECK(fake.waits.empty());
  CHECK(fake.events_created == before + 1);
}

TEST_CASE("events are used again, and the oldest operations are waited for with later ones") {
  FakeCuda fake;
  {
    const auto device = open();
    const int64_t opened = fake.events_created;  // for trials
    const Timepoint first = kernel(*device, true);
    for (int i = 0; i < 2000; ++i) kernel(*device, true);
    CHECK(fake.events_created - opened <= 512);
    device->host_wait(first);
    CHECK(fake.syncs.back().n > 1);
    CHECK(fake.syncs.back().n <= 2001);
  }
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("a GPU gives what is free less a margin, or what is asked for if that is free") {
  FakeCuda fake;
  fake.free_bytes = int64_t{4} << 30;
  CHECK(open(std::nullopt)->info().vram_bytes == (int64_t{4} << 30) - kVramMargin);
  CHECK(open(int64_t{3} << 30)->info().vram_bytes == int64_t{3} << 30);
  CHECK_THROWS_AS(open(int64_t{5} << 30), MemoryError);
  const CudaDevice tight(test_machine(), FakeCuda::table(), gpu::kEmulatedOps, FakeCuda::facts(), 0,
                         std::nullopt, int64_t{1} << 20);
  CHECK(tight.info().vram_bytes == (int64_t{4} << 30) - (int64_t{1} << 20));
  fake.free_bytes = kVramMargin / 2;
  CHECK(open(std::nullopt)->info().vram_bytes == 0);
  CHECK_THROWS_AS(open(std::nullopt)->alloc(1, "x"), MemoryError);
}

TEST_CASE("memory that CUDA does not give is a MemoryError, and the device goes on") {
  FakeCuda fake;
  const auto device = open();
  fake.sticky = false;
  fake.error = 2;
  fake.fail_call = fake.calls;
  CHECK_THROWS_WITH(device->alloc(1000, "KV cache"),
                    Catch::Contains("KV cache") && Catch::Contains("CUDA error 2"));
  fake.fail_call = fake.calls;
  CHECK_THROWS_AS(device->alloc_host(1000, "activations"), HostMemoryError);
  fake.fail_call = fake.calls;
  CHECK_FALSE(device->pin_host(&fake, 4096).empty());
  CHECK(device->used_bytes() == 0);
  device->free(device->alloc(1000, "KV cache"));
}

TEST_CASE("a GPU that fails while memory is asked for is lost, and not short of memory") {
  for (const bool host : {false, true}) {
    FakeCuda fake;
    const auto device = open();
    fake.fail_call = fake.calls;  // error 700
    const auto ask = [&] {
      if (host) {
        device->alloc_host(1000, "x");
      } else {
        device->alloc(1000, "x");
      }
    };
    CHECK_THROWS_AS(ask(), DeviceError);
    CHECK_THROWS_AS(ask(), DeviceError);
  }
}

TEST_CASE("a whole model on the CUDA device gives what the simulated GPU gives") {
  const Model model = small_model();
  SimSettings sim;
  sim.kernels = SimKernels::kEmulated;
  const std::vector<float> expected =
      run_model(model, std::make_unique<SimDevice>(test_machine(), int64_t{1} << 28, sim));
  FakeCuda fake;
  CHECK(run_model(model, open()) == expected);
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("what is kept as a graph is done when it is run, each time with what memory then holds") {
  FakeCuda fake;
  {
    const auto device = open();
    const DeviceAddr at = device->alloc(4, "x");
    HostArray<int32_t> in(*device, 1, "x");
    HostArray<int32_t> out(*device, 1, "x");
    out.data()[0] = -1;
    device->begin_graph();
    device->copy_to_host(Stream::kCompute, out.data(), at, 4);
    const Graph graph = device->end_graph();
    CHECK(out.data()[0] == -1);
    for (const int32_t value : {5, 7}) {
      in.data()[0] = value;
      device->copy_to_device(Stream::kCompute, at, in.data(), 4);
      device->host_wait(device->run_graph(graph, 0));
      CHECK(out.data()[0] == value);
    }
    CHECK(fake.graph_launches == 2);
    device->begin_graph();
    device->cancel_graph();
    CHECK(fake.graphs_captured == 2);
    device->free_graph(graph);
  }
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("a decode token on the CUDA device is a graph a layer and few calls more") {
  const Model model = small_model();
  FakeCuda fake;
  {
    EngineSettings settings = cuda_settings(200);
    settings.n_ctx = 64;
    Engine engine(model, test_machine(), settings, {open(), {"device", "cuda", "cuda", ""}});
    const std::vector<int32_t> prompt{1, 5, 9};
    engine.eval(prompt);
    CHECK(fake.graph_launches == 0);  // three tokens are none
    for (int i = 0; i < 8; ++i) engine.eval(std::span(prompt).first(1));
    const int64_t captured = fake.graphs_captured;
    const int64_t launched = fake.graph_launches;
    const size_t syncs = fake.syncs.size();
    engine.eval(std::span(prompt).first(1));
    CHECK(fake.graphs_captured == captured);
    CHECK(fake.graph_launches - launched == model.config().n_layers);
    // The host waits once a layer, for its routing, and for the logits.
    CHECK(static_cast<int64_t>(fake.syncs.size() - syncs) == model.config().n_layers + 1);
  }
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("a GPU that does not answer any more is lost, and nothing is asked of it again") {
  FakeCuda fake;
  int64_t calls = 0;
  {
    const auto device = open();
    device->set_patience(std::chrono::milliseconds(20));
    const DeviceAddr at = device->alloc(1000, "x");
    void* host = device->alloc_host(1000, "x");
    fake.wait_value = FakeCuda::WaitValue::kNeverEnds;
    const Timepoint work = device->begin_host_work("work", {}, 1);
    device->wait(Stream::kCompute, work);
    device->end_host_work(work);
    const Timepoint stuck = kernel(*device, true);
    CHECK_THROWS_WITH(device->host_wait(stuck), Catch::Contains("has not ended after 0.02 s"));
    CHECK_THROWS_WITH(device->host_wait_all(), Catch::Contains("lost"));
    CHECK_THROWS_AS(device->copy_to_device(Stream::kCopy, at, host, 1000), DeviceError);
    calls = fake.calls;
    device->free(at);
    device->free_host(host);
  }
  CHECK(fake.calls == calls);  // each might wait for ever
}

TEST_CASE("a run goes on without graphs where the device has no memory for one") {
  const Model model = small_model();
  const std::vector<int32_t> prompt{1, 5, 9};
  const auto answer = [&](int64_t most_graphs, bool* refused) {
    FakeCuda fake;
    fake.most_graphs = most_graphs;
    std::vector<int32_t> ids;
    {
      EngineSettings settings = cuda_settings(200);
      settings.n_ctx = 64;
      Engine engine(model, test_machine(), settings, {open(), {"device", "cuda", "cuda", ""}});
      ids = greedy(engine, prompt, 12);
      *refused = engine.stats().graphs_refused;
    }
    CHECK(fake.misuse.empty());
    CHECK(fake.alive() == 0);
    return ids;
  };
  bool refused = true;
  const std::vector<int32_t> expected = answer(-1, &refused);
  CHECK_FALSE(refused);
  for (const int64_t most : {int64_t{0}, int64_t{1}, model.config().n_layers - 1}) {
    INFO(most << " graphs");
    CHECK(answer(most, &refused) == expected);
    CHECK(refused);
  }
}

TEST_CASE("a plan counts what a model then has in use on the CUDA device") {
  const Model model = small_model();
  FakeCuda fake;
  {
    auto device = open();
    const MemoryPlan plan = plan_memory(model, *device, test_machine(),
                                        EngineShape{256, 64, 64, KvType::kF32, KvType::kF32, {}},
                                        CacheWish{3, PoolShape::kShared});
    const size_t before = fake.alive();
    StepHarness harness(model, 3, std::move(device));
    CHECK(harness.device->used_bytes() == plan.device_bytes);
    CHECK(harness.executor.n_slots() == plan.n_slots);
    CHECK(fake.alive() > before);
  }
  CHECK(fake.misuse.empty());
}

TEST_CASE("a call to CUDA that fails ends the run with an error and leaves nothing behind") {
  const Model model = small_model();
  int64_t calls = 0;
  {
    FakeCuda fake;
    run_model(model, open(), &fake, &calls);
  }
  REQUIRE(calls > 200);
  std::set<std::string> errors;
  for (int64_t i = 0; i < 2 * calls; ++i) {
    const int64_t call = i / 2;
    FakeCuda fake;
    fake.fail_call = call;
    const bool no_memory = i % 2 == 1;
    if (no_memory) fake.error = 2;
    std::string error;
    int64_t made = 0;
    try {
      run_model(model, open(), &fake, &made);
    } catch (const DeviceError& e) {
      error = e.what();
    } catch (const MemoryError& e) {
      error = e.what();
      CHECK(no_memory);
    }
    INFO("call " << call << " of " << calls << ": " << error);
    CHECK(fake.misuse.empty());
    CHECK(fake.alive() == 0);
    if (error.empty()) {
      // The CPU was sooner than in the first run: nobody had to wait for it, which is a call less.
      CHECK(made <= call);
    }
    errors.insert(error);
  }
  CHECK(errors.size() > 5);
}

}  // namespace tandem::test
