// Expert slots for which the device refuses the memory, although it seemed to have it.
#include <algorithm>
#include <string>

#include "runtime/device/sim_device.h"
#include "runtime/engine/expert_slots.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// A device whose free memory lies in pieces: what is larger than `most` is refused, of slots or of
// what else is named.
class Fragmented final : public ModelledDevice {
 public:
  Fragmented(const MachineProfile& profile, int64_t most, std::string refused = kSlotsTag)
      : ModelledDevice({"fragmented", "", int64_t{1} << 30, false, true}, profile),
        whole_(profile, int64_t{1} << 30),
        most_(most),
        refused_(std::move(refused)) {}

  DeviceAddr alloc(int64_t bytes, const char* tag) override {
    ++allocations;
    if (bytes > most_ && tag == refused_) throw MemoryError("no piece is that large");
    const DeviceAddr at = whole_.alloc(bytes, tag);
    used_bytes_ = whole_.used_bytes();
    return at;
  }
  void free(DeviceAddr at) override {
    whole_.free(at);
    used_bytes_ = whole_.used_bytes();
  }
  Timepoint copy_to_device(Stream s, DeviceAddr to, const void* from, int64_t bytes) override {
    return whole_.copy_to_device(s, to, from, bytes);
  }
  Timepoint copy_rows_to_device(Stream s, DeviceAddr to, const void* from,
                                const RowCopy& copy) override {
    return whole_.copy_rows_to_device(s, to, from, copy);
  }
  Timepoint copy_to_host(Stream s, void* to, DeviceAddr from, int64_t bytes) override {
    return whole_.copy_to_host(s, to, from, bytes);
  }
  Timepoint launch(Stream s, const KernelCall& call) override { return whole_.launch(s, call); }
  void wait(Stream s, Timepoint point) override { whole_.wait(s, point); }
  Timepoint begin_host_work(const char* name, std::span<const HostTouch> touches,
                            double us) override {
    return whole_.begin_host_work(name, touches, us);
  }
  void end_host_work(Timepoint point) noexcept override { whole_.end_host_work(point); }
  int64_t copied_to_device_bytes() const override { return whole_.copied_to_device_bytes(); }

  int allocations = 0;

 private:
  SimDevice whole_;
  int64_t most_;
  std::string refused_;
};

CacheShape wanted_slots(const Model& model, const Device& device, int64_t capacity_bytes) {
  CacheShape shape;
  shape.n_layers = static_cast<int32_t>(model.config().n_layers);
  shape.n_experts = model.config().routing.n_experts;
  shape.expert_bytes = ExpertSlots::expert_bytes(model, device);
  shape.capacity_bytes = capacity_bytes;
  return shape;
}

}  // namespace

TEST_CASE("slots that the device refuses are fewer, and none is left behind") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  for (const int64_t most : {int64_t{1} << 20, int64_t{60000}, int64_t{1000}}) {
    Fragmented device(test_machine(), most);
    const ExpertSlots slots(model, device, {wanted_slots(model, device, int64_t{8} << 20), 0});
    INFO(most << " bytes at most, " << slots.count() << " slots");
    CHECK(slots.bytes() <= most);
    CHECK(slots.bytes() >= (most < 60000 ? 0 : most / 2));
    CHECK(slots.refusal() == "no piece is that large");
    CHECK(slots.shape().capacity_bytes >= slots.bytes());
    CHECK(slot_classes(slots.shape()).back().count == slots.count());
    CHECK(device.used_bytes() == slots.bytes());
    CHECK(device.allocations < 30);
  }
}

TEST_CASE("slots of several sizes are given back when one of them is refused") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  Fragmented roomy(test_machine(), int64_t{1} << 30);
  CacheShape all = wanted_slots(model, roomy, int64_t{1} << 30);
  all.expert_bytes.front() *= 2;
  REQUIRE(slot_classes(all).size() > 1);
  CHECK(ExpertSlots(model, roomy, {all, 0}).refusal().empty());
  int64_t largest = 0;
  for (const SlotClass& c : slot_classes(all)) {
    largest = std::max(largest, c.slot_bytes * c.count);
  }
  Fragmented device(test_machine(), largest - 1);
  const ExpertSlots slots(model, device, {all, 0});
  CHECK(slots.count() > 0);
  CHECK(device.used_bytes() == slots.bytes());
}

TEST_CASE("a model runs with the slots that the device grants") {
  const Model model = Model::load(GgufFile::open(kFamilies + "qwen3moe-f32.gguf"));
  const std::vector<int32_t> tokens{1, 5, 9, 13};
  NoPrefetcher prefetcher;
  const auto run = [&](StepHarness& harness) {
    const auto logits = run_step({tokens, 0, 4}, harness.executor, harness.planner, harness.cache,
                                 prefetcher, harness.plan);
    return std::vector<float>(logits.begin(), logits.end());
  };
  StepHarness whole(model, 6);
  const int64_t most = whole.executor.slots_bytes() / 2;
  StepHarness fewer(model, 6, std::make_unique<Fragmented>(test_machine(), most));
  CHECK(fewer.executor.n_slots() < 6);
  CHECK(fewer.executor.n_slots() > 0);
  CHECK(fewer.cache.n_slots() == fewer.executor.n_slots());
  CHECK(relative_error(run(fewer), run(whole)) < 1e-4);
}

TEST_CASE("an engine whose slots all seemed to fit runs without guesses where some are refused") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto all = static_cast<int32_t>(model.config().n_layers) * model.config().routing.n_experts;
  EngineSettings settings = sim_settings(all);
  Engine whole(model, test_machine(), settings);
  OpenDevice fragmented{std::make_unique<Fragmented>(test_machine(), int64_t{4} << 20), {}};
  Engine fewer(model, test_machine(), settings, std::move(fragmented));
  CHECK(whole.n_slots() == all);
  CHECK(fewer.n_slots() < all);
  CHECK(fewer.n_slots() > 0);
  CHECK(fewer.lookahead_scores() == nullptr);
  const auto predictor = std::ranges::find(fewer.effective(), "predictor", &EffectiveSetting::name);
  REQUIRE(predictor != fewer.effective().end());
  CHECK(predictor->effective + ": " + predictor->reason ==
        "none: every expert seemed to have a slot");
  const std::vector<int32_t> prompt{10, 11, 12, 50};
  CHECK(greedy(fewer, prompt, 4) == greedy(whole, prompt, 4));
}

TEST_CASE("buffers that the device refuses leave their memory to slots") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto harness = [&](const char* refused) {
    return std::make_unique<StepHarness>(model, 190,
                                         std::make_unique<Fragmented>(test_machine(), 1, refused));
  };
  const auto with = harness("nothing");
  CHECK(with->executor.streams());
  CHECK(with->executor.refused_slots().empty());
  const auto without = harness("expert buffers");
  CHECK_FALSE(without->executor.streams());
  CHECK(without->executor.n_slots() == 190);
  CHECK(without->executor.refused_slots() == "no piece is that large");
}

TEST_CASE("the settings of an engine say that the device refused slots") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(20);
  // The allocation of the slots is the last one before the first token.
  uint64_t calls = 0;
  {
    const Engine engine(model, test_machine(), settings);
    calls = dynamic_cast<const SimDevice&>(engine.device()).calls();
  }
  settings.sim.fault = SimFault::kAtOnce;
  settings.sim.fault_call = calls - 1;
  const Engine engine(model, test_machine(), settings);
  CHECK(engine.n_slots() == 15);
  for (const EffectiveSetting& setting : engine.effective()) {
    if (setting.name != "expert slots") continue;
    CHECK(setting.requested == "20");
    CHECK(setting.effective == "15 of 192");
    CHECK_THAT(setting.reason, Catch::Contains("the device refused slots or buffers") &&
                                   Catch::Contains("has no memory left"));
  }
}

TEST_CASE("a device that refuses the KV cache is an error") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(20);
  settings.sim.fault = SimFault::kAtOnce;
  settings.sim.fault_call = 60;
  CHECK_THROWS_AS(Engine(model, test_machine(), settings), Error);
}

}  // namespace tandem::test
