// The refactored file computes what the dense model does with an expert's channels only.
#include "runtime/refactor/extract.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "runtime/refactor/masked_ffn.h"
#include "tests/refactor/tiny_dense.h"
#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

// Any masks of these sizes, not only multiples of 32.
ExpertMasks random_masks(const TinyDense& tiny, int32_t experts, int64_t residual, int64_t width) {
  std::mt19937 random(tiny.seed + 99);
  ExpertMasks masks{tiny.ff, residual + width, residual, width, {}};
  std::vector<int32_t> all(static_cast<size_t>(tiny.ff));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t l = 0; l < tiny.layers; ++l) {
    LayerChannels layer;
    std::shuffle(all.begin(), all.end(), random);
    layer.residual.assign(all.begin(), all.begin() + residual);
    std::sort(layer.residual.begin(), layer.residual.end());
    for (int32_t e = 0; e < experts; ++e) {
      std::shuffle(all.begin() + residual, all.end(), random);
      auto& own =
          layer.experts.emplace_back(all.begin() + residual, all.begin() + residual + width);
      std::sort(own.begin(), own.end());
    }
    masks.layers.push_back(layer);
  }
  return masks;
}

std::vector<float> logits_of(DenseForward* forward, const float* rows, int64_t n, int64_t vocab) {
  std::vector<float> logits(static_cast<size_t>(n * vocab));
  forward->logits(rows, n, logits.data(), serial_for);
  return logits;
}

WeightView view(const GgufFile& file, const std::string& name, uint64_t expert) {
  const GgufTensor* tensor = file.find_tensor(name);
  REQUIRE(tensor != nullptr);
  WeightView w{static_cast<DType>(tensor->type_id), static_cast<int64_t>(tensor->ne[1]),
               static_cast<int64_t>(tensor->ne[0]), tensor->data};
  w.data += static_cast<int64_t>(expert) * w.bytes();
  return w;
}

// One token's network by the matrices of the refactored file.
void extracted_ffn(const GgufFile& file, int64_t layer, int32_t expert, const float* x, int64_t d,
                   FloatProduct* product, float* out) {
  std::fill_n(out, d, 0.0F);
  const auto add_part = [&](const char* kind, uint64_t e) {
    const auto name = [&](const char* which) {
      return fmt::format("blk.{}.ffn_{}_{}.weight", layer, which, kind);
    };
    const WeightView gate = view(file, name("gate"), e);
    std::vector<float> hidden(static_cast<size_t>(gate.rows));
    std::vector<float> part(static_cast<size_t>(d));
    ffn_hidden(gate, view(file, name("up"), e), x, 1, product, hidden.data(), serial_for);
    (*product)(view(file, name("down"), e), hidden.data(), 1, part.data(), serial_for);
    for (int64_t i = 0; i < d; ++i) out[i] += part[static_cast<size_t>(i)];
  };
  if (file.find_tensor("blk.0.ffn_gate_shexp.weight") != nullptr) add_part("shexp", 0);
  add_part("exps", static_cast<uint64_t>(expert));
}

void extraction_is_exact(TinyDense tiny, int32_t experts, int64_t residual, int64_t width) {
  const TempDir dir;
  const Bytes image = tiny.file().build();
  const DenseModel model = DenseModel::load(GgufFile::from_memory(image, "tiny.gguf"));
  const ExpertMasks masks = random_masks(tiny, experts, residual, width);
  const auto path = dir.path() / "moe.gguf";
  REQUIRE(write_refactored(model, masks, std::string(64, 'a'), path, {}));
  const GgufFile moe = GgufFile::open(path);

  const std::vector<int32_t> tokens = some_tokens(13, tiny.vocab, 3);
  const std::vector<int32_t> chosen = some_tokens(13, experts, 4);
  DenseForward forward(model, 16);
  MaskedFfn masked(model, masks, 16, forward.product());
  const float* rows = forward.run(
      tokens,
      [&](int64_t layer, const float* x, int64_t, float* out) {
        masked.run(layer, chosen, x, out, serial_for);
      },
      {}, serial_for);
  const std::vector<float> by_mask = logits_of(&forward, rows, 13, tiny.vocab);
  rows = forward.run(
      tokens,
      [&](int64_t layer, const float* x, int64_t n, float* out) {
        for (int64_t t = 0; t < n; ++t) {
          extracted_ffn(moe, layer, chosen[static_cast<size_t>(t)], x + t * tiny.d, tiny.d,
                        forward.product(), out + t * tiny.d);
        }
      },
      {}, serial_for);
  CHECK(logits_of(&forward, rows, 13, tiny.vocab) == by_mask);

  // And both are what the definition says: the other channels of the dense model are left out.
  std::vector<std::vector<std::vector<bool>>> kept;
  for (const LayerChannels& layer : masks.layers) {
    auto& of_layer = kept.emplace_back();
    for (const int32_t e : chosen) {
      auto& channels = of_layer.emplace_back(static_cast<size_t>(tiny.ff), false);
      for (const int32_t c : layer.residual) channels[static_cast<size_t>(c)] = true;
      for (const int32_t c : layer.experts[static_cast<size_t>(e)]) {
        channels[static_cast<size_t>(c)] = true;
      }
    }
  }
  const DenseReference expected = ReferencePass(tiny).run(tokens, kept);
  size_t i = 0;
  double worst = 0;
  for (const auto& row : expected.logits) {
    for (const double logit : row) worst = std::max(worst, std::abs(by_mask.at(i++) - logit));
  }
  CHECK(worst < 2e-5);
}

TEST_CASE("extracted experts compute bit for bit what the masked dense model does") {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    extraction_is_exact({.type = type}, 3, 32, 32);
    extraction_is_exact({.type = type}, 5, 17, 23);
    extraction_is_exact({.type = type}, 2, 1, 71);
  }
  extraction_is_exact({.arch = "qwen3", .d = 37, .ff = 301}, 4, 65, 129);
}

TEST_CASE("without a residual there are no shared tensors, and extraction is as exact") {
  extraction_is_exact({}, 3, 0, 31);
  const TempDir dir;
  TinyDense tiny;
  const Bytes image = tiny.file().build();
  const DenseModel model = DenseModel::load(GgufFile::from_memory(image, "tiny.gguf"));
  const auto path = dir.path() / "moe.gguf";
  REQUIRE(write_refactored(model, random_masks(tiny, 2, 0, 32), "hash", path, {}));
  const GgufFile moe = GgufFile::open(path);
  CHECK(moe.find("readme-moe.expert_shared_feed_forward_length") == nullptr);
  CHECK(moe.find_tensor("blk.0.ffn_up_shexp.weight") == nullptr);
}

TEST_CASE("a refactored file says what it is, and keeps what it was") {
  const TempDir dir;
  TinyDense tiny;
  GgufBuilder builder = tiny.file();
  builder.add_strings("tokenizer.ggml.tokens", {"a", "b"}).add_u32("llama.expert_count", 0);
  builder.add_u32("split.count", 1).add_u32("readme-moe.expert_count", 77);
  const Bytes image = builder.build();
  const DenseModel model = DenseModel::load(GgufFile::from_memory(image, "tiny.gguf"));
  const auto path = dir.path() / "moe.gguf";
  REQUIRE(write_refactored(model, random_masks(tiny, 3, 16, 24), "hash", path, {}));
  const GgufFile moe = GgufFile::open(path);
  CHECK(moe.need_string("general.architecture") == "readme-moe");
  CHECK(moe.need_string("general.name") == "tiny");
  CHECK(moe.need_string("readme-moe.dense_architecture") == "llama");
  CHECK(moe.need_string("readme-moe.router.sha256") == "hash");
  CHECK(moe.need_uint("readme-moe.expert_count") == 3);
  CHECK(moe.need_uint("readme-moe.expert_used_count") == 1);
  CHECK(moe.need_uint("readme-moe.expert_feed_forward_length") == 24);
  CHECK(moe.need_uint("readme-moe.expert_shared_feed_forward_length") == 16);
  CHECK(moe.need_uint("readme-moe.feed_forward_length") == 72);
  CHECK(moe.get_float("readme-moe.rope.freq_base") == 500);
  CHECK(moe.get_string_array("tokenizer.ggml.tokens")->at(1) == "b");
  CHECK(moe.find("llama.block_count") == nullptr);
  CHECK(moe.find("split.count") == nullptr);
  const GgufTensor* up = moe.find_tensor("blk.1.ffn_up_exps.weight");
  REQUIRE(up != nullptr);
  CHECK(up->n_dims == 3);
  CHECK(std::vector<uint64_t>(up->ne, up->ne + 3) == std::vector<uint64_t>{20, 24, 3});
  const GgufTensor* down = moe.find_tensor("blk.1.ffn_down_exps.weight");
  REQUIRE(down != nullptr);
  CHECK(std::vector<uint64_t>(down->ne, down->ne + 3) == std::vector<uint64_t>{24, 20, 3});
  CHECK(moe.find_tensor("blk.1.ffn_down.weight") == nullptr);
  CHECK(moe.find_tensor("blk.1.ffn_gate_inp.weight") == nullptr);
  const GgufTensor* kept = moe.find_tensor("blk.1.attn_q.weight");
  REQUIRE(kept != nullptr);
  CHECK(
      std::ranges::equal(kept->bytes(), model.file().find_tensor("blk.1.attn_q.weight")->bytes()));
}

}  // namespace
}  // namespace tandem::test
