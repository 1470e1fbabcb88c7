// A decoupled router in float64, straight from its definition: every token looks at all of its text
// again. And routers that are made up.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "runtime/pregate/decoupled_router.h"

namespace tandem::test {

using Doubles = std::vector<double>;

// Weights of about the size that keeps values near 1; gains around 1.
inline DecoupledRouter made_up_router(const DecoupledShape& shape, uint32_t seed) {
  DecoupledRouter router;
  router.shape = shape;
  router.blocks.resize(static_cast<size_t>(shape.n_blocks));
  std::mt19937 random(seed);
  for_each_decoupled_tensor(
      router, [&](const std::string& name, const std::vector<int64_t>& sides, auto& values) {
        const bool is_gain = name.find("norm") != std::string::npos;
        const bool is_matrix = sides.size() == 2 && name != "router.embed";
        const double size = is_matrix ? 1 / std::sqrt(static_cast<double>(sides[1])) : 0.5;
        std::normal_distribution<double> normal(is_gain ? 1 : 0, size);
        int64_t n = 1;
        for (const int64_t side : sides) n *= side;
        for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<float>(normal(random)));
      });
  return router;
}

inline std::vector<int32_t> random_tokens(int64_t n, int32_t n_vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> any(0, n_vocab - 1);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(any(random));
  return tokens;
}

inline Doubles reference_product(const std::vector<float>& matrix, const std::vector<float>& bias,
                                 const Doubles& x) {
  Doubles out(matrix.size() / x.size(), 0.0);
  for (size_t r = 0; r < out.size(); ++r) {
    for (size_t c = 0; c < x.size(); ++c) {
      out[r] += static_cast<double>(matrix[r * x.size() + c]) * x[c];
    }
    if (!bias.empty()) out[r] += static_cast<double>(bias[r]);
  }
  return out;
}

inline Doubles reference_norm(const Doubles& x, const std::vector<float>& gain) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double rms = std::sqrt(squares / static_cast<double>(x.size()) +
                               static_cast<double>(kDecoupledNormEpsilon));
  Doubles out;
  for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] / rms * static_cast<double>(gain[i]));
  return out;
}

// Pairs (i, i + head / 2) as complex numbers, turned by position / base^(2 i / head).
inline void reference_rope(Doubles* x, const DecoupledShape& shape, size_t position) {
  const auto head = static_cast<size_t>(shape.width / shape.n_heads);
  for (size_t i = 0; i < x->size(); ++i) {
    const size_t k = i % head;
    if (k >= head / 2) continue;
    const double exponent = 2.0 * static_cast<double>(k) / static_cast<double>(head);
    const double angle =
        static_cast<double>(position) / std::pow(static_cast<double>(shape.rope_base), exponent);
    const double re = (*x)[i];
    const double im = (*x)[i + head / 2];
    (*x)[i] = re * std::cos(angle) - im * std::sin(angle);
    (*x)[i + head / 2] = re * std::sin(angle) + im * std::cos(angle);
  }
}

inline void reference_block(const DecoupledRouter::Block& block, const DecoupledShape& shape,
                            std::vector<Doubles>* text) {
  std::vector<Doubles> q, k, v;
  for (size_t t = 0; t < text->size(); ++t) {
    const Doubles normed = reference_norm((*text)[t], block.attn_norm);
    q.push_back(reference_product(block.wq, block.bq, normed));
    k.push_back(reference_product(block.wk, block.bk, normed));
    v.push_back(reference_product(block.wv, block.bv, normed));
    reference_rope(&q.back(), shape, t);
    reference_rope(&k.back(), shape, t);
  }
  const auto width = static_cast<size_t>(shape.width);
  const size_t head = width / static_cast<size_t>(shape.n_heads);
  for (size_t t = 0; t < text->size(); ++t) {
    Doubles mixed(width, 0.0);
    const auto window = static_cast<size_t>(shape.window);
    const size_t first_seen = window > 0 && t >= window ? t - window + 1 : 0;
    for (size_t first = 0; first < width; first += head) {
      Doubles weights;
      double total = 0;
      for (size_t j = first_seen; j <= t; ++j) {
        double score = 0;
        for (size_t i = first; i < first + head; ++i) score += q[t][i] * k[j][i];
        weights.push_back(std::exp(static_cast<double>(shape.attention_scale) * score));
        total += weights.back();
      }
      for (size_t j = first_seen; j <= t; ++j) {
        const double share = weights[j - first_seen] / total;
        for (size_t i = first; i < first + head; ++i) mixed[i] += share * v[j][i];
      }
    }
    Doubles& x = (*text)[t];
    const Doubles attended = reference_product(block.wo, {}, mixed);
    for (size_t i = 0; i < width; ++i) x[i] += attended[i];
    Doubles hidden = reference_product(block.w1, block.b1, reference_norm(x, block.ffn_norm));
    for (double& h : hidden) h /= 1 + std::exp(-h);
    const Doubles fed = reference_product(block.w2, block.b2, hidden);
    for (size_t i = 0; i < width; ++i) x[i] += fed[i];
  }
}

// [tokens][n_experts]
inline std::vector<Doubles> reference_logits(const DecoupledRouter& router,
                                             const std::vector<int32_t>& tokens) {
  const auto width = static_cast<size_t>(router.shape.width);
  std::vector<Doubles> text;
  for (const int32_t token : tokens) {
    const float* row = router.embed.data() + static_cast<size_t>(token) * width;
    text.emplace_back(row, row + width);
  }
  for (const auto& block : router.blocks) reference_block(block, router.shape, &text);
  for (Doubles& x : text) x = reference_product(router.out, {}, reference_norm(x, router.out_norm));
  return text;
}

}  // namespace tandem::test
