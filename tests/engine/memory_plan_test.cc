// What a plan counts is what an engine then has in use.
#include "runtime/engine/memory_plan.h"

#include "runtime/engine/device_choice.h"
#include "runtime/engine/shape_choice.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

MemoryPlan plan(const Model& model, const EngineSettings& settings) {
  std::vector<EffectiveSetting> lines;
  const OpenDevice open = open_device(settings, test_machine());
  const Device* const device = open.device.get();
  const EngineShape shape = choose_shape(model, test_machine(), settings, *device, &lines);
  const MemoryPlan plan = plan_memory(model, *device, test_machine(), shape, cache_wish(settings));
  CHECK(device->used_bytes() == 0);
  return plan;
}

int64_t sum(const std::vector<TaggedBytes>& parts) {
  int64_t bytes = 0;
  for (const TaggedBytes& part : parts) bytes += part.bytes;
  return bytes;
}

// The engine has the weights in memory; the plan has their layout at most.
void check_plan(const Model& model, const Model& planned, const EngineSettings& settings) {
  const MemoryPlan expected = plan(planned, settings);
  const Engine engine(model, test_machine(), settings);
  CHECK(expected.device_bytes == engine.device().used_bytes());
  CHECK(expected.n_slots == engine.n_slots());
  CHECK(sum(expected.device) + expected.slots_bytes == expected.device_bytes);
  CHECK(expected.vram_bytes == engine.device().info().vram_bytes);
  CHECK(expected.fits());
}

const char* const kModels[] = {"llama-f16",     "llama-q4_0-linear", "olmoe-k-quants",
                               "qwen2moe-bf16", "qwen3moe-f32",      "qwen3moe-q8_0-yarn"};

std::vector<EngineSettings> several_settings() {
  EngineSettings small = sim_settings(3);
  small.n_ctx = 40;
  small.n_batch = 7;
  EngineSettings wide = sim_settings(1 << 20);
  wide.n_ctx = 1000;
  wide.max_logits = 16;
  wide.kv_type_k = KvType::kF32;
  EngineSettings tight = sim_settings(0);
  tight.expert_slots.reset();
  tight.n_batch = 16;
  tight.vram_bytes = int64_t{11} << 20;
  return {small, wide, tight};
}

}  // namespace

TEST_CASE("a plan counts what an engine then has in use on the device, to the byte") {
  std::vector<std::string> paths{kDemoModel};
  for (const char* name : kModels) paths.push_back(kFamilies + name + ".gguf");
  for (const std::string& path : paths) {
    const Model model = Model::load(GgufFile::open(path));
    for (EngineSettings settings : several_settings()) {
      for (const DeviceKind kind : {DeviceKind::kSim, DeviceKind::kSimCuda}) {
        settings.device = kind;
        INFO(path << ", " << device_name(kind) << ", " << settings.n_batch);
        check_plan(model, model, settings);
      }
    }
  }
}

TEST_CASE(
    "a KV cache in q8_0 takes 34 bytes of 64 that f16 takes, keys and values each for itself") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(3);
  const auto cache_bytes = [&](KvType k, KvType v) {
    settings.kv_type_k = k;
    settings.kv_type_v = v;
    check_plan(model, model, settings);
    for (const TaggedBytes& part : plan(model, settings).device) {
      if (part.tag == "KV cache") return part.bytes;
    }
    return int64_t{0};
  };
  const int64_t f16 = cache_bytes(KvType::kF16, KvType::kF16);
  const int64_t q8 = cache_bytes(KvType::kQ8_0, KvType::kQ8_0);
  CHECK(q8 * 64 == f16 * 34);
  // Keys and values are as wide in this model.
  CHECK(cache_bytes(KvType::kQ8_0, KvType::kF16) * 2 == f16 + q8);
  CHECK(cache_bytes(KvType::kF16, KvType::kQ8_0) * 2 == f16 + q8);
}

TEST_CASE("heads that are no multiple of 32 are refused in q8_0, with what they are") {
  const Model model = Model::load(GgufFile::open(kFamilies + "qwen3moe-f32.gguf"));
  EngineSettings settings = sim_settings(3);
  settings.kv_type_k = KvType::kQ8_0;
  CHECK_THROWS_WITH(plan(model, settings),
                    "-ctk is q8_0; expected heads whose keys are a multiple of 32 wide, got 12");
  settings.kv_type_k = KvType::kF16;
  settings.kv_type_v = KvType::kQ8_0;
  CHECK_THROWS_AS(Engine(model, test_machine(), settings), ConfigError);
}

TEST_CASE("a model that is only laid out has the plan of one that is packed") {
  for (const char* name : kModels) {
    const std::string path = kFamilies + name + ".gguf";
    Model packed = Model::load(GgufFile::open(path));
    packed.pack(PackScope::kExperts, serial_for, [](int64_t) {});
    Model planned = Model::load(GgufFile::open(path));
    planned.lay_out_packed(PackScope::kExperts);
    CHECK(planned.packed() == packed.packed());
    CHECK(planned.unpacked_bytes(PackScope::kExperts) ==
          packed.unpacked_bytes(PackScope::kExperts));
    for (EngineSettings settings : several_settings()) {
      for (const DeviceKind kind : {DeviceKind::kSim, DeviceKind::kSimCuda}) {
        settings.device = kind;
        INFO(path << ", " << device_name(kind) << ", " << settings.n_batch);
        check_plan(packed, planned, settings);
      }
    }
  }
}

TEST_CASE("where every expert has a slot no memory goes to guesses, but for a trace's") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const auto all = static_cast<int32_t>(model.config().n_layers) * model.config().routing.n_experts;
  const auto guess_bytes = [&](int32_t slots, int32_t recorded) {
    EngineSettings settings = sim_settings(slots);
    settings.recorded_distances = recorded;
    check_plan(model, model, settings);
    for (const TaggedBytes& part : plan(model, settings).device) {
      if (part.tag == "lookahead") return part.bytes;
    }
    return int64_t{0};
  };
  CHECK(guess_bytes(all, 0) == 0);
  CHECK(guess_bytes(all - 1, 0) > 0);
  CHECK(guess_bytes(all, 1) > 0);
}

TEST_CASE("a plan that does not fit says how much it takes") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(5);
  settings.vram_bytes = 1 << 20;
  const MemoryPlan small = plan(model, settings);
  CHECK_FALSE(small.fits());
  CHECK(small.n_slots == 0);
  settings.vram_bytes = small.device_bytes;
  const MemoryPlan exact = plan(model, settings);
  CHECK(exact.fits());
  CHECK(exact.device_bytes == small.device_bytes);
  CHECK_FALSE(exact.slots_as_wished);
  CHECK(exact.n_slots == 0);
  CHECK_NOTHROW(Engine(model, test_machine(), settings));
  settings.vram_bytes = small.device_bytes - 256;
  CHECK_THROWS_AS(Engine(model, test_machine(), settings), MemoryError);
}

TEST_CASE("a plan for the CPU counts host memory and has no slots") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const MemoryPlan cpu = plan(model, cpu_settings());
  CHECK(cpu.host_memory);
  CHECK(cpu.fits());
  CHECK(cpu.n_slots == 0);
  CHECK(cpu.device_bytes > 0);
}

}  // namespace tandem::test
