// How CUDA's streams wait for host work, on a CUDA runtime of the tests': what is chosen, and that
// models give the same with each.
#include "runtime/device/hand_over.h"

#include <chrono>
#include <thread>

#include "runtime/device/cuda_device.h"
#include "runtime/device/host_array.h"
#include "runtime/engine/engine.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/fake_cuda.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

std::unique_ptr<CudaDevice> open(std::optional<HandOverKind> kind = {}) {
  return std::make_unique<CudaDevice>(test_machine(), FakeCuda::table(), gpu::kEmulatedOps,
                                      FakeCuda::facts(), 0, int64_t{1} << 28, 0, kind);
}

}  // namespace

TEST_CASE("the first way of waiting for the host that works is taken, and the others are named") {
  struct Case {
    FakeCuda::WaitValue memory;
    bool functions;
    HandOverKind kind;
    std::string reason;
  };
  using Memory = FakeCuda::WaitValue;
  for (const Case& c : {Case{Memory::kWaits, true, HandOverKind::kMemoryOperation, ""},
                        Case{Memory::kMissing, true, HandOverKind::kHostFunction,
                             "memory operations: CUDA error 801, what CUDA calls it"},
                        Case{Memory::kDoesNotWait, true, HandOverKind::kHostFunction,
                             "memory operations: it does not wait"},
                        Case{Memory::kMissing, false, HandOverKind::kSpinKernel,
                             "memory operations: CUDA error 801, what CUDA calls it; host "
                             "functions: CUDA error 1, what CUDA calls it"}}) {
    FakeCuda fake;
    fake.wait_value = c.memory;
    fake.host_functions = c.functions;
    {
      const auto device = open();
      CHECK(device->hand_over().kind() == c.kind);
      CHECK(device->hand_over().reason() == c.reason);
    }
    CHECK(fake.misuse.empty());
    CHECK(fake.alive() == 0);
  }
}

// As on a machine whose cores are busy: the host is held up between its calls.
TEST_CASE("a way that does not wait is not taken by a host that is slow to look") {
  FakeCuda fake;
  fake.wait_value = FakeCuda::WaitValue::kDoesNotWait;
  fake.slow_wait_value = std::chrono::milliseconds(10);
  const auto device = open();
  CHECK(device->hand_over().kind() == HandOverKind::kHostFunction);
  CHECK(device->hand_over().reason() == "memory operations: it does not wait");
}

// What frees memory waits for all streams, the stuck one too.
TEST_CASE("a way of waiting that never ends is not taken, and nobody waits for it afterwards") {
  FakeCuda fake;
  fake.wait_value = FakeCuda::WaitValue::kNeverEnds;
  const auto device = open();
  device->free(device->alloc(4, "x"));
  device->free_host(device->alloc_host(4, "x"));
  device->alloc(4, "left to the end");
  CHECK(device->hand_over().kind() == HandOverKind::kHostFunction);
  CHECK(device->hand_over().reason() == "memory operations: it waits for ever");
  CHECK(device->hand_over().stuck());
}

TEST_CASE("without page-locked memory the host waits") {
  FakeCuda fake;
  fake.sticky = false;
  fake.error = 2;
  // Opening: the device, its memory, two streams, and then the counter.
  fake.fail_call = 4;
  const auto device = open();
  CHECK(device->hand_over().kind() == HandOverKind::kHostWaits);
  CHECK(device->hand_over().reason().find("no page-locked memory") == 0);
}

TEST_CASE("what is enqueued behind host work sees all of it, in every way of waiting") {
  for (const HandOverKind kind : {HandOverKind::kMemoryOperation, HandOverKind::kHostFunction,
                                  HandOverKind::kSpinKernel, HandOverKind::kHostWaits}) {
    FakeCuda fake;
    INFO(hand_over_name(kind));
    const auto device = open(kind);
    REQUIRE(device->hand_over().kind() == kind);
    const DeviceAddr at = device->alloc(4, "x");
    HostArray<int32_t> written(*device, 1, "x");
    HostArray<int32_t> got(*device, 1, "x");
    for (int i = 1; i <= 100; ++i) {
      const Timepoint done = device->begin_host_work("work", {}, 1);
      const std::jthread host([&] {
        if (i % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
        written.data()[0] = i;
        device->end_host_work(done);
      });
      device->wait(Stream::kCompute, done);
      device->copy_to_device(Stream::kCompute, at, written.data(), 4);
      device->host_wait(device->copy_to_host(Stream::kCompute, got.data(), at, 4));
      CHECK(got.data()[0] == i);
    }
  }
}

TEST_CASE("host work that is over is not waited for") {
  FakeCuda fake;
  const auto device = open();
  const int64_t trials = fake.memory_waits;
  const Timepoint done = device->begin_host_work("work", {}, 1);
  device->end_host_work(done);
  device->wait(Stream::kCompute, done);
  CHECK(fake.memory_waits == trials);
  const Timepoint second = device->begin_host_work("work", {}, 1);
  const std::jthread host([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    device->end_host_work(second);
  });
  device->wait(Stream::kCompute, second);
  CHECK(fake.memory_waits == trials + 1);
  device->wait(Stream::kCompute, second);  // waited for already
  CHECK(fake.memory_waits == trials + 1);
}

TEST_CASE("a model gives the same tokens in every way of waiting for the host") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> prompt{1, 5, 9};
  const auto run = [&](HandOverKind kind) {
    FakeCuda fake;
    EngineSettings settings = cuda_settings(20);
    Engine engine(model, test_machine(), settings, {open(kind), {"device", "cuda", "cuda", ""}});
    std::vector<int32_t> tokens = greedy(engine, prompt, 3);
    const ExecutorStats stats = engine.stats().experts;
    CHECK(stats.experts_cpu + stats.experts_split > 0);
    CHECK(stats.experts_gpu + stats.experts_split > 0);
    CHECK(fake.memory_waits <= (kind == HandOverKind::kMemoryOperation ? 1000 : 0));
    CHECK(fake.function_waits <= (kind == HandOverKind::kHostFunction ? 1000 : 0));
    return tokens;
  };
  const std::vector<int32_t> expected = run(HandOverKind::kHostWaits);
  CHECK(run(HandOverKind::kMemoryOperation) == expected);
  CHECK(run(HandOverKind::kHostFunction) == expected);
  CHECK(run(HandOverKind::kSpinKernel) == expected);
}

}  // namespace tandem::test
