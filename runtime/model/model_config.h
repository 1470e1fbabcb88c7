// What a GGUF file's metadata says about the architecture, as plain numbers.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/elementwise.h"
#include "scheduler/routing.h"

namespace tandem {

class GgufFile;
struct Family;

// Of the residual, of a routed and of a shared expert.
inline constexpr uint64_t kMaxWidth = 1U << 20;

// Where queries and keys are normalised before RoPE.
enum class QkNorm { kNone, kPerHead, kWholeRow };

struct ModelConfig {
  std::string arch;  // general.architecture
  std::string name;  // general.name, or the file's name
  int64_t n_layers = 0;
  int64_t n_vocab = 0;
  int64_t n_ctx_train = 0;
  int64_t d_model = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;    // of queries and keys
  int64_t v_head_dim = 0;  // of values
  int64_t expert_ff = 0;   // inner width of a routed expert
  int64_t shared_ff = 0;   // inner width of the shared expert; 0: there is none
  float rms_eps = 0;
  // Queries and keys (normalised, not yet turned) and values are limited to ±this; 0: they are not.
  float clamp_qkv = 0;
  QkNorm qk_norm = QkNorm::kNone;
  RopeParams rope;  // freq_factors is set by the loader, which owns the tensor
  RoutingRules routing;
  // SHA-256 of the router that chooses every layer's experts from token ids, before the first layer
  // (decoupled_hash(), runtime/pregate); the layers have none. Empty: each layer has its own.
  std::string decoupled_router;

  int64_t q_width() const { return n_heads * head_dim; }
  int64_t k_width() const { return n_kv_heads * head_dim; }
  int64_t v_width() const { return n_kv_heads * v_head_dim; }
};

// FileError when a key is missing, out of range or contradicts another one or the experts' tensors;
// when the architecture is unknown, the message lists the known ones. The vocabulary is as long as
// the embedding: vocab_size is not read, since a vocabulary that was padded or extended after
// training may have left an older number there.
ModelConfig read_model_config(const GgufFile& file);

// All of it but experts and routing, by the keys of config->arch: what dense models have, too.
// Errors as above.
void read_attention_config(const GgufFile& file, const Family& family, ModelConfig* config);

}  // namespace tandem
