// A decoupled router: one small causal transformer on token ids, apart from the model, that says
// which experts all layers use for each known token, before layer 0. Read-ME (arXiv 2410.19123,
// section 3; its published code) is the source of the architecture:
//
//   x = embed[token]
//   blocks: n = rms_norm(x) * attn_norm; q, k, v = wq n + bq, wk n + bk, wv n + bv; rope on q and
//   k;
//           a = sum over j <= i of softmax_j(attention_scale q_i . k_j) v_j, for each head
//           x += wo a
//           x += w2 silu(w1 (rms_norm(x) * ffn_norm) + b1) + b2
//   logits = out (rms_norm(x) * out_norm)
//
// The logits are the same for every layer; a token uses the top_k largest. Here the router decides,
// it does not guess: the model was refactored so that its experts follow it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/parallel.h"

namespace tandem {

struct DecoupledShape {
  int32_t n_vocab = 0;
  int32_t width = 0;
  int32_t n_heads = 1;  // of width / n_heads values, an even number
  int32_t n_blocks = 1;
  int32_t ff = 0;  // width of the layer between w1 and w2
  int32_t n_experts = 0;
  int32_t top_k = 1;
  int32_t n_layers = 0;  // of the model
  float rope_base = 10000;
  float attention_scale = 1;  // of scores; Read-ME's code has 1

  bool operator==(const DecoupledShape&) const = default;
};

inline constexpr float kDecoupledNormEpsilon = 1e-5F;  // added to the mean square

// Empty, or what is wrong with it: "width: expected …, got …". Every product of two numbers of a
// shape without fault fits into 32 bits.
std::string decoupled_shape_fault(const DecoupledShape& shape);

// Immutable once built; any thread may read. Matrices are row-major, a row an output.
struct DecoupledRouter {
  struct Block {
    std::vector<float> attn_norm;       // [w]
    std::vector<float> wq, wk, wv, wo;  // [w, w]
    std::vector<float> bq, bk, bv;      // [w]
    std::vector<float> ffn_norm;        // [w]
    std::vector<float> w1, b1;          // [ff, w], [ff]
    std::vector<float> w2, b2;          // [w, ff], [w]
  };

  DecoupledShape shape;
  std::vector<float> embed;  // [V, w]
  std::vector<Block> blocks;
  std::vector<float> out_norm;  // [w]
  std::vector<float> out;       // [E, w]

  std::string model;              // a name for people
  int64_t training_tokens = 0;    // that it was trained on, each time counted
  float validation_accuracy = 0;  // share of held-back tokens whose best expert it says
};

// One tensor of it by the name that files use.
struct DecoupledTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float>* values;
};
// All of them, in the order in which they are hashed. `router->blocks` is resized to the shape's,
// values are left alone: those of a router that is being built may still be empty.
std::vector<DecoupledTensor> decoupled_tensors(DecoupledRouter* router);

// SHA-256, in hexadecimal, of the shape and of every tensor's bytes: a model that was refactored
// for one router names it, and refuses another.
std::string decoupled_hash(const DecoupledRouter& router);

// The router at work on one sequence: keys and values of the tokens so far. Used by one thread at
// a time. Nothing is allocated after construction, and the logits of a token are the same to the
// bit however the text is cut into calls, on any number of threads.
class DecoupledState {
 public:
  // The router outlives this. n_ctx: tokens that it can hold; max_tokens: of one call.
  DecoupledState(const DecoupledRouter& router, int64_t n_ctx, int64_t max_tokens);

  // What the next tokens of the text need: [tokens.size(), n_experts] logits, f32, valid until the
  // next call. They may be other than finite where weights are huge. Checked: every token is in the
  // vocabulary, at most max_tokens of them, at most n_ctx in all.
  std::span<const float> append(std::span<const int32_t> tokens, ParallelFor parallel = serial_for);

  // Keeps the first n tokens; 0 <= n <= n_tokens().
  void rewind(int64_t n);
  int64_t n_tokens() const { return n_tokens_; }

  // Memory that one takes.
  static int64_t bytes(const DecoupledShape& shape, int64_t n_ctx, int64_t max_tokens);

 private:
  void attend(size_t block, int64_t n, ParallelFor parallel);
  void rotate(float* row, int64_t position) const;

  const DecoupledRouter& router_;
  int64_t n_ctx_;
  int64_t max_tokens_;
  int64_t n_tokens_ = 0;
  std::vector<float> frequencies_;                      // [w / n_heads / 2] radians a position
  std::vector<float> keys_;                             // [blocks, n_ctx, w], rotated
  std::vector<float> values_;                           // [blocks, n_ctx, w]
  std::vector<float> scores_;                           // [max_tokens, n_heads, n_ctx]
  std::vector<float> x_, normed_, queries_, attended_;  // [max_tokens, w]
  std::vector<float> hidden_;                           // [max_tokens, ff]
  std::vector<float> logits_;                           // [max_tokens, E]
};

}  // namespace tandem
