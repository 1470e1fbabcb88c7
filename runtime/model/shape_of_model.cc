#include "runtime/model/shape_of_model.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr int64_t kMostPieces = 64;

void add(const WeightView& w, ModelShape::Part* part) {
  if (!w) return;
  part->bytes += w.bytes();
  part->params += w.rows * w.cols;
}

void add(const Vector& v, ModelShape::Part* part) {
  part->bytes += static_cast<int64_t>(v.size() * sizeof(float));
  part->params += static_cast<int64_t>(v.size());
}

void add_attention(const LayerWeights& layer, ModelShape::Part* part) {
  for (const WeightView* w : {&layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.router}) {
    add(*w, part);
  }
  for (const Vector* v : {&layer.attn_norm, &layer.bq, &layer.bk, &layer.bv, &layer.bo,
                          &layer.q_norm, &layer.k_norm, &layer.ffn_norm}) {
    add(*v, part);
  }
}

void add_shared(const SharedExpert& shared, ModelShape::Part* part) {
  for (const WeightView* w :
       {&shared.ffn.gate, &shared.ffn.up, &shared.ffn.down, &shared.gate_in}) {
    add(*w, part);
  }
}

}  // namespace

ExpertCuts::ExpertCuts(const Model& model) : ff_(model.config().expert_ff) {
  for (const LayerWeights& layer : model.weights().layers) {
    const DTypeInfo& type = dtype_info(layer.experts.front().down.type);
    block_ = std::max<int64_t>(block_, type.block_elems);
  }
  blocks_ = (ff_ + block_ - 1) / block_;
  pieces_ = static_cast<int32_t>(std::min(blocks_, kMostPieces));
}

ModelShape shape_of(const Model& model) {
  const ModelConfig& c = model.config();
  ModelShape shape;
  shape.name = c.name;
  shape.n_layers = static_cast<int32_t>(c.n_layers);
  shape.n_experts = c.routing.n_experts;
  shape.top_k = c.routing.top_k;
  shape.expert_params = 3 * c.d_model * c.expert_ff;
  for (const LayerWeights& layer : model.weights().layers) {
    shape.expert_bytes.push_back(layer.experts.front().bytes());
    add_attention(layer, &shape.attention);
    if (layer.shared) add_shared(*layer.shared, &shape.shared_expert);
  }
  shape.split_pieces = ExpertCuts(model).pieces();
  for (ModelShape::Part* part : {&shape.attention, &shape.shared_expert}) {
    part->bytes /= c.n_layers;
    part->params /= c.n_layers;
  }
  shape.kv_bytes_per_token = 2 * (c.k_width() + c.v_width());
  shape.attention_width = c.n_heads * c.head_dim;
  add(model.weights().output, &shape.other);
  add(model.weights().output_norm, &shape.other);
  return shape;
}

}  // namespace tandem
