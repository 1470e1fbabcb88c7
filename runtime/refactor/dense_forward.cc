#include "runtime/refactor/dense_forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"

namespace tandem {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// In place. scores: [n].
void softmax(float* scores, int64_t n) {
  const float top = *std::max_element(scores, scores + n);
  float sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    scores[j] = std::exp(scores[j] - top);
    sum += scores[j];
  }
  for (int64_t j = 0; j < n; ++j) scores[j] /= sum;
}

std::vector<float> floats(int64_t rows, int64_t cols) {
  return std::vector<float>(static_cast<size_t>(rows * cols));
}

}  // namespace

void FloatProduct::operator()(const WeightView& w, const float* x, int64_t n, float* y,
                              ParallelFor parallel) {
  WeightView floats = w;
  if (w.type == DType::kBF16) {
    widened_.resize(static_cast<size_t>(w.rows * w.cols));
    parallel(w.rows, [&](int64_t r) {
      dequantize(w.type, w.data + r * w.run_stride(), widened_.data() + r * w.cols, w.cols);
    });
    floats = {DType::kF32, w.rows, w.cols, reinterpret_cast<const std::byte*>(widened_.data())};
  }
  const MatmulPart part{floats, nullptr, y};
  matmul({&part, 1}, x, n, scratch_, parallel);
}

void ffn_hidden(const WeightView& gate, const WeightView& up, const float* x, int64_t n,
                FloatProduct* product, float* hidden, ParallelFor parallel) {
  std::vector<float> ups = floats(n, up.rows);
  (*product)(gate, x, n, hidden, parallel);
  (*product)(up, x, n, ups.data(), parallel);
  parallel(n, [&](int64_t t) {
    for (int64_t i = t * gate.rows; i < (t + 1) * gate.rows; ++i) {
      const float g = hidden[i];
      hidden[i] = g / (1.0F + std::exp(-g)) * ups[static_cast<size_t>(i)];
    }
  });
}

WeightView gather_columns(const WeightView& w, std::span<const int32_t> channels,
                          std::vector<std::byte>* to) {
  const auto width = static_cast<size_t>(dtype_info(w.type).block_bytes);  // of one weight
  WeightView gathered{w.type, w.rows, static_cast<int64_t>(channels.size())};
  to->resize(static_cast<size_t>(gathered.bytes()));
  std::byte* out = to->data();
  for (int64_t r = 0; r < w.rows; ++r) {
    const std::byte* row = w.data + r * w.run_stride();
    for (const int32_t channel : channels) {
      std::memcpy(out, row + static_cast<size_t>(channel) * width, width);
      out += width;
    }
  }
  gathered.data = to->data();
  return gathered;
}

DenseForward::DenseForward(const DenseModel& model, int64_t max_tokens)
    : model_(model), max_tokens_(max_tokens) {
  const ModelConfig& c = model.config();
  x_ = floats(max_tokens, c.d_model);
  normed_ = x_;
  added_ = x_;
  q_ = floats(max_tokens, c.q_width());
  k_ = floats(max_tokens, c.k_width());
  v_ = floats(max_tokens, c.v_width());
  mixed_ = floats(max_tokens, c.n_heads * c.v_head_dim);
  rope_ = floats(max_tokens, c.rope.n_rot);
  hidden_ = floats(max_tokens, model.ff());
  scores_ = floats(c.n_heads, max_tokens);
  rope_table(c.rope, 0, max_tokens, rope_.data());
}

int64_t DenseForward::bytes(const DenseModel& model, int64_t max_tokens) {
  const ModelConfig& c = model.config();
  const int64_t widths = 3 * c.d_model + c.q_width() + c.k_width() + c.v_width() +
                         c.n_heads * (c.v_head_dim + 1) + c.rope.n_rot + 2 * model.ff();
  return max_tokens * widths * static_cast<int64_t>(sizeof(float));
}

void DenseForward::normalise_heads(const std::vector<float>& gain, int64_t n, int64_t n_heads,
                                   float* x) {
  if (gain.empty()) return;
  const int64_t d = model_.config().head_dim;
  rms_norm(x, d, gain.data(), model_.config().rms_eps, n * n_heads, d, x, d);
}

// normed_ -> added_
void DenseForward::attention(const DenseLayer& layer, int64_t n, ParallelFor parallel) {
  const ModelConfig& c = model_.config();
  product_(layer.wq, normed_.data(), n, q_.data(), parallel);
  product_(layer.wk, normed_.data(), n, k_.data(), parallel);
  product_(layer.wv, normed_.data(), n, v_.data(), parallel);
  normalise_heads(layer.q_norm, n, c.n_heads, q_.data());
  normalise_heads(layer.k_norm, n, c.n_kv_heads, k_.data());
  rope_apply(c.rope.style, rope_.data(), c.rope.n_rot, n, c.n_heads, c.head_dim, q_.data(),
             c.q_width());
  rope_apply(c.rope.style, rope_.data(), c.rope.n_rot, n, c.n_kv_heads, c.head_dim, k_.data(),
             c.k_width());
  const float scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
  parallel(c.n_heads, [&](int64_t h) {
    const int64_t kv = h / (c.n_heads / c.n_kv_heads);
    float* scores = scores_.data() + h * max_tokens_;
    for (int64_t t = 0; t < n; ++t) {
      const float* q = q_.data() + t * c.q_width() + h * c.head_dim;
      for (int64_t j = 0; j <= t; ++j) {
        const float* k = k_.data() + j * c.k_width() + kv * c.head_dim;
        scores[j] = scale * dot(q, k, c.head_dim);
      }
      softmax(scores, t + 1);
      float* out = mixed_.data() + (t * c.n_heads + h) * c.v_head_dim;
      std::fill_n(out, c.v_head_dim, 0.0F);
      for (int64_t j = 0; j <= t; ++j) {
        const float* v = v_.data() + j * c.v_width() + kv * c.v_head_dim;
        for (int64_t i = 0; i < c.v_head_dim; ++i) out[i] += scores[j] * v[i];
      }
    }
  });
  product_(layer.wo, mixed_.data(), n, added_.data(), parallel);
}

const float* DenseForward::run(std::span<const int32_t> tokens, Ffn ffn,
                               const std::function<bool()>& interrupted, ParallelFor parallel) {
  const auto n = static_cast<int64_t>(tokens.size());
  TANDEM_CHECK(n >= 1 && n <= max_tokens_, "%lld tokens", static_cast<long long>(n));
  const ModelConfig& c = model_.config();
  const int64_t d = c.d_model;
  const auto norm = [&](const std::vector<float>& gain) {
    rms_norm(x_.data(), d, gain.data(), c.rms_eps, n, d, normed_.data(), d);
  };
  embed(model_.embedding(), tokens, x_.data());
  for (int64_t i = 0; i < c.n_layers; ++i) {
    if (interrupted && interrupted()) return nullptr;
    const DenseLayer& layer = model_.layers()[static_cast<size_t>(i)];
    norm(layer.attn_norm);
    attention(layer, n, parallel);
    add(added_.data(), n * d, x_.data());
    norm(layer.ffn_norm);
    ffn(i, normed_.data(), n, added_.data());
    add(added_.data(), n * d, x_.data());
  }
  norm(model_.output_norm());
  return normed_.data();
}

const float* DenseForward::run_dense(std::span<const int32_t> tokens, OnHidden on_hidden,
                                     const std::function<bool()>& interrupted,
                                     ParallelFor parallel) {
  return run(
      tokens,
      [&](int64_t layer, const float* x, int64_t n, float* out) {
        const DenseLayer& w = model_.layers()[static_cast<size_t>(layer)];
        ffn_hidden(w.gate, w.up, x, n, &product_, hidden_.data(), parallel);
        on_hidden(layer, hidden_.data(), n);
        product_(w.down, hidden_.data(), n, out, parallel);
      },
      interrupted, parallel);
}

void DenseForward::logits(const float* rows, int64_t n, float* to, ParallelFor parallel) {
  product_(model_.output(), rows, n, to, parallel);
}

}  // namespace tandem
