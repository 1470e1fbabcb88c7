// What texts are read for, against float64 and brute force.
#include "runtime/refactor/passes.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/error.h"
#include "tests/refactor/tiny_dense.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int64_t kWindow = 8;

struct Setup {
  TinyDense tiny;
  Bytes image = tiny.file().build();
  DenseModel model = DenseModel::load(GgufFile::from_memory(image, "tiny.gguf"));
  std::vector<DomainText> domains;
  ExpertMasks masks{tiny.ff, 40, 8, 32, {}};

  Setup() {
    for (uint32_t d = 0; d < 2; ++d) {
      domains.push_back(
          {"domain", some_tokens(19, tiny.vocab / 2, 10 + d), some_tokens(16, tiny.vocab, 20 + d)});
    }
    for (int32_t l = 0; l < 2; ++l) {
      LayerChannels& layer = masks.layers.emplace_back();
      for (int32_t c = 0; c < 8; ++c) layer.residual.push_back(c);
      for (int32_t e = 0; e < 2; ++e) {
        auto& own = layer.experts.emplace_back();
        for (int32_t c = 0; c < 32; ++c) own.push_back(8 + c + (e + l) % 2 * 32);
      }
    }
  }
  // The reference on one window at a time.
  template <typename Use>
  void each_window(const std::vector<int32_t>& text, const Use& use) const {
    for (size_t at = 0; at < text.size(); at += kWindow) {
      const size_t end = std::min(text.size(), at + kWindow);
      use(std::vector<int32_t>(text.begin() + static_cast<int64_t>(at),
                               text.begin() + static_cast<int64_t>(end)));
    }
  }
};

TEST_CASE("a text's last tenth is held out, and both parts have a bound") {
  std::vector<int32_t> tokens(1000);
  std::iota(tokens.begin(), tokens.end(), 0);
  const DomainText all = split_text("d", tokens, 10, 5000);
  CHECK((all.training.size() == 900 && all.training.back() == 899));
  CHECK((all.held_out.size() == 100 && all.held_out.front() == 900));
  const DomainText some = split_text("d", tokens, 10, 450);
  CHECK((some.training.size() == 450 && some.training.front() == 0));
  CHECK((some.held_out.size() == 50 && some.held_out.front() == 900));
  CHECK_THROWS_AS(split_text("d", tokens, 101, 450), ConfigError);
}

TEST_CASE("channels are measured window by window, as float64 does") {
  const Setup s;
  const auto means = measure_channels(s.model, s.domains, {kWindow, {}}, {}, serial_for);
  REQUIRE(means);
  for (int32_t d = 0; d < 2; ++d) {
    CHECK(means->tokens(d) == 19);
    std::vector<std::vector<double>> sums(2, std::vector<double>(72));
    s.each_window(s.domains[static_cast<size_t>(d)].training, [&](const auto& window) {
      const DenseReference pass = ReferencePass(s.tiny).run(window);
      for (size_t l = 0; l < 2; ++l) {
        for (const auto& row : pass.hidden[l]) {
          for (size_t c = 0; c < row.size(); ++c) sums[l][c] += std::abs(row[c]);
        }
      }
    });
    for (int64_t l = 0; l < 2; ++l) {
      double worst = 0;
      for (size_t c = 0; c < 72; ++c) {
        const double got = means->means(d, l)[c];
        worst = std::max(worst, std::abs(got - sums[static_cast<size_t>(l)][c] / 19));
      }
      CHECK(worst < 1e-5);
    }
  }
}

// Of one token, as route_targets.h says it: five sorts.
std::vector<double> brute_force_targets(const ExpertMasks& masks, const DenseReference& pass,
                                        size_t token) {
  const size_t n_experts = masks.layers[0].experts.size();
  std::vector<double> row(n_experts);
  for (size_t l = 0; l < masks.layers.size(); ++l) {
    const auto& hidden = pass.hidden[l][token];
    std::vector<int32_t> order(hidden.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return std::abs(hidden[static_cast<size_t>(a)]) > std::abs(hidden[static_cast<size_t>(b)]);
    });
    std::vector<double> share(n_experts);
    double thresholded = 0;
    for (int64_t level = 1; level <= 5; ++level) {
      const auto top = order.begin() + level * masks.kept / 5;
      thresholded += static_cast<double>(top - order.begin());
      for (size_t e = 0; e < n_experts; ++e) {
        for (const int32_t c : masks.layers[l].experts[e]) {
          share[e] += std::find(order.begin(), top, c) != top ? 1 : 0;
        }
      }
    }
    double mean = 0;
    for (double& s : share) mean += (s /= thresholded) / static_cast<double>(n_experts);
    double sum = 0;
    for (const double s : share) sum += std::exp(10 * (s - mean));
    for (size_t e = 0; e < n_experts; ++e) {
      row[e] += std::exp(10 * (share[e] - mean)) / sum / static_cast<double>(masks.layers.size());
    }
  }
  return row;
}

TEST_CASE("a token's target is the overlap of its activations with each expert's own channels") {
  const Setup s;
  const auto texts = route_texts(s.model, s.masks, s.domains, {kWindow, {}}, {}, serial_for);
  REQUIRE(texts);
  REQUIRE(texts->training.size() == 2);
  REQUIRE(texts->held_out.size() == 4);
  for (size_t d = 0; d < 2; ++d) {
    CHECK(texts->training[d].tokens == s.domains[d].training);
    REQUIRE(texts->training[d].targets.size() == 19 * 2);
    size_t i = 0;
    double worst = 0;
    s.each_window(s.domains[d].training, [&](const auto& window) {
      const DenseReference pass = ReferencePass(s.tiny).run(window);
      for (size_t t = 0; t < window.size(); ++t) {
        for (const double target : brute_force_targets(s.masks, pass, t)) {
          worst = std::max(worst, std::abs(texts->training[d].targets[i++] - target));
        }
      }
    });
    CHECK(worst < 1e-6);
    CHECK(texts->held_out[2 * d].tokens ==
          std::vector<int32_t>(s.domains[d].held_out.begin(), s.domains[d].held_out.begin() + 8));
  }
}

// Says the first expert whatever it reads.
DecoupledRouter constant_router(int32_t n_vocab) {
  DecoupledRouter router;
  router.shape = {.n_vocab = n_vocab, .width = 4, .ff = 4, .n_experts = 2, .n_layers = 2};
  router.blocks.resize(1);
  for_each_decoupled_tensor(router, [](const std::string&, const std::vector<int64_t>& sides,
                                       std::vector<float>& values) {
    size_t n = 1;
    for (const int64_t side : sides) n *= static_cast<size_t>(side);
    values.assign(n, 0.0F);
  });
  return router;
}

// Of windows whose second halves are scored.
double reference_perplexity(const Setup& s, size_t domain, int32_t expert, int32_t bos) {
  double sum = 0;
  int64_t scored = 0;
  s.each_window(s.domains[domain].held_out, [&](std::vector<int32_t> window) {
    window[0] = bos;
    std::vector<std::vector<std::vector<bool>>> kept;
    for (const LayerChannels& layer : s.masks.layers) {
      std::vector<bool> channels(72, expert < 0);
      for (const int32_t c : layer.residual) channels[static_cast<size_t>(c)] = true;
      if (expert >= 0) {
        for (const int32_t c : layer.experts[static_cast<size_t>(expert)]) {
          channels[static_cast<size_t>(c)] = true;
        }
      }
      kept.emplace_back(window.size(), channels);
    }
    const DenseReference pass = ReferencePass(s.tiny).run(window, kept);
    for (size_t t = kWindow / 2; t + 1 < window.size(); ++t, ++scored) {
      double total = 0;
      for (const double logit : pass.logits[t]) total += std::exp(logit);
      sum += std::log(total) - pass.logits[t][static_cast<size_t>(window[t + 1])];
    }
  });
  return std::exp(sum / static_cast<double>(scored));
}

TEST_CASE("perplexities are those of the dense, the masked and the routed model") {
  const Setup s;
  const auto results =
      score_domains(s.model, s.masks, constant_router(23), s.domains, {kWindow, 3}, {}, serial_for);
  REQUIRE(results);
  REQUIRE(results->size() == 2);
  for (size_t d = 0; d < 2; ++d) {
    const DomainPerplexity& got = (*results)[d];
    CHECK(got.windows == 2);
    CHECK(got.dense == Approx(reference_perplexity(s, d, -1, 3)).epsilon(1e-5));
    CHECK(got.own == Approx(reference_perplexity(s, d, static_cast<int32_t>(d), 3)).epsilon(1e-5));
    CHECK(got.routed == Approx(reference_perplexity(s, d, 0, 3)).epsilon(1e-5));
    CHECK(got.routed_tokens == std::vector<int64_t>{16, 0});
  }
}

TEST_CASE("a pass is interrupted between layers, and says how far it is") {
  const Setup s;
  int64_t asked = 0;
  std::vector<int64_t> done;
  const PassHooks hooks{[&](int64_t n, int64_t total) {
                          CHECK(total == 38);
                          done.push_back(n);
                        },
                        [&] { return ++asked > 5; }};
  CHECK_FALSE(measure_channels(s.model, s.domains, {kWindow, {}}, hooks, serial_for));
  CHECK(done == std::vector<int64_t>{0, 8, 16});
}

TEST_CASE("a model that computes no numbers is refused") {
  TinyDense tiny;
  GgufBuilder builder = tiny.file();
  const Bytes image = builder.build();
  Bytes damaged = image;
  const GgufFile file = GgufFile::from_memory(image, "tiny.gguf");
  const auto at = file.find_tensor("blk.1.ffn_up.weight")->data - image.data();
  const float nan = std::nanf("");
  std::memcpy(damaged.data() + at, &nan, sizeof(nan));
  const DenseModel model = DenseModel::load(GgufFile::from_memory(damaged, "tiny.gguf"));
  const std::vector<DomainText> domains(2, {"d", {1, 2, 3}, {}});
  CHECK_THROWS_WITH(measure_channels(model, domains, {kWindow, {}}, {}, serial_for),
                    "tiny.gguf: layer 1 computes numbers that are not finite");
  CHECK_THROWS_WITH(model.check_finite(),
                    "tiny.gguf: tensor blk.1.ffn_up.weight holds a number that is not finite");
}

}  // namespace
}  // namespace tandem::test
