#include "tests/engine/float64_layer.h"

#include <cmath>
#include <numeric>

#include "kernels/quant.h"

namespace tandem::test {
namespace {

Row dequantised(const WeightView& w, int64_t row) {
  std::vector<float> values(static_cast<size_t>(w.cols));
  dequantize(w.type, w.data + row * w.row_bytes(), values.data(), w.cols);
  return {values.begin(), values.end()};
}

// Per-head norms, then RoPE in halves without scaling: qwen3moe.
void turn_heads(const ModelConfig& c, const Vector& gain, size_t position, Row* x) {
  const auto dim = static_cast<size_t>(c.head_dim);
  for (size_t head = 0; head < x->size(); head += dim) {
    normalise(gain, c.rms_eps, head, x);
    for (size_t i = 0; i < dim / 2; ++i) {
      const double angle =
          static_cast<double>(position) *
          std::pow(c.rope.freq_base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      double& a = (*x)[head + i];
      double& b = (*x)[head + i + dim / 2];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = b * std::cos(angle) + a * std::sin(angle);
      a = turned;
    }
  }
}

}  // namespace

Row times(const WeightView& w, const Row& x) {
  Row y;
  for (int64_t r = 0; r < w.rows; ++r) {
    const Row row = dequantised(w, r);
    y.push_back(std::inner_product(row.begin(), row.end(), x.begin(), 0.0));
  }
  return y;
}

void normalise(const Vector& gain, double epsilon, size_t first, Row* x) {
  double squares = 0;
  for (size_t i = 0; i < gain.size(); ++i) squares += (*x)[first + i] * (*x)[first + i];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(gain.size()) + epsilon);
  for (size_t i = 0; i < gain.size(); ++i) (*x)[first + i] *= scale * gain[i];
}

Rows first_residual(const Model& model, const std::vector<int32_t>& tokens) {
  const ModelConfig& c = model.config();
  const LayerWeights& layer = model.weights().layers[0];
  const auto dim = static_cast<size_t>(c.head_dim);
  const auto group = static_cast<size_t>(c.n_heads / c.n_kv_heads);
  Rows residual, keys, values;
  for (size_t t = 0; t < tokens.size(); ++t) {
    Row x = dequantised(model.weights().embedding, tokens[t]);
    residual.push_back(x);
    normalise(layer.attn_norm, c.rms_eps, 0, &x);
    Row query = times(layer.wq, x);
    keys.push_back(times(layer.wk, x));
    values.push_back(times(layer.wv, x));
    turn_heads(c, layer.q_norm, t, &query);
    turn_heads(c, layer.k_norm, t, &keys.back());
    Row mixed(query.size(), 0.0);
    for (size_t head = 0; head < static_cast<size_t>(c.n_heads); ++head) {
      const size_t kv = head / group * dim;
      Row scores;
      for (const Row& key : keys) {
        scores.push_back(
            std::exp(std::inner_product(query.begin() + head * dim,
                                        query.begin() + (head + 1) * dim, key.begin() + kv, 0.0) /
                     std::sqrt(static_cast<double>(dim))));
      }
      const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
      for (size_t s = 0; s <= t; ++s) {
        for (size_t i = 0; i < dim; ++i) {
          mixed[head * dim + i] += scores[s] / sum * values[s][kv + i];
        }
      }
    }
    const Row out = times(layer.wo, mixed);
    for (size_t i = 0; i < out.size(); ++i) residual[t][i] += out[i];
  }
  return residual;
}

}  // namespace tandem::test
