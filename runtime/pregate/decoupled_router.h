// A decoupled router: one small causal transformer on token ids, apart from the model, that says
// which experts all layers use for each known token, before layer 0. Read-ME (arXiv 2410.19123,
// section 3; its published code) is the source of the architecture:
//
//   x = embed[token]
//   blocks: n = rms_norm(x) * attn_norm; q, k, v = wq n + bq, wk n + bk, wv n + bv; rope on q and
//   k;
//           a = sum over i - window < j <= i of softmax_j(attention_scale q_i . k_j) v_j, for each
//           head x += wo a x += w2 silu(w1 (rms_norm(x) * ffn_norm) + b1) + b2
//   logits = out (rms_norm(x) * out_norm)
//
// The logits are the same for every layer; a token uses the top_k largest. Here the router decides,
// it does not guess: the model was refactored so that its experts follow it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
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
  // Tokens that attention looks at, the last of them included; 0: all, as in Read-ME. What was not
  // seen in training, neither so many tokens nor such distances, is not understood later.
  int32_t window = 0;

  bool operator==(const DecoupledShape&) const = default;
};

inline constexpr float kDecoupledNormEpsilon = 1e-5F;  // added to the mean square

// Empty, or what is wrong: "width: expected …, got …". Files and training know no other limits.
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

std::string decoupled_tensor_name(size_t block, const char* part);

// f(name in files, shape, values) for each tensor, in the order in which they are hashed. There are
// already as many blocks as the shape says; values may still be missing.
template <typename Router, typename F>  // DecoupledRouter, const or not
void for_each_decoupled_tensor(Router& router, F f) {
  using Sides = std::vector<int64_t>;
  const int64_t w = router.shape.width;
  const int64_t ff = router.shape.ff;
  f(std::string("router.embed"), Sides{router.shape.n_vocab, w}, router.embed);
  for (size_t b = 0; b < router.blocks.size(); ++b) {
    auto& block = router.blocks[b];
    const auto one = [&](const char* part, Sides sides, auto& values) {
      f(decoupled_tensor_name(b, part), std::move(sides), values);
    };
    one("attn_norm", {w}, block.attn_norm);
    one("wq", {w, w}, block.wq);
    one("bq", {w}, block.bq);
    one("wk", {w, w}, block.wk);
    one("bk", {w}, block.bk);
    one("wv", {w, w}, block.wv);
    one("bv", {w}, block.bv);
    one("wo", {w, w}, block.wo);
    one("ffn_norm", {w}, block.ffn_norm);
    one("w1", {ff, w}, block.w1);
    one("b1", {ff}, block.b1);
    one("w2", {w, ff}, block.w2);
    one("b2", {w}, block.b2);
  }
  f(std::string("router.norm"), Sides{w}, router.out_norm);
  f(std::string("router.out"), Sides{router.shape.n_experts, w}, router.out);
}

// SHA-256, in hexadecimal, of the shape and of every tensor's bytes: a model that was refactored
// for one router names it, and refuses another.
std::string decoupled_hash(const DecoupledRouter& router);

// The router at work on one sequence: keys and values of the tokens so far. Used by one thread at
// a time. Nothing is allocated after construction, and the logits of a token are the same to the
// bit however the text is cut into calls, on any number of threads.
class DecoupledState {
 public:
  // The router outlives this; checked: its tensors have the sizes of its shape. n_ctx: tokens that
  // it can hold; max_tokens: of one call.
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
  void fill_rotations(int64_t n);
  void run_block(size_t block, int64_t n, ParallelFor parallel);
  void attend(size_t block, int64_t n, ParallelFor parallel);

  const DecoupledRouter& router_;
  int64_t n_ctx_;
  int64_t max_tokens_;
  int64_t n_tokens_ = 0;
  std::vector<double> frequencies_;  // [head / 2] radians a position
  std::vector<float> cos_, sin_;     // [max_tokens, head / 2] of this call's positions
  std::vector<float> keys_;          // [blocks, n_ctx, w], rotated
  std::vector<float> values_;        // [blocks, n_ctx, w]
  std::vector<float> scores_;        // [tasks of attend(), n_ctx]
  std::vector<float> x_;             // [max_tokens, w] the residual
  std::vector<float> normed_, queries_, attended_, added_;  // [max_tokens, w]
  std::vector<float> hidden_;                               // [max_tokens, ff]
  std::vector<float> logits_;                               // [max_tokens, E]
};

}  // namespace tandem
