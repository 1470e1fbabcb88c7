// The forward pass of a dense model in f32, for windows of a text: what its channels do, and how
// well it predicts with some of them. Each window begins at position 0; there is no KV cache.
//
// A product's order of additions depends on its number of columns alone (kernels/dense.h). So a
// feed-forward part of some channels has the same bits whether these are picked from the dense
// matrices or stand in matrices of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/function_ref.h"
#include "kernels/parallel.h"
#include "kernels/workspace.h"
#include "runtime/refactor/dense_model.h"

namespace tandem {

// y[t, r] = W[r] . x[t], in f32 whatever the type of w. x: [n, cols], y: [n, rows].
class FloatProduct {
 public:
  void operator()(const WeightView& w, const float* x, int64_t n, float* y, ParallelFor parallel);

 private:
  Workspace scratch_;
  std::vector<float> widened_;  // a bf16 matrix: kernels would round activations for it
};

// hidden[t, c] = silu(gate[c] . x[t]) * (up[c] . x[t]), for all rows of gate and up.
// x: [n, d]; hidden: [n, gate.rows].
void ffn_hidden(const WeightView& gate, const WeightView& up, const float* x, int64_t n,
                FloatProduct* product, float* hidden, ParallelFor parallel);

// Columns `channels` of w, in their order, as a matrix of the same type in *to.
WeightView gather_columns(const WeightView& w, std::span<const int32_t> channels,
                          std::vector<std::byte>* to);

class DenseForward {
 public:
  // out[t] = the feed-forward network of a layer, less the residual. x: [n, d], normalised.
  using Ffn = FunctionRef<void(int64_t layer, const float* x, int64_t n, float* out)>;
  // What down_proj gets, of a layer. hidden: [n, ff].
  using OnHidden = FunctionRef<void(int64_t layer, const float* hidden, int64_t n)>;

  // The model outlives this. max_tokens: of a window.
  DenseForward(const DenseModel& model, int64_t max_tokens);

  // The final norm's output, [n, d], valid until the next call; nullptr when interrupted() said so
  // between two layers. Checked: 1 to max_tokens tokens, all in the vocabulary.
  const float* run(std::span<const int32_t> tokens, Ffn ffn,
                   const std::function<bool()>& interrupted, ParallelFor parallel);
  // The model's own network, whose hidden values are shown.
  const float* run_dense(std::span<const int32_t> tokens, OnHidden on_hidden,
                         const std::function<bool()>& interrupted, ParallelFor parallel);

  // Logits of rows of what run() gave. to: [n, n_vocab].
  void logits(const float* rows, int64_t n, float* to, ParallelFor parallel);

  FloatProduct* product() { return &product_; }
  int64_t width() const { return model_.config().d_model; }
  // Memory that one takes.
  static int64_t bytes(const DenseModel& model, int64_t max_tokens);

 private:
  void attention(const DenseLayer& layer, int64_t n, ParallelFor parallel);
  void normalise_heads(const std::vector<float>& gain, int64_t n, int64_t n_heads, float* x);

  const DenseModel& model_;
  int64_t max_tokens_;
  FloatProduct product_;
  std::vector<float> x_, normed_, added_;  // [max_tokens, d]
  std::vector<float> q_, k_, v_, mixed_;   // [max_tokens, their width]
  std::vector<float> rope_;                // [max_tokens, n_rot]
  std::vector<float> hidden_;              // [max_tokens, ff]
  std::vector<float> scores_;              // [n_heads, max_tokens]
};

}  // namespace tandem
