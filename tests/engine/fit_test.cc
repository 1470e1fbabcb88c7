// What is lowered so that a GPU's memory is enough, and what is not.
#include "runtime/engine/fit.h"

#include "runtime/engine/device_choice.h"
#include "runtime/engine/expert_slots.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/shape_choice.h"
#include "runtime/error.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Catch::Contains;

EngineShape sizes(int64_t n_ctx, int64_t n_batch) { return resized({}, n_ctx, n_batch); }

// As if a token of context took 1 byte and a token of a batch 10.
std::optional<EngineShape> fit_into(int64_t bytes, const EngineShape& wanted,
                                    const FitLimits& limits) {
  return fit_shape(wanted, limits, [&](const EngineShape& shape) {
    return shape.n_ctx + 10 * shape.n_batch <= bytes;
  });
}

Model model_of_long_context() {
  return Model::load(GgufFile::open(kFamilies + "llama-q4_0-rope-freqs.gguf"));
}

// With a margin of so many bytes on top of what this takes on the simulated GPU.
int64_t bytes_for(const Model& model, EngineSettings settings, int64_t n_ctx, int64_t n_batch,
                  int32_t slots) {
  settings.n_ctx = n_ctx;
  settings.n_batch = n_batch;
  settings.expert_slots = slots;
  settings.fit.reset();
  settings.vram_bytes.reset();
  const Engine engine(model, test_machine(), settings);
  const Device& device = engine.device();
  const std::vector<int64_t> expert_bytes = ExpertSlots::expert_bytes(model, device);
  const int64_t buffer = *std::max_element(expert_bytes.begin(), expert_bytes.end());
  return device.used_bytes() - (engine.streams() ? kExpertBuffers * buffer : 0);
}

EffectiveSetting line(const Engine& engine, const std::string& name) {
  for (const EffectiveSetting& setting : engine.effective()) {
    if (setting.name == name) return setting;
  }
  return {};
}

}  // namespace

TEST_CASE("what fits is not lowered") {
  const auto shape = fit_into(10000, sizes(4096, 512), {512, 64});
  REQUIRE(shape);
  CHECK(shape->n_ctx == 4096);
  CHECK(shape->n_batch == 512);
}

TEST_CASE("the context is lowered first, in steps of 256 tokens and to its limit at most") {
  const auto shape = fit_into(5120 + 1000, sizes(4096, 512), {512, 64});
  REQUIRE(shape);
  CHECK(shape->n_ctx == 768);
  CHECK(shape->n_batch == 512);
  const auto odd = fit_into(5120 + 700, sizes(4096, 512), {600, 64});
  REQUIRE(odd);
  CHECK(odd->n_ctx == 600);
  CHECK(odd->n_batch == 512);
}

TEST_CASE("a batch is halved where no context is short enough, and the context is long again") {
  const auto shape = fit_into(5120 + 511, sizes(4096, 512), {512, 64});
  REQUIRE(shape);
  CHECK(shape->n_batch == 256);
  CHECK(shape->n_ctx == 3071 / 256 * 256);
}

TEST_CASE("nothing is lowered below the limits") {
  CHECK_FALSE(fit_into(512 + 639, sizes(4096, 512), {512, 64}));
  CHECK(fit_into(512 + 640, sizes(4096, 512), {512, 64}));
  CHECK_FALSE(fit_into(4096 + 5119, sizes(4096, 512), {4096, 512}));
}

TEST_CASE("a batch is doubled while that saves a tenth of the time and takes few slots") {
  const auto halving = [](int64_t n) {
    return BatchValue{true, 1000, 1e6 / static_cast<double>(n)};
  };
  CHECK(best_batch(512, 4096, halving) == 4096);
  CHECK(best_batch(512, 4095, halving) == 2048);
  CHECK(best_batch(512, 512, halving) == 512);
  CHECK(best_batch(512, 4096, [](int64_t n) {
          return BatchValue{true, 1000, n < 1024 ? 9.0 : 8.0};
        }) == 1024);
  CHECK(best_batch(512, 4096, [](int64_t) { return BatchValue{true, 1000, 9.0}; }) == 512);
  CHECK(best_batch(512, 4096, [&](int64_t n) {
          BatchValue value = halving(n);
          value.n_slots -= static_cast<int32_t>(n / 20);
          return value;
        }) == 1024);
  CHECK(best_batch(512, 4096, [&](int64_t n) {
          BatchValue value = halving(n);
          value.fits = n < 4096;
          return value;
        }) == 2048);
}

TEST_CASE("an engine that fetches experts over a slow link reads more tokens at once, if it may") {
  const Model model = model_of_long_context();
  MachineProfile machine = test_machine();
  machine.cpu.gflops = 1;
  machine.link.h2d_gbps = 0.5;
  EngineSettings settings = sim_settings(0);
  settings.n_ctx = 2048;
  settings.expert_slots = 2;
  settings.fit = FitSettings{true};
  const Engine open(model, machine, settings);
  CHECK(open.n_batch() == 2048);
  CHECK(open.streams());
  CHECK(line(open, "batch").requested == "auto");
  CHECK_THAT(line(open, "batch").reason, Contains("of its time with 512, modelled"));
  settings.max_logits = 512;
  CHECK(Engine(model, machine, settings).n_batch() == 512);
  settings.max_logits = 1;
  settings.fit->batch = false;
  CHECK(Engine(model, machine, settings).n_batch() == 512);
  settings.fit->batch = true;
  // Room for what was asked for, with 512 tokens only.
  settings.vram_bytes = Engine(model, machine, settings).device().used_bytes() - 4096;
  const Engine tight(model, machine, settings);
  CHECK(tight.n_slots() == 2);
  CHECK(tight.streams());
  CHECK(tight.n_batch() == 1024);
}

TEST_CASE("a batch that was left open takes none of the slots that were asked for and are few") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  MachineProfile machine = test_machine();
  machine.cpu.gflops = 1;
  machine.link.h2d_gbps = 0.5;  // so that prompts gain by a longer batch
  EngineSettings settings = sim_settings(190);
  settings.n_ctx = 512;
  settings.n_batch = 16;
  settings.fit = FitSettings{false};
  settings.vram_bytes = bytes_for(model, settings, 512, 16, 120);
  const Engine given(model, machine, settings);
  REQUIRE(given.n_batch() == 16);
  REQUIRE(given.n_slots() > 100);
  REQUIRE(given.n_slots() < 190);
  settings.fit->batch = true;
  CHECK(Engine(model, machine, settings).n_slots() == given.n_slots());
  settings.expert_slots.reset();
  CHECK(Engine(model, machine, settings).n_batch() > 16);
}

TEST_CASE("an engine that fits lowers the batch that was left open and says why") {
  const Model model = model_of_long_context();
  for (EngineSettings settings : {sim_settings(0), cuda_settings(0)}) {
    settings.fit = FitSettings{true};
    settings.vram_bytes = bytes_for(model, settings, 512, 128, 2);
    settings.expert_slots.reset();
    const Engine engine(model, test_machine(), settings);
    CHECK(engine.n_ctx() == 512);
    CHECK(engine.n_batch() == 128);
    CHECK(engine.n_slots() >= 2);  // top_k
    CHECK_THAT(line(engine, "batch").reason,
               Contains("lowered so that 2 expert slots (top_k) fit into"));
    CHECK(line(engine, "batch").requested == "auto");
  }
}

TEST_CASE("a context that was left open is lowered down to the limit") {
  // The model's 512 is the most that it may be, so the least here is below what the flag takes.
  const Model model = model_of_long_context();
  EngineSettings settings = sim_settings(2);
  settings.n_batch = 16;
  settings.fit = FitSettings{false, 128};
  settings.vram_bytes = bytes_for(model, settings, 300, 16, 2);
  const Engine engine(model, test_machine(), settings);
  CHECK(engine.n_ctx() == 256);
  CHECK(engine.n_slots() == 2);
  CHECK_THAT(line(engine, "context").reason, Contains("lowered so that 2 expert slots fit into"));
}

TEST_CASE("what was given stays as it is, and what then does not fit is an error") {
  const Model model = model_of_long_context();
  EngineSettings settings = sim_settings(2);
  settings.fit = FitSettings{false, 128};
  settings.vram_bytes = bytes_for(model, settings, 512, 128, 2);
  settings.n_ctx = 512;
  CHECK_THROWS_WITH(Engine(model, test_machine(), settings), Contains("raise --vram"));
  settings.fit->batch = true;
  const Engine engine(model, test_machine(), settings);
  CHECK(engine.n_ctx() == 512);
  CHECK(engine.n_batch() == 128);
}

TEST_CASE("nothing is given up for slots that there cannot be") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  EngineSettings settings = sim_settings(1000);
  settings.n_batch = 16;
  settings.fit = FitSettings{false, 256};
  settings.vram_bytes = bytes_for(model, settings, 512, 16, 5);
  const Engine engine(model, test_machine(), settings);
  CHECK(engine.n_ctx() == 512);
  CHECK(engine.n_slots() == 5);
}

TEST_CASE("without room for top_k slots, what can be read and kept counts more than slots") {
  const Model model = model_of_long_context();
  EngineSettings settings = sim_settings(0);
  settings.expert_slots.reset();
  settings.n_ctx = 512;
  settings.n_batch = 512;
  settings.recorded_distances = 3;  // else all experts fit, where guesses would be
  settings.fit = FitSettings{};
  settings.vram_bytes = bytes_for(model, settings, 512, 512, 1) - 256;
  const Engine engine(model, test_machine(), settings);
  CHECK(engine.n_batch() == 512);
  CHECK(engine.n_slots() == 0);
}

TEST_CASE("nothing is lowered without --fit, and nothing on the CPU") {
  const Model model = model_of_long_context();
  EngineSettings settings = sim_settings(2);
  settings.vram_bytes = bytes_for(model, settings, 512, 128, 2);
  CHECK_THROWS_AS(Engine(model, test_machine(), settings), MemoryError);
  EngineSettings cpu = cpu_settings();
  cpu.fit = FitSettings{true, 128};
  const Engine engine(model, test_machine(), cpu);
  CHECK(engine.n_ctx() == 512);
  CHECK(engine.n_batch() == 512);
}

}  // namespace tandem::test
