// The engine's own forward pass on a refactored file, with a router, gives what the dense model
// does when each token has the channels of its expert only.
#include "runtime/engine/engine.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "runtime/refactor/extract.h"
#include "runtime/refactor/masked_ffn.h"
#include "tests/engine/engine_testing.h"
#include "tests/refactor/tiny_dense.h"
#include "tests/support/catch.h"
#include "tests/support/decoupled_reference.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

constexpr int64_t kTokens = 13;

// Each layer's channels in an order of its own: the first are shared, the next ones an expert's.
ExpertMasks rotated_masks(const TinyDense& tiny, int32_t experts, int64_t residual, int64_t width) {
  ExpertMasks masks{tiny.ff, residual + width, residual, width, {}};
  std::mt19937 random(7);
  std::vector<int32_t> all(static_cast<size_t>(tiny.ff));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t l = 0; l < tiny.layers; ++l) {
    std::shuffle(all.begin(), all.end(), random);
    LayerChannels& layer = masks.layers.emplace_back();
    layer.residual.assign(all.begin(), all.begin() + residual);
    std::sort(layer.residual.begin(), layer.residual.end());
    for (int32_t e = 0; e < experts; ++e) {
      auto& own = layer.experts.emplace_back(all.begin() + residual + e * width,
                                             all.begin() + residual + (e + 1) * width);
      std::sort(own.begin(), own.end());
    }
  }
  return masks;
}

std::shared_ptr<DecoupledRouter> random_router(const TinyDense& tiny, int32_t experts) {
  DecoupledShape shape;
  shape.n_vocab = static_cast<int32_t>(tiny.vocab);
  shape.width = 8;
  shape.n_heads = 2;
  shape.ff = 16;
  shape.n_experts = experts;
  shape.n_layers = static_cast<int32_t>(tiny.layers);
  return std::make_shared<DecoupledRouter>(made_up_router(shape, 5));
}

std::vector<int32_t> experts_of(const DecoupledRouter& router, const std::vector<int32_t>& tokens) {
  DecoupledState state(router, kTokens, 1);
  std::vector<int32_t> chosen;
  for (const int32_t token : tokens) {
    const std::span<const float> says = state.append({&token, 1});
    chosen.push_back(static_cast<int32_t>(std::ranges::max_element(says) - says.begin()));
  }
  return chosen;
}

void engine_agrees(TinyDense tiny, int32_t experts, int64_t residual, int64_t width) {
  INFO(tiny.arch << ", " << residual << " shared");
  const Bytes image = tiny.file().build();
  const DenseModel dense = DenseModel::load(GgufFile::from_memory(image, "tiny.gguf"));
  const ExpertMasks masks = rotated_masks(tiny, experts, residual, width);
  const auto router = random_router(tiny, experts);
  const TempDir dir;
  const auto path = dir.path() / "moe.gguf";
  REQUIRE(write_refactored(dense, masks, decoupled_hash(*router), path, {}));
  const Model model = Model::load(GgufFile::open(path));

  std::vector<int32_t> tokens(kTokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((5 * i * i + 3 * i + 1) % 23);
  }
  const std::vector<int32_t> chosen = experts_of(*router, tokens);
  CHECK(std::ranges::count(chosen, chosen.front()) < kTokens);
  DenseForward forward(dense, kTokens);
  MaskedFfn masked(dense, masks, kTokens, forward.product());
  const float* rows = forward.run(
      tokens,
      [&](int64_t layer, const float* x, int64_t, float* out) {
        masked.run(layer, chosen, x, out, serial_for);
      },
      {}, serial_for);
  std::vector<float> expected(static_cast<size_t>(kTokens * tiny.vocab));
  forward.logits(rows, kTokens, expected.data(), serial_for);
  for (EngineSettings settings : {cpu_settings(), sim_settings(3)}) {
    settings.router = router;
    settings.n_ctx = 16;
    settings.n_batch = 5;
    settings.kv_type_k = settings.kv_type_v = KvType::kF32;
    CHECK(relative_error(all_logits(model, settings, tokens), expected) < 1e-5);
  }
}

}  // namespace

TEST_CASE("the engine computes of a refactored model what the masked dense model does") {
  engine_agrees({}, 3, 8, 16);
  engine_agrees({.tied = true}, 4, 0, 16);
  engine_agrees({.arch = "qwen3", .head_dim = 8}, 3, 16, 16);
}

}  // namespace tandem::test
