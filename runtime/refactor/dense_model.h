// A dense language model of a GGUF file: what `tandem refactor` makes experts of. Families: llama
// without experts and qwen3, weights in F32, F16 or BF16. Matrices are views into the file;
// vectors are owned. Immutable after loading; any thread may read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "runtime/model/gguf_file.h"
#include "runtime/model/model_config.h"

namespace tandem {

struct DenseLayer {
  std::vector<float> attn_norm;       // [d]
  WeightView wq;                      // [n_heads * head_dim, d]
  WeightView wk;                      // [n_kv_heads * head_dim, d]
  WeightView wv;                      // [n_kv_heads * v_head_dim, d]
  WeightView wo;                      // [d, n_heads * v_head_dim]
  std::vector<float> q_norm, k_norm;  // [head_dim], or empty
  std::vector<float> ffn_norm;        // [d]
  WeightView gate, up;                // [ff, d]
  WeightView down;                    // [d, ff]
};

class DenseModel {
 public:
  // FileError for another architecture, experts, a missing tensor, one that is none of the family's
  // (a bias, say), another shape or type; each is named.
  static DenseModel load(GgufFile file);

  // Reads every tensor. FileError naming the first one with a number that is not finite.
  void check_finite() const;

  const GgufFile& file() const { return *file_; }
  const ModelConfig& config() const { return config_; }                   // no routing, no experts
  int64_t ff() const { return ff_; }                                      // inner width
  const WeightView& embedding() const { return embedding_; }              // [n_vocab, d]
  const WeightView& output() const { return output_; }                    // [n_vocab, d]
  const std::vector<float>& output_norm() const { return output_norm_; }  // [d]
  const std::vector<DenseLayer>& layers() const { return layers_; }

 private:
  DenseModel() = default;

  std::unique_ptr<GgufFile> file_;
  ModelConfig config_;
  int64_t ff_ = 0;
  WeightView embedding_;
  WeightView output_;
  std::vector<float> output_norm_;
  std::vector<float> rope_factors_;  // [n_rot / 2], or empty; config_.rope points to them
  std::vector<DenseLayer> layers_;
};

}  // namespace tandem
