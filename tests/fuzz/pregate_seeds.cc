// Writes the seed corpus of pregate_fuzz, small fitted lookaheads and decoupled routers, into the
// folder named by the argument.
#include <filesystem>

#include "runtime/pregate/decoupled_file.h"
#include "runtime/pregate/pregate_file.h"
#include "tests/fuzz/seeds.h"

namespace tandem {
namespace {

Pregate made_up(int32_t n_layers, int32_t n_experts, int32_t width, int32_t n_distances) {
  Pregate p;
  p.model = "seed";
  p.router_hash = "0123";
  p.n_layers = n_layers;
  p.n_experts = n_experts;
  p.top_k = 1;
  p.d_model = width;
  p.n_distances = n_distances;
  for (int32_t s = 0; s < n_layers; ++s) {
    for (int32_t d = 1; d <= n_distances && s + d < n_layers; ++d) {
      PregateLink link;
      link.source = s;
      link.distance = d;
      link.weight.assign(static_cast<size_t>(n_experts) * static_cast<size_t>(width), 0x3C00);
      link.bias.assign(static_cast<size_t>(n_experts), 0.5F);
      p.links.push_back(link);
    }
  }
  return p;
}

DecoupledRouter made_up_router(int32_t n_blocks, int32_t width, int32_t n_heads) {
  DecoupledRouter router;
  router.shape.n_vocab = 3;
  router.shape.width = width;
  router.shape.n_heads = n_heads;
  router.shape.n_blocks = n_blocks;
  router.shape.ff = 2;
  router.shape.n_experts = 2;
  router.shape.n_layers = 1;
  router.model = "seed";
  router.blocks.resize(static_cast<size_t>(n_blocks));
  for_each_decoupled_tensor(router, [](const auto&, const auto& sides, auto& values) {
    int64_t n = 1;
    for (const int64_t side : sides) n *= side;
    values.assign(static_cast<size_t>(n), 0.5F);
  });
  return router;
}

// The same with tables that know two tokens.
Pregate with_tables(Pregate p) {
  ExpertTables t;
  t.n_experts = p.n_experts;
  t.top_k = p.top_k;
  const auto n = static_cast<size_t>(p.n_experts);
  t.hot.assign(static_cast<size_t>(p.n_layers), std::vector<float>(n, 0.5F));
  for (const PregateLink& link : p.links) {
    PairLink pair;
    pair.source = link.source;
    pair.distance = link.distance;
    pair.adds.assign(n * n, 0x3800);
    t.pairs.push_back(pair);
  }
  t.tokens.ids = {2, 5};
  const int32_t listed = listed_experts(t.n_experts, t.top_k);
  for (size_t list = 0; list < 2 * t.hot.size(); ++list) {
    for (int32_t i = 0; i < listed; ++i) t.tokens.experts.push_back(static_cast<uint16_t>(i));
  }
  t.tokens.use.assign(t.tokens.experts.size(), 99);
  p.tables = t;
  return p;
}

void write_all(const std::filesystem::path& dir) {
  fuzz::write_seed(dir / "one_link.safetensors", pregate_bytes(made_up(2, 2, 2, 1)));
  fuzz::write_seed(dir / "five_links.safetensors", pregate_bytes(made_up(4, 3, 1, 2)));
  fuzz::write_seed(dir / "one_block.safetensors", decoupled_bytes(made_up_router(1, 2, 1)));
  fuzz::write_seed(dir / "two_blocks.safetensors", decoupled_bytes(made_up_router(2, 4, 2)));
  fuzz::write_seed(dir / "tables.safetensors", pregate_bytes(with_tables(made_up(2, 3, 1, 1))));
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::fuzz::write_seeds(argc, argv, tandem::write_all); }
