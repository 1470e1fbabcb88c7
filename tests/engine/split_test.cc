// Experts of which a part runs on either side: any division gives what the CPU alone gives.
#include <random>

#include "tests/engine/engine_testing.h"
#include "tests/engine/step_harness.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

// Runs one step; in `layer` the plan's i-th expert is divided by the i-th division, repeated as
// often as needed. Other layers run on the CPU.
std::vector<float> run_divided(const Model& model, const std::vector<int32_t>& tokens,
                               int32_t layer, const std::vector<Division>& divisions,
                               SimKernels kernels = SimKernels::kHost) {
  SimSettings sim;
  sim.kernels = kernels;
  sim.check_hazards = true;
  StepHarness harness(model, 64, 64, {}, sim);
  return run_divided(&harness, {tokens, 0, static_cast<int32_t>(tokens.size())}, layer, divisions);
}

std::vector<Division> all_divisions(int32_t pieces) {
  std::vector<Division> all;
  for (int32_t present = 0; present <= pieces; ++present) {
    for (int32_t gpu = 0; gpu <= pieces; ++gpu) all.push_back({present, gpu});
  }
  return all;
}

}  // namespace

TEST_CASE("an expert gives the same however it is divided between CPU and GPU") {
  const Unrounded unrounded;
  const Model model = Model::load(GgufFile::open(kDemoModel));
  REQUIRE(ExpertCuts(model).pieces() == 2);
  const std::vector<int32_t> tokens{4093, 3384, 794, 258, 535, 438, 307, 258};
  for (const int32_t layer : {0, 3, 5}) {
    const std::vector<float> expected = run_divided(model, tokens, layer, {{}});
    const std::vector<Division> divisions = all_divisions(2);
    for (const Division& one : divisions) {
      INFO("layer " << layer << ", present " << one.present << ", gpu " << one.gpu);
      CHECK(relative_error(run_divided(model, tokens, layer, {one}), expected) <= 1e-5);
    }
    CHECK(relative_error(run_divided(model, tokens, layer, divisions), expected) <= 1e-5);
  }
}

TEST_CASE("experts of every family can be divided at every piece") {
  const Unrounded unrounded;
  for (const std::string name :
       {"llama-f16", "olmoe-k-quants", "olmoe-q8_0-clip", "qwen3moe-f32"}) {
    const Model model = Model::load(GgufFile::open(kFamilies + name + ".gguf"));
    const std::vector<int32_t> tokens{1, 5, 9, 13, 17, 21};
    const std::vector<float> expected = run_divided(model, tokens, 0, {{}});
    const int32_t n = ExpertCuts(model).pieces();
    for (const Division& one : all_divisions(n)) {
      INFO(name << ", present " << one.present << ", gpu " << one.gpu << " of " << n);
      CHECK(relative_error(run_divided(model, tokens, 0, {one}), expected) <= 1e-5);
    }
  }
}

// Parts on CUDA kernels beside parts on the CPU's, which round alike.
TEST_CASE("an expert gives the same however it is divided between CPU and CUDA kernels") {
  const SimdOps* ops = testing::rounding_isa();
  if (ops == nullptr) {
    WARN("skipped: no instruction set of this CPU rounds activations");
    return;
  }
  const testing::IsaScope isa(ops);
  for (const char* name : {"llama-f16", "olmoe-k-quants", "olmoe-q8_0-clip", "qwen3moe-f32"}) {
    for (const bool packed : {false, true}) {
      Model model = Model::load(GgufFile::open(kFamilies + name + ".gguf"));
      if (packed) model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
      const std::vector<int32_t> tokens{1, 5, 9, 13, 17, 21};
      const std::vector<float> expected =
          run_divided(model, tokens, 0, {{}}, SimKernels::kEmulated);
      for (const Division& one : all_divisions(ExpertCuts(model).pieces())) {
        INFO(name << ", packed " << packed << ", present " << one.present << ", gpu " << one.gpu);
        CHECK(relative_error(run_divided(model, tokens, 0, {one}, SimKernels::kEmulated),
                             expected) <= 1e-5);
      }
    }
  }
}

TEST_CASE("experts that are no whole groups of rows are divided where their weights are packed") {
  const Unrounded unrounded;
  constexpr uint64_t kWidth = 16;
  constexpr uint64_t kFf = 136;  // the last piece has half a group
  TinyModel tiny;
  tiny.counts["embedding_length"] = kWidth;
  std::mt19937 rng(5);
  std::normal_distribution<float> normal(0, 0.3F);
  for (auto& [name, shape] : tiny.shapes) {
    size_t n = 1;
    for (uint64_t& size : shape) {
      size = size == 8 ? kWidth : size == 16 ? kFf : size;
      n *= size;
    }
    std::vector<float>& values = tiny.values[name];
    for (size_t i = 0; i < n; ++i) values.push_back(normal(rng));
  }
  const Bytes image = tiny.file().build();
  Model model = Model::load(GgufFile::from_memory(image, "tiny.gguf"));
  model.pack(PackScope::kAll, serial_for, [](int64_t) {});
  const std::vector<int32_t> tokens{1, 2, 3, 0};
  const int32_t pieces = ExpertCuts(model).pieces();
  REQUIRE(pieces == 9);
  const std::vector<float> expected = run_divided(model, tokens, 0, {{}});
  for (const Division& one : all_divisions(pieces)) {
    INFO("present " << one.present << ", gpu " << one.gpu << " of " << pieces);
    CHECK(relative_error(run_divided(model, tokens, 0, {one}), expected) <= 1e-5);
    // Of f32, which nothing rounds.
    CHECK(relative_error(run_divided(model, tokens, 0, {one}, SimKernels::kEmulated), expected) <=
          1e-5);
  }
}

TEST_CASE("copying a piece moves its bytes and no more") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  StepHarness harness(model, 8);
  const int64_t whole = model.weights().layers[0].experts[0].bytes();
  const int64_t before = harness.device->copied_to_device_bytes();
  const CopySlice slice{{LayerId{0}, ExpertId{3}}, SlotId{0}, 0, 1};
  ModelTime landed = 0;
  harness.executor.prefetch({&slice, 1}, {&landed, 1});
  CHECK(harness.device->copied_to_device_bytes() - before == whole / 2);
}

TEST_CASE("the engine divides experts where its policy may") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const std::vector<int32_t> tokens{4093, 3384, 794, 258, 535, 438, 307, 258};
  // A link and a CPU that are equally slow: half of an expert each ends sooner than one alone.
  MachineProfile machine = test_machine();
  machine.cpu = {1, 400, 0};
  machine.link = {1, 1, 0};
  machine.dram_gbps = 1000;
  Engine engine(model, machine, sim_settings(60));
  greedy(engine, tokens, 20);
  CHECK(engine.stats().experts.experts_split > 0);
}

}  // namespace tandem::test
