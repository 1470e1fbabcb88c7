#include "bench/gpu/fewest_bytes.h"

#include "kernels/kv_cache.h"

namespace tandem {

int64_t fewest_bytes(const Model& model, const EngineSettings& settings, int64_t tokens) {
  const ModelConfig& c = model.config();
  const ModelWeights& w = model.weights();
  int64_t bytes = w.output.bytes();
  for (const LayerWeights& layer : w.layers) {
    for (const WeightView& m : {layer.wq, layer.wk, layer.wv, layer.wo, layer.router}) {
      bytes += m.bytes();
    }
    bytes += c.routing.top_k * layer.experts.front().bytes();
    if (layer.shared) bytes += layer.shared->ffn.bytes() + layer.shared->gate_in.bytes();
  }
  const KvShape kv{settings.kv_type_k, settings.kv_type_v, c.n_kv_heads, c.head_dim, c.v_head_dim};
  const int64_t position = (kv.k_tile_bytes() + kv.v_tile_bytes()) * c.n_kv_heads / kKvTile;
  // Read are 1 to `tokens` positions, written one.
  return bytes + c.n_layers * position * ((tokens + 1) / 2 + 1);
}

}  // namespace tandem
