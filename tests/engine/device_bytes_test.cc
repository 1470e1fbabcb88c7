// What a decode token moves in a GPU's memory, as launches declare it, beside the fewest bytes that
// it can: each weight that it uses once, keys and values. What kernels touch beyond their
// declarations is an error of AddressSanitizer's elsewhere; here it is how much they declare.
#include "runtime/engine/engine.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// Of a token at `position`, all experts in VRAM. A layer's activations are rows of d, ff or a KV
// head's width, counted where they must cross from one kernel to the next: residual in and out of
// two norms, their results, queries, keys and values twice, attention, its output, and what each
// use of an expert takes and gives.
struct Fewest {
  int64_t weights = 0;
  int64_t kv = 0;
  int64_t activations = 0;
};

Fewest fewest(const Model& model, const EngineSettings& settings, int64_t position) {
  const ModelConfig& c = model.config();
  const ModelWeights& w = model.weights();
  Fewest out;
  out.weights = w.output.bytes();
  for (const LayerWeights& layer : w.layers) {
    for (const WeightView& m : {layer.wq, layer.wk, layer.wv, layer.wo, layer.router}) {
      out.weights += m.bytes();
    }
    out.weights += c.routing.top_k * layer.experts.front().bytes();
  }
  const int64_t width =
      (settings.kv_type_k == KvType::kF16 ? 2 : 4) * c.n_kv_heads * (c.head_dim + c.v_head_dim);
  out.kv = c.n_layers * width * (position + 2);  // read up to its own, which is written first
  const int64_t uses = c.routing.top_k;
  const int64_t floats = 14 * c.d_model + 2 * (c.k_width() + c.v_width()) + 6 * c.q_width() +
                         uses * (2 * c.expert_ff + 2 * c.d_model) + c.routing.n_experts;
  out.activations = (c.n_layers * floats + 3 * c.d_model + c.n_vocab) * 4;
  return out;
}

}  // namespace

TEST_CASE("a decode token moves the fewest bytes and a twentieth of its weights at most") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  const ModelConfig& c = model.config();
  EngineSettings settings = cuda_settings(static_cast<int32_t>(c.n_layers) * c.routing.n_experts);
  Engine engine(model, test_machine(), settings);
  const std::vector<int32_t> prompt{4093, 3384, 794, 258, 535};
  for (int i = 0; i < 3; ++i) engine.eval(prompt);
  const ExecutorStats before = engine.stats().experts;
  const int64_t bytes = engine.device().kernel_bytes();
  const int64_t position = engine.position();
  engine.eval(std::span(prompt).first(1));
  const ExecutorStats after = engine.stats().experts;
  REQUIRE(after.experts_cpu + after.experts_split == before.experts_cpu + before.experts_split);
  const int64_t moved = engine.device().kernel_bytes() - bytes;
  const Fewest least = fewest(model, settings, position);
  INFO(moved << " bytes moved; weights " << least.weights << ", keys and values " << least.kv
             << ", activations " << least.activations);
  CHECK(moved >= least.weights + least.kv);
  CHECK(static_cast<double>(moved - least.kv - least.activations) <=
        1.05 * static_cast<double>(least.weights));
}

}  // namespace tandem::test
