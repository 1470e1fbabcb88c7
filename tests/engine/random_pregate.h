// A fitted lookahead that is wrong, for tests of what a wrong one may do.
#pragma once

#include <memory>
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

}  // namespace tandem::test
