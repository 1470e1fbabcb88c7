#include "runtime/model/model_config.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "kernels/attention.h"
#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/families.h"
#include "runtime/model/gguf_file.h"

namespace tandem {
namespace {

constexpr uint64_t kMaxLayers = 1024;
constexpr uint64_t kMaxExperts = 4096;
constexpr uint64_t kMaxHeads = 4096;
constexpr uint64_t kMaxContext = 1U << 28;

// Reads `{arch}.key` values and checks their range.
class Keys {
 public:
  Keys(const GgufFile& file, std::string arch) : file_(file), arch_(std::move(arch)) {}

  std::string full(std::string_view key) const { return fmt::format("{}.{}", arch_, key); }

  int64_t count(std::string_view key, uint64_t most) const {
    return checked(key, file_.need_uint(full(key)), most);
  }
  int64_t count_or(std::string_view key, uint64_t most, int64_t otherwise) const {
    const auto value = file_.get_uint(full(key));
    return value ? checked(key, *value, most) : otherwise;
  }
  float number_or(std::string_view key, double otherwise) const {
    const double value = file_.get_float(full(key)).value_or(otherwise);
    // Also false for NaN. A number that a float rounds to 0 would change its meaning.
    const bool fits = std::abs(value) <= std::numeric_limits<float>::max() &&
                      (value == 0) == (static_cast<float>(value) == 0);
    if (!fits) fail(key, fmt::format("is {}; expected a finite 32-bit float", value));
    return static_cast<float>(value);
  }
  float positive_or(std::string_view key, double otherwise) const {
    const float value = number_or(key, otherwise);
    if (!(value > 0)) fail(key, fmt::format("is {}; expected a positive number", value));
    return value;
  }
  // What positions are divided by; 0 means "not scaled" in files and gives 1.
  float scaling_or(std::string_view key, double otherwise) const {
    const float value = number_or(key, otherwise);
    if (value == 0) return 1.0F;
    if (value < 0 || !std::isfinite(1.0F / value)) {
      fail(key, fmt::format("is {}; expected 0 or a positive number with a finite inverse", value));
    }
    return value;
  }
  std::optional<std::string_view> text(std::string_view key) const {
    return file_.get_string(full(key));
  }
  std::optional<bool> flag(std::string_view key) const { return file_.get_bool(full(key)); }

  // A head count may be one number, or one for each layer (which must then all be equal).
  int64_t heads(std::string_view key, int64_t otherwise) const {
    const GgufValue* value = file_.find(full(key));
    if (value == nullptr || !std::holds_alternative<GgufArray>(*value)) {
      return count_or(key, kMaxHeads, otherwise);
    }
    const std::vector<int64_t> all = file_.get_int_array(full(key)).value();
    if (all.empty()) fail(key, "is an empty array");
    for (const int64_t n : all) {
      if (n == all.front()) continue;
      fail(key, fmt::format("is {} in one layer and {} in another, which no family here has",
                            all.front(), n));
    }
    return checked(key, all.front(), kMaxHeads);
  }

  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    throw FileError(file_.name(), fmt::format("{} {}", full(key), what));
  }

 private:
  template <typename Integer>
  int64_t checked(std::string_view key, Integer value, uint64_t most) const {
    if (std::cmp_less(value, 1) || std::cmp_greater(value, most)) {
      fail(key, fmt::format("is {}; expected 1 to {}", value, most));
    }
    return static_cast<int64_t>(value);
  }

  const GgufFile& file_;
  std::string arch_;
};

// even_split: embedding_length over the heads, for files that do not say it.
int64_t head_dim(const Keys& keys, std::string_view key, int64_t even_split) {
  const int64_t dim = keys.count_or(key, kMaxHeadDim, even_split);
  if (dim < 1 || dim > kMaxHeadDim) {
    keys.fail(key, fmt::format("is missing, and embedding_length / attention.head_count is {}; "
                               "expected 1 to {}",
                               dim, kMaxHeadDim));
  }
  return dim;
}

// RoPE scaling keys as llama.cpp's converters write them; defaults as its loader sets them.
void read_rope(const Keys& keys, ModelConfig* config) {
  RopeParams& rope = config->rope;
  rope.n_rot = keys.count_or("rope.dimension_count", kMaxHeadDim, config->head_dim);
  if (rope.n_rot > config->head_dim || rope.n_rot % 2 != 0) {
    keys.fail("rope.dimension_count",
              fmt::format("is {}; expected an even number up to {}", rope.n_rot, config->head_dim));
  }
  rope.freq_base = keys.positive_or("rope.freq_base", 10000.0);
  const std::string_view type = keys.text("rope.scaling.type").value_or("");
  // Old files say only "scale_linear".
  const float linear = keys.scaling_or("rope.scale_linear", 1.0);
  const float factor = keys.scaling_or("rope.scaling.factor", linear);
  rope.yarn_orig_ctx =
      keys.count_or("rope.scaling.original_context_length", kMaxContext, config->n_ctx_train);
  if (type == "yarn") {
    rope.freq_scale = 1.0F / factor;
    rope.yarn_ext_factor = 1.0F;
    rope.yarn_attn_factor = keys.positive_or("rope.scaling.attn_factor", 1.0);
    rope.yarn_beta_fast = keys.positive_or("rope.scaling.yarn_beta_fast", 32.0);
    rope.yarn_beta_slow = keys.positive_or("rope.scaling.yarn_beta_slow", 1.0);
  } else if (type.empty() || type == "linear") {
    rope.freq_scale = 1.0F / factor;
  } else if (type != "none") {
    keys.fail("rope.scaling.type",
              fmt::format("is {}; expected none, linear or yarn", quoted(type)));
  }
}

void read_routing(const Keys& keys, const Family& family, ModelConfig* config) {
  RoutingRules& rules = config->routing;
  rules.n_experts = static_cast<int32_t>(keys.count("expert_count", kMaxExperts));
  rules.top_k = static_cast<int32_t>(keys.count("expert_used_count", kMaxExperts));
  if (rules.top_k > rules.n_experts) {
    keys.fail("expert_used_count",
              fmt::format("is {}, more than the {} experts", rules.top_k, rules.n_experts));
  }
  rules.normalize = keys.flag("expert_weights_norm").value_or(family.normalize_weights);
  const float scale = keys.number_or("expert_weights_scale", 0.0);
  rules.scale = scale == 0.0F ? 1.0F : scale;  // 0 means "not scaled" in files
  const int64_t gating = keys.count_or("expert_gating_func", 2, 1);
  rules.score = gating == 2 ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax;
}

// Of a routed expert. The tensor says it in every file, the key in some; 0 there is "not said".
int64_t expert_width(const GgufFile& file, const Keys& keys) {
  for (const char* name : {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate.0.weight"}) {
    const GgufTensor* gate = file.find_tensor(name);
    if (gate == nullptr) continue;
    const auto width = static_cast<int64_t>(gate->ne[1]);
    constexpr const char* kKey = "expert_feed_forward_length";
    const uint64_t said = file.get_uint(keys.full(kKey)).value_or(0);
    if (said != 0 && std::cmp_not_equal(said, width)) {
      keys.fail(kKey, fmt::format("is {}, but {} has {} rows", said, name, width));
    }
    if (std::cmp_greater(width, kMaxWidth)) {
      throw FileError(file.name(), fmt::format("tensor {} has {} rows; expected 1 to {}", name,
                                               width, kMaxWidth));
    }
    return width;
  }
  throw FileError(file.name(), "has no tensor blk.0.ffn_gate_exps.weight");
}

const Family& known_family(const GgufFile& file, std::string_view arch) {
  if (const Family* family = find_family(arch)) return *family;
  std::string known;
  for (const Family& family : families()) {
    known += fmt::format("{}{} ({})", known.empty() ? "" : ", ", family.arch, family.what);
  }
  throw FileError(file.name(),
                  fmt::format("general.architecture is {}; supported: {}", quoted(arch), known));
}

}  // namespace

void read_attention_config(const GgufFile& file, const Family& family, ModelConfig* config) {
  const Keys keys(file, config->arch);
  const std::string stem = std::filesystem::path(file.name()).stem().string();
  config->name = std::string(file.get_string("general.name").value_or(stem));
  config->n_layers = keys.count("block_count", kMaxLayers);
  config->n_ctx_train = keys.count("context_length", kMaxContext);
  config->d_model = keys.count("embedding_length", kMaxWidth);
  config->n_heads = keys.heads("attention.head_count", 0);
  if (config->n_heads < 1) keys.fail("attention.head_count", "is missing");
  config->n_kv_heads = keys.heads("attention.head_count_kv", config->n_heads);
  if (config->n_heads % config->n_kv_heads != 0) {
    keys.fail("attention.head_count", fmt::format("is {}, not a multiple of the {} key-value heads",
                                                  config->n_heads, config->n_kv_heads));
  }
  const int64_t even_split = config->d_model / config->n_heads;
  config->head_dim = head_dim(keys, "attention.key_length", even_split);
  config->v_head_dim = head_dim(keys, "attention.value_length", even_split);
  config->rms_eps = keys.positive_or("attention.layer_norm_rms_epsilon", 1e-5);
  config->clamp_qkv = keys.number_or("attention.clamp_kqv", 0.0);
  config->qk_norm = family.qk_norm;
  config->rope.style = family.rope;
  read_rope(keys, config);
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) throw FileError(file.name(), "has no tensor token_embd.weight");
  config->n_vocab = static_cast<int64_t>(embedding->ne[1]);
}

ModelConfig read_model_config(const GgufFile& file) {
  ModelConfig config;
  config.arch = std::string(file.need_string("general.architecture"));
  const Family& family = known_family(file, config.arch);
  const Keys keys(file, config.arch);
  if (file.get_uint(keys.full("expert_count")).value_or(0) == 0) {
    throw FileError(file.name(), fmt::format("{} is 0 or absent: not a mixture-of-experts model",
                                             keys.full("expert_count")));
  }
  read_attention_config(file, family, &config);
  config.expert_ff = expert_width(file, keys);
  read_routing(keys, family, &config);
  if (family.adjust != nullptr) family.adjust(file, &config);
  return config;
}

}  // namespace tandem
