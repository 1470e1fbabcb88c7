// A model ready to run: configuration and weights. Matrices are views into the file's image,
// or packed copies; vectors (norms, biases) are small and owned as f32. Immutable after loading;
// any thread may read.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/expert_ffn.h"
#include "kernels/parallel.h"
#include "kernels/tensor.h"
#include "runtime/model/gguf_file.h"
#include "runtime/model/host_memory.h"
#include "runtime/model/model_config.h"

namespace tandem {

using Vector = std::vector<float>;  // empty: the layer has none

struct SharedExpert {
  ExpertWeights ffn;   // width shared_ff
  WeightView gate_in;  // [1, d]: its sigmoid scales the output; empty: not scaled
};

struct LayerWeights {
  Vector attn_norm;  // [d]
  WeightView wq;     // [n_heads * head_dim, d]
  WeightView wk;     // [n_kv_heads * head_dim, d]
  WeightView wv;     // [n_kv_heads * v_head_dim, d]
  WeightView wo;     // [d, n_heads * v_head_dim]
  Vector bq, bk, bv, bo;
  Vector q_norm;      // [head_dim] or [n_heads * head_dim]
  Vector k_norm;      // [head_dim] or [n_kv_heads * head_dim]
  Vector ffn_norm;    // [d]
  WeightView router;  // [n_experts, d]; empty where ModelConfig::decoupled_router is not
  std::optional<SharedExpert> shared;
  std::vector<ExpertWeights> experts;  // [n_experts], all of the same shapes and types
};

struct ModelWeights {
  WeightView embedding;  // [n_vocab, d]
  Vector output_norm;    // [d]
  WeightView output;     // [n_vocab, d]; the embedding where the file ties them
  Vector rope_factors;   // [n_rot / 2]
  std::vector<LayerWeights> layers;
};

enum class PackScope : uint8_t {
  kAll,      // every matrix but the embedding, whose rows are looked up
  kExperts,  // routed experts only: a GPU has the others
};

class Model {
 public:
  // FileError for a missing tensor, a wrong shape or a type that no kernel reads; each names the
  // tensor. Reads no matrix yet.
  static Model load(GgufFile file);

  const GgufFile& file() const { return *file_; }
  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }

  // Moves matrices into memory in the layout that CPU kernels read (kernels/packed.h), a layer at a
  // time: the model is in memory once. Before an engine uses it.
  // MemoryError when there is no address space; nothing has changed then. FileError when the file
  // cannot be read; the model is then of no use. progress: bytes done. nodes: of a machine with
  // several, where the pages go.
  void pack(PackScope scope, ParallelFor parallel, const std::function<void(int64_t)>& progress,
            const MemoryNodes& nodes = {});
  int64_t packable_bytes(PackScope scope) const;
  // Only gives the matrices the layout that pack() would give them, and moves nothing: for
  // planning. The model is not usable() then.
  void lay_out_packed(PackScope scope);
  bool packed() const { return packed_.size() > 0 || laid_out_bytes_ > 0; }
  // What packed matrices take, or would take.
  int64_t packed_size() const { return packed_.size() + laid_out_bytes_; }
  // What packed weights lie in.
  std::span<const std::byte> packed_bytes() const {
    return {packed_.data(), static_cast<size_t>(packed_.size())};
  }

  // Brings the matrices that pack() did not move into memory, after it. Where the file is mapped,
  // that is only to save the first tokens from waiting for it; where it is read, an engine must not
  // be given the model before. FileError when the file cannot be read. progress: bytes done.
  void bring_in_unpacked(ParallelFor parallel, const std::function<void(int64_t)>& progress);
  // kExperts: of these, those that the CPU reads beside a GPU.
  int64_t unpacked_bytes(PackScope scope = PackScope::kAll) const;
  bool usable() const {
    return laid_out_bytes_ == 0 && (file_->access() == FileAccess::kMapped || brought_in_);
  }

  // Keeps the system from moving weights that the CPU reads out of memory, packed or not. What it
  // does not grant is no error: the result says how much it locked, and why not all.
  const MemoryLock& lock(PackScope scope);
  const MemoryLock& memory_lock() const { return memory_lock_; }

  // Reads every block's scales. FileError naming the first tensor with one that is not finite.
  // layer < 0: all tensors, otherwise those of one layer.
  void check_finite(int64_t layer = -1) const;

 private:
  Model() = default;

  std::unique_ptr<GgufFile> file_;
  ModelConfig config_;
  ModelWeights weights_;
  HostRegion packed_;  // what weights_ points into after pack()
  int64_t laid_out_bytes_ = 0;
  bool brought_in_ = false;
  MemoryLock memory_lock_;
};

}  // namespace tandem
