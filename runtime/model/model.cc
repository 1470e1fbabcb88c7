#include "runtime/model/model.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/model/byte_ranges.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/pack_model.h"
#include "runtime/model/unpacked_weights.h"

namespace tandem {
namespace {

std::string dims_text(const GgufTensor& tensor) {
  std::string text;
  for (uint32_t i = 0; i < tensor.n_dims; ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : " x ", tensor.ne[i]);
  }
  return text;
}

constexpr size_t kCheckBytes = size_t{4} << 20;  // of a tensor, at once

constexpr uint32_t kMaxTypeId = 64;  // above every id of the GGUF specification

std::string known_types() {
  std::string text;
  for (uint32_t id = 0; id < kMaxTypeId; ++id) {
    const DTypeInfo* info = dtype_info(id);
    if (info != nullptr) text += fmt::format("{}{}", text.empty() ? "" : ", ", info->name);
  }
  return text;
}

// Looks tensors up by name and checks type and shape. Shapes are given as GGUF writes them, the
// row length first. Names in its messages are those that were looked for, never the file's own.
class Tensors {
 public:
  explicit Tensors(const GgufFile& file) : file_(file) {}

  const GgufTensor& need(const std::string& name) const {
    if (const GgufTensor* tensor = file_.find_tensor(name)) return *tensor;
    throw FileError(file_.name(), fmt::format("has no tensor {}", name));
  }

  WeightView matrix(const std::string& name, int64_t cols, int64_t rows) const {
    return view(need(name), {cols, rows, 1});
  }
  WeightView matrix_or_none(const std::string& name, int64_t cols, int64_t rows) const {
    const GgufTensor* tensor = file_.find_tensor(name);
    return tensor == nullptr ? WeightView{} : view(*tensor, {cols, rows, 1});
  }
  // One matrix an expert, from the merged tensor or from the older one-tensor-an-expert files.
  std::vector<WeightView> experts(const std::string& prefix, const std::string& which, int64_t cols,
                                  int64_t rows, int64_t n) const {
    std::vector<WeightView> views;
    if (const GgufTensor* merged =
            file_.find_tensor(fmt::format("{}ffn_{}_exps.weight", prefix, which))) {
      WeightView one = view(*merged, {cols, rows, n});
      for (int64_t e = 0; e < n; ++e, one.data += one.bytes()) views.push_back(one);
      return views;
    }
    if (file_.find_tensor(fmt::format("{}ffn_{}.0.weight", prefix, which)) == nullptr) {
      need(fmt::format("{}ffn_{}_exps.weight", prefix, which));
    }
    const auto name = [&](int64_t e) {
      return fmt::format("{}ffn_{}.{}.weight", prefix, which, e);
    };
    for (int64_t e = 0; e < n; ++e) {
      views.push_back(matrix(name(e), cols, rows));
      if (views[0].type == views.back().type) continue;
      throw FileError(file_.name(),
                      fmt::format("tensors {} ({}) and {} ({}) have different types; expected one "
                                  "type for all experts of a layer",
                                  name(0), dtype_info(views[0].type).name, name(e),
                                  dtype_info(views.back().type).name));
    }
    return views;
  }

  Vector vector(const std::string& name, int64_t n) const { return values(need(name), n); }
  Vector vector_or_none(const std::string& name, int64_t n) const {
    const GgufTensor* tensor = file_.find_tensor(name);
    return tensor == nullptr ? Vector{} : values(*tensor, n);
  }

 private:
  DType type_of(const GgufTensor& tensor) const {
    if (dtype_info(tensor.type_id) != nullptr) return static_cast<DType>(tensor.type_id);
    throw FileError(file_.name(), fmt::format("tensor {} has type {}; supported: {}", tensor.name,
                                              ggml_type_info(tensor.type_id)->name, known_types()));
  }

  WeightView view(const GgufTensor& tensor, std::array<int64_t, 3> shape) const {
    bool same = tensor.ne[3] == 1;
    for (size_t i = 0; i < 3; ++i) same &= tensor.ne[i] == static_cast<uint64_t>(shape[i]);
    if (!same) {
      throw FileError(file_.name(),
                      fmt::format("tensor {} is {}; expected {} x {} x {}", tensor.name,
                                  dims_text(tensor), shape[0], shape[1], shape[2]));
    }
    const WeightView one{type_of(tensor), shape[1], shape[0], tensor.data};
    // The parser sized the tensor by its own table of types: what is read must be what it checked.
    const auto bytes = static_cast<uint64_t>(one.bytes() * shape[2]);
    TANDEM_CHECK(bytes == tensor.size_bytes, "%llu bytes of type %s in a tensor of %llu",
                 static_cast<unsigned long long>(bytes), dtype_info(one.type).name,
                 static_cast<unsigned long long>(tensor.size_bytes));
    return one;
  }

  Vector values(const GgufTensor& tensor, int64_t n) const {
    const WeightView row = view(tensor, {n, 1, 1});
    Vector out(static_cast<size_t>(n));
    std::vector<std::byte> scratch;
    dequantize(row.type, file_.bytes_of(tensor.bytes(), &scratch), out.data(), n);
    for (const float value : out) {
      if (std::isfinite(value)) continue;
      throw FileError(file_.name(),
                      fmt::format("tensor {} holds a value that is not finite", tensor.name));
    }
    return out;
  }

  const GgufFile& file_;
};

void load_attention(const Tensors& tensors, const std::string& p, const ModelConfig& c,
                    LayerWeights* layer) {
  const int64_t d = c.d_model;
  layer->attn_norm = tensors.vector(p + "attn_norm.weight", d);
  layer->wq = tensors.matrix(p + "attn_q.weight", d, c.q_width());
  layer->wk = tensors.matrix(p + "attn_k.weight", d, c.k_width());
  layer->wv = tensors.matrix(p + "attn_v.weight", d, c.v_width());
  layer->wo = tensors.matrix(p + "attn_output.weight", c.n_heads * c.v_head_dim, d);
  layer->bq = tensors.vector_or_none(p + "attn_q.bias", c.q_width());
  layer->bk = tensors.vector_or_none(p + "attn_k.bias", c.k_width());
  layer->bv = tensors.vector_or_none(p + "attn_v.bias", c.v_width());
  layer->bo = tensors.vector_or_none(p + "attn_output.bias", d);
  if (c.qk_norm == QkNorm::kNone) return;
  const bool per_head = c.qk_norm == QkNorm::kPerHead;
  layer->q_norm = tensors.vector(p + "attn_q_norm.weight", per_head ? c.head_dim : c.q_width());
  layer->k_norm = tensors.vector(p + "attn_k_norm.weight", per_head ? c.head_dim : c.k_width());
}

void load_experts(const Tensors& tensors, const std::string& p, const ModelConfig& c,
                  LayerWeights* layer) {
  const int64_t d = c.d_model;
  const int64_t n = c.routing.n_experts;
  layer->ffn_norm = tensors.vector(p + "ffn_norm.weight", d);
  if (c.decoupled_router.empty()) {
    layer->router = tensors.matrix(p + "ffn_gate_inp.weight", d, n);
  }
  const auto gate = tensors.experts(p, "gate", d, c.expert_ff, n);
  const auto up = tensors.experts(p, "up", d, c.expert_ff, n);
  const auto down = tensors.experts(p, "down", c.expert_ff, d, n);
  for (size_t e = 0; e < gate.size(); ++e) layer->experts.push_back({gate[e], up[e], down[e]});
  if (c.shared_ff == 0) return;
  SharedExpert shared;
  shared.ffn.gate = tensors.matrix(p + "ffn_gate_shexp.weight", d, c.shared_ff);
  shared.ffn.up = tensors.matrix(p + "ffn_up_shexp.weight", d, c.shared_ff);
  shared.ffn.down = tensors.matrix(p + "ffn_down_shexp.weight", c.shared_ff, d);
  shared.gate_in = tensors.matrix_or_none(p + "ffn_gate_inp_shexp.weight", d, 1);
  layer->shared = shared;
}

// What RoPE's frequencies are divided by.
void check_rope_factors(const GgufFile& file, const Vector& factors) {
  for (const float factor : factors) {
    if (factor > 0 && std::isfinite(1.0F / factor)) continue;
    throw FileError(file.name(), fmt::format("tensor rope_freqs.weight holds {}; expected positive "
                                             "numbers with a finite inverse",
                                             factor));
  }
}

}  // namespace

Model Model::load(GgufFile file) {
  Model model;
  model.file_ = std::make_unique<GgufFile>(std::move(file));
  model.config_ = read_model_config(*model.file_);
  ModelConfig& c = model.config_;
  ModelWeights& w = model.weights_;
  const Tensors tensors(*model.file_);
  w.embedding = tensors.matrix("token_embd.weight", c.d_model, c.n_vocab);
  w.output_norm = tensors.vector("output_norm.weight", c.d_model);
  w.output = tensors.matrix_or_none("output.weight", c.d_model, c.n_vocab);
  if (!w.output) w.output = w.embedding;
  w.rope_factors = tensors.vector_or_none("rope_freqs.weight", c.rope.n_rot / 2);
  check_rope_factors(*model.file_, w.rope_factors);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    LayerWeights layer;
    load_attention(tensors, fmt::format("blk.{}.", i), c, &layer);
    load_experts(tensors, fmt::format("blk.{}.", i), c, &layer);
    w.layers.push_back(std::move(layer));
  }
  if (!w.rope_factors.empty()) c.rope.freq_factors = w.rope_factors.data();
  return model;
}

int64_t Model::packable_bytes(PackScope scope) const { return packed_bytes_of(weights_, scope); }

void Model::pack(PackScope scope, ParallelFor parallel,
                 const std::function<void(int64_t)>& progress, const MemoryNodes& nodes) {
  TANDEM_CHECK(!packed(), "a model is packed once");
  packed_ = pack_weights(&weights_, *file_, scope, parallel, progress, nodes);
}

void Model::lay_out_packed(PackScope scope) {
  TANDEM_CHECK(!packed(), "a model is packed once");
  const int64_t bytes = packable_bytes(scope);
  tandem::lay_out_packed(&weights_, scope);
  laid_out_bytes_ = bytes;
}

void Model::bring_in_unpacked(ParallelFor parallel, const std::function<void(int64_t)>& progress) {
  bring_in(unpacked_ranges(weights_, PackScope::kAll), file_.get(), parallel, progress);
  brought_in_ = true;
}

int64_t Model::unpacked_bytes(PackScope scope) const {
  return total_bytes(unpacked_ranges(weights_, scope));
}

const MemoryLock& Model::lock(PackScope scope) {
  std::vector<ByteRange> ranges = unpacked_ranges(weights_, scope);
  if (packed()) ranges.push_back({packed_.data(), static_cast<size_t>(packed_.size())});
  memory_lock_ = lock_memory(ranges);
  return memory_lock_;
}

void Model::check_finite(int64_t layer) const {
  const std::string prefix = layer < 0 ? "" : fmt::format("blk.{}.", layer);
  std::vector<std::byte> scratch;
  for (const GgufTensor& tensor : file_->tensors()) {
    const DTypeInfo* info = dtype_info(tensor.type_id);
    if (tensor.name.substr(0, prefix.size()) != prefix || info == nullptr) continue;
    const auto block = static_cast<size_t>(info->block_bytes);
    for (const ByteRange piece : cut({tensor.bytes()}, kCheckBytes / block * block)) {
      const auto n = static_cast<int64_t>(piece.size() / block) * info->block_elems;
      if (all_finite(static_cast<DType>(tensor.type_id), file_->bytes_of(piece, &scratch), n)) {
        continue;
      }
      throw FileError(file_->name(),
                      fmt::format("tensor {} holds a {} that is not finite", quoted(tensor.name),
                                  info->block_elems > 1 ? "scale" : "value"));
    }
  }
}

}  // namespace tandem
