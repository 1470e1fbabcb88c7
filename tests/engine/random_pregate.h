// A fitted lookahead that is wrong, for tests of what a wrong one may do.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "kernels/quant.h"
#include "runtime/model/model.h"
#include "runtime/model/router_hash.h"
#include "runtime/pregate/pregate.h"

namespace tandem::test {

// Random numbers for a model: guesses that are wrong and sure of themselves.
inline std::shared_ptr<Pregate> random_pregate(const Model& model, int32_t n_distances) {
  const ModelConfig& c = model.config();
  auto p = std::make_shared<Pregate>();
  p->model.append("random");
  p->router_hash = router_hash(model);
  p->n_layers = static_cast<int32_t>(c.n_layers);
  p->n_experts = c.routing.n_experts;
  p->top_k = c.routing.top_k;
  p->d_model = static_cast<int32_t>(c.d_model);
  p->n_distances = n_distances;
  std::mt19937 rng(11);
  std::normal_distribution<float> normal(0, 0.5F);
  for (int32_t s = 0; s < p->n_layers; ++s) {
    for (int32_t d = 1; d <= n_distances && s + d < p->n_layers; ++d) {
      PregateLink link;
      link.source = s;
      link.distance = d;
      for (int64_t i = 0; i < c.routing.n_experts * c.d_model; ++i) {
        link.weight.push_back(f32_to_f16(normal(rng)));
      }
      for (int64_t i = 0; i < c.routing.n_experts; ++i) link.bias.push_back(normal(rng));
      link.calib_scale = 0.25F * static_cast<float>(d);
      link.calib_offset = 0.5F;
      p->links.push_back(link);
    }
  }
  return p;
}

// The same with tables that are as wrong; they know tokens 1, 3, 5, 7 and 9.
inline std::shared_ptr<Pregate> pregate_with_random_tables(const Model& model,
                                                           int32_t n_distances) {
  auto p = random_pregate(model, n_distances);
  ExpertTables t;
  t.n_experts = p->n_experts;
  t.top_k = p->top_k;
  const auto n = static_cast<size_t>(t.n_experts);
  std::mt19937 rng(12);
  std::normal_distribution<float> normal;
  const float rate = static_cast<float>(t.top_k) / static_cast<float>(t.n_experts);
  std::uniform_real_distribution<float> factor(0.25F, 1.75F);
  t.hot.assign(static_cast<size_t>(p->n_layers), std::vector<float>(n));
  for (std::vector<float>& layer : t.hot) {
    for (float& r : layer) r = rate * factor(rng);
  }
  for (const PregateLink& link : p->links) {
    PairLink pair;
    pair.source = link.source;
    pair.distance = link.distance;
    for (size_t i = 0; i < n * n; ++i) pair.adds.push_back(f32_to_f16(normal(rng)));
    pair.calib_offset = 0.5F;
    t.pairs.push_back(pair);
  }
  t.tokens.ids = {1, 3, 5, 7, 9};
  const auto listed = static_cast<size_t>(listed_experts(t.n_experts, t.top_k));
  for (size_t list = 0; list < t.tokens.ids.size() * t.hot.size(); ++list) {
    std::vector<uint16_t> order(n);
    std::iota(order.begin(), order.end(), uint16_t{0});
    std::shuffle(order.begin(), order.end(), rng);
    for (size_t i = 0; i < listed; ++i) {
      t.tokens.experts.push_back(order[i]);
      t.tokens.use.push_back(static_cast<uint8_t>(240 - 30 * i));
    }
  }
  p->tables = t;
  return p;
}

}  // namespace tandem::test
