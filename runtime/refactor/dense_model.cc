#include "runtime/refactor/dense_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/families.h"

namespace tandem {
namespace {

constexpr Family kDenseFamilies[] = {
    {"llama", "Llama", RopeStyle::kInterleaved, QkNorm::kNone, false, nullptr},
    {"qwen3", "Qwen3", RopeStyle::kHalves, QkNorm::kPerHead, false, nullptr},
};

const Family& dense_family(const GgufFile& file, std::string_view arch) {
  for (const Family& family : kDenseFamilies) {
    if (family.arch == arch) return family;
  }
  throw FileError(file.name(), fmt::format("general.architecture is {}; a dense model to refactor "
                                           "is llama or qwen3",
                                           quoted(arch)));
}

// Looks tensors up, checks them, and keeps a list of those that were used.
class DenseTensors {
 public:
  explicit DenseTensors(const GgufFile& file) : file_(file) {}

  WeightView matrix(const std::string& name, int64_t cols, int64_t rows) {
    const GgufTensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) throw FileError(file_.name(), fmt::format("has no tensor {}", name));
    used_.insert(tensor->name);
    const auto type = static_cast<DType>(tensor->type_id);
    if (type != DType::kF32 && type != DType::kF16 && type != DType::kBF16) {
      throw FileError(file_.name(),
                      fmt::format("tensor {} has type {}; a model to refactor has f32, f16 or bf16",
                                  name, ggml_type_info(tensor->type_id)->name));
    }
    if (std::cmp_not_equal(tensor->ne[0], cols) || std::cmp_not_equal(tensor->ne[1], rows) ||
        tensor->ne[2] != 1 || tensor->ne[3] != 1) {
      throw FileError(file_.name(), fmt::format("tensor {} is {} x {} x {} x {}; expected {} x {}",
                                                name, tensor->ne[0], tensor->ne[1], tensor->ne[2],
                                                tensor->ne[3], cols, rows));
    }
    return {type, rows, cols, tensor->data};
  }
  WeightView matrix_or(const std::string& name, int64_t cols, int64_t rows, WeightView otherwise) {
    return file_.find_tensor(name) == nullptr ? otherwise : matrix(name, cols, rows);
  }
  std::vector<float> vector(const std::string& name, int64_t n) {
    const WeightView row = matrix(name, n, 1);
    std::vector<float> values(static_cast<size_t>(n));
    dequantize(row.type, row.data, values.data(), n);
    return values;
  }
  std::vector<float> vector_or_none(const std::string& name, int64_t n) {
    return file_.find_tensor(name) == nullptr ? std::vector<float>{} : vector(name, n);
  }
  // What is not computed with would be lost unseen.
  void check_all_used() const {
    for (const GgufTensor& tensor : file_.tensors()) {
      if (used_.contains(tensor.name)) continue;
      throw FileError(file_.name(), fmt::format("tensor {} is none that a dense model of this "
                                                "family has here",
                                                quoted(tensor.name)));
    }
  }

 private:
  const GgufFile& file_;
  std::unordered_set<std::string_view> used_;
};

DenseLayer load_layer(DenseTensors* tensors, const std::string& p, const ModelConfig& c,
                      int64_t ff) {
  const int64_t d = c.d_model;
  DenseLayer layer;
  layer.attn_norm = tensors->vector(p + "attn_norm.weight", d);
  layer.wq = tensors->matrix(p + "attn_q.weight", d, c.q_width());
  layer.wk = tensors->matrix(p + "attn_k.weight", d, c.k_width());
  layer.wv = tensors->matrix(p + "attn_v.weight", d, c.v_width());
  layer.wo = tensors->matrix(p + "attn_output.weight", c.n_heads * c.v_head_dim, d);
  if (c.qk_norm == QkNorm::kPerHead) {
    layer.q_norm = tensors->vector(p + "attn_q_norm.weight", c.head_dim);
    layer.k_norm = tensors->vector(p + "attn_k_norm.weight", c.head_dim);
  }
  layer.ffn_norm = tensors->vector(p + "ffn_norm.weight", d);
  layer.gate = tensors->matrix(p + "ffn_gate.weight", d, ff);
  layer.up = tensors->matrix(p + "ffn_up.weight", d, ff);
  layer.down = tensors->matrix(p + "ffn_down.weight", ff, d);
  return layer;
}

int64_t inner_width(const GgufFile& file, const std::string& arch) {
  const std::string key = arch + ".feed_forward_length";
  const uint64_t width = file.need_uint(key);
  if (width >= 1 && width <= kMaxWidth) return static_cast<int64_t>(width);
  throw FileError(file.name(), fmt::format("{} is {}; expected 1 to {}", key, width, kMaxWidth));
}

}  // namespace

DenseModel DenseModel::load(GgufFile file) {
  DenseModel model;
  model.file_ = std::make_unique<GgufFile>(std::move(file));
  const GgufFile& f = *model.file_;
  ModelConfig& c = model.config_;
  c.arch = std::string(f.need_string("general.architecture"));
  const Family& family = dense_family(f, c.arch);
  if (const uint64_t experts = f.get_uint(c.arch + ".expert_count").value_or(0); experts != 0) {
    throw FileError(f.name(), fmt::format("{}.expert_count is {}; a model to refactor has none",
                                          c.arch, experts));
  }
  read_attention_config(f, family, &c);
  if (c.clamp_qkv != 0) {
    throw FileError(f.name(),
                    fmt::format("{}.attention.clamp_kqv is {}; expected 0", c.arch, c.clamp_qkv));
  }
  model.ff_ = inner_width(f, c.arch);
  DenseTensors tensors(f);
  model.embedding_ = tensors.matrix("token_embd.weight", c.d_model, c.n_vocab);
  model.output_norm_ = tensors.vector("output_norm.weight", c.d_model);
  model.output_ = tensors.matrix_or("output.weight", c.d_model, c.n_vocab, model.embedding_);
  model.rope_factors_ = tensors.vector_or_none("rope_freqs.weight", c.rope.n_rot / 2);
  for (const float factor : model.rope_factors_) {
    if (factor > 0 && std::isfinite(1.0F / factor)) continue;
    throw FileError(f.name(), fmt::format("tensor rope_freqs.weight holds {}; expected positive "
                                          "numbers with a finite inverse",
                                          factor));
  }
  if (!model.rope_factors_.empty()) c.rope.freq_factors = model.rope_factors_.data();
  for (int64_t i = 0; i < c.n_layers; ++i) {
    model.layers_.push_back(load_layer(&tensors, fmt::format("blk.{}.", i), c, model.ff_));
  }
  tensors.check_all_used();
  return model;
}

void DenseModel::check_finite() const {
  for (const GgufTensor& tensor : file_->tensors()) {
    const auto type = static_cast<DType>(tensor.type_id);
    const auto n = static_cast<int64_t>(tensor.size_bytes) / dtype_info(type).block_bytes;
    if (all_finite(type, tensor.data, n)) continue;
    throw FileError(file_->name(),
                    fmt::format("tensor {} holds a number that is not finite", tensor.name));
  }
}

}  // namespace tandem
