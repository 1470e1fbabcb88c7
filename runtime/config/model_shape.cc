#include "runtime/config/model_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "runtime/config/config_file.h"
#include "runtime/config/embedded.h"
#include "runtime/config/toml_reader.h"

namespace tandem {
namespace {

// With these, an expert has less than 2^39 weights and a layer's other parts less than 2^44: both
// fit an int64_t as bytes, at 32 bits and 4096 times. Only the sum over layers and experts needs a
// bound of its own.
constexpr int64_t kMostLayers = 4096;
constexpr int64_t kMostExperts = 4096;
constexpr int64_t kMostModelWidth = 1 << 17;
constexpr int64_t kMostInnerWidth = 1 << 20;
constexpr int64_t kMostHeads = 4096;
constexpr int64_t kMostHeadDim = 4096;
constexpr int64_t kMostVocab = 1 << 24;
constexpr int64_t kMostAttentionParams = int64_t{1} << 40;
constexpr int64_t kMostPieces = 64;
constexpr double kLeastBits = 0.5;
constexpr double kMostBits = 32;
constexpr double kMostExpertBytes = 0x1p60;  // of all experts of all layers

int64_t stored_bytes(int64_t params, double bits) {
  return static_cast<int64_t>(std::ceil(static_cast<double>(params) * bits / 8));
}

// Gate, up and down.
int64_t feed_forward_params(int64_t d_model, int64_t width) { return 3 * d_model * width; }

struct Attention {
  int64_t params = 0;
  int64_t kv_width = 0;  // numbers that a token leaves in a layer's cache
  int64_t width = 0;     // heads x head size
};

// Heads of one size, or what the file has worked out itself where heads are compressed.
Attention read_attention(TomlReader& toml, int64_t d_model) {
  const auto params = toml.integer("attention_params", 1, kMostAttentionParams);
  const auto forbid = [&](std::initializer_list<std::string_view> keys, std::string_view why) {
    for (const auto key : keys) {
      if (toml.scalar(key)) toml.fail(key, fmt::format("stands {} attention_params", why));
    }
  };
  if (params) {
    forbid({"heads", "kv_heads", "head_dim"}, "beside");
    return {*params, toml.need_integer("kv_width", 1, kMostInnerWidth),
            toml.need_integer("attention_width", 1, kMostInnerWidth)};
  }
  forbid({"kv_width", "attention_width"}, "without");
  const int64_t heads = toml.need_integer("heads", 1, kMostHeads);
  const int64_t kv_heads = toml.need_integer("kv_heads", 1, heads);
  const int64_t head_dim = toml.need_integer("head_dim", 1, kMostHeadDim);
  // Queries and output; keys and values.
  return {2 * d_model * head_dim * (heads + kv_heads), 2 * kv_heads * head_dim, heads * head_dim};
}

// [n_layers]
std::vector<double> read_expert_bits(TomlReader& toml, int32_t n_layers) {
  const auto bits = toml.number("expert_bits", kLeastBits, kMostBits);
  auto by_layer = toml.numbers("expert_bits_by_layer", kLeastBits, kMostBits);
  if (bits && by_layer) {
    toml.fail("expert_bits", "stands beside expert_bits_by_layer");
  }
  if (by_layer) {
    if (by_layer->size() != static_cast<size_t>(n_layers)) {
      toml.fail("expert_bits_by_layer",
                fmt::format("has {} values; expected {}, one for each layer with experts",
                            by_layer->size(), n_layers));
    }
    return *std::move(by_layer);
  }
  if (!bits) toml.fail("expert_bits", "is missing");
  return std::vector<double>(static_cast<size_t>(n_layers), *bits);
}

void read_experts(TomlReader& toml, int64_t d_model, ModelShape* shape) {
  shape->n_experts = static_cast<int32_t>(toml.need_integer("experts", 1, kMostExperts));
  shape->top_k = static_cast<int32_t>(toml.need_integer("top_k", 1, shape->n_experts));
  const int64_t expert_ff = toml.need_integer("expert_ff", 1, kMostInnerWidth);
  shape->expert_params = feed_forward_params(d_model, expert_ff);
  double all_bytes = 0;
  for (const double bits : read_expert_bits(toml, shape->n_layers)) {
    shape->expert_bytes.push_back(stored_bytes(shape->expert_params, bits));
    all_bytes += static_cast<double>(shape->expert_bytes.back()) * shape->n_experts;
  }
  if (all_bytes > kMostExpertBytes) {
    toml.fail("experts", fmt::format("are {:.3g} bytes together; expected at most {:.3g}",
                                     all_bytes, kMostExpertBytes));
  }
  const int64_t block = toml.need_integer("split_block", 1, expert_ff);
  if (expert_ff % block != 0) {
    toml.fail("split_block",
              fmt::format("is {}; expected a divisor of expert_ff, {}", block, expert_ff));
  }
  shape->split_pieces = static_cast<int32_t>(std::min(expert_ff / block, kMostPieces));
}

// Everything that the GPU does beside routed experts.
void read_dense_parts(TomlReader& toml, int64_t d_model, int64_t dense_layers, ModelShape* shape) {
  const double rest_bits = toml.need_number("rest_bits", kLeastBits, kMostBits);
  const double output_bits = toml.number("output_bits", kLeastBits, kMostBits).value_or(rest_bits);

  const Attention attention = read_attention(toml, d_model);
  // Router and two norms stay in 32 bits in GGUF files.
  const int64_t exact_params = d_model * (shape->n_experts + 2);
  shape->attention = {stored_bytes(attention.params, rest_bits) + 4 * exact_params,
                      attention.params + exact_params};
  shape->kv_bytes_per_token = 2 * attention.kv_width;
  shape->attention_width = attention.width;

  const int64_t shared_ff = toml.integer("shared_ff", 0, kMostInnerWidth).value_or(0);
  const int64_t shared_params = feed_forward_params(d_model, shared_ff);
  shape->shared_expert = {stored_bytes(shared_params, rest_bits), shared_params};

  const auto dense_ff = toml.integer("dense_ff", 1, kMostInnerWidth);
  if (dense_ff.has_value() != (dense_layers > 0)) {
    toml.fail("dense_ff", dense_ff ? "stands without dense_layers" : "is missing");
  }
  const int64_t dense_params =
      dense_layers * (attention.params + feed_forward_params(d_model, dense_ff.value_or(0)));
  const int64_t output_params = d_model * toml.need_integer("vocab", 1, kMostVocab);
  shape->other = {stored_bytes(dense_params, rest_bits) + stored_bytes(output_params, output_bits),
                  dense_params + output_params};
}

}  // namespace

ModelShape parse_model_shape(std::string_view text, const std::string& name,
                             const std::string& file) {
  TomlReader toml(text, file);
  const int64_t layers = toml.need_integer("layers", 1, kMostLayers);
  const int64_t dense_layers = toml.integer("dense_layers", 0, layers - 1).value_or(0);
  const int64_t d_model = toml.need_integer("d_model", 1, kMostModelWidth);
  ModelShape shape;
  shape.name = name;
  shape.n_layers = static_cast<int32_t>(layers - dense_layers);
  read_experts(toml, d_model, &shape);
  read_dense_parts(toml, d_model, dense_layers, &shape);
  toml.done();
  return shape;
}

ModelShape load_model_shape(const std::string& name_or_path) {
  const ConfigFile found =
      find_config_file(name_or_path, {"model shape", "configs/models", embedded_shapes()});
  return parse_model_shape(found.text, found.name, found.file);
}

}  // namespace tandem
