// Which channels become which expert.
#include "runtime/refactor/masks.h"

#include <algorithm>
#include <random>
#include <set>

#include "runtime/error.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

TEST_CASE("means are of magnitudes, over the tokens of a domain") {
  ChannelMeans means(2, 1, 3);
  const std::vector<float> hidden{1, -2, 0, -3, 4, 0.5F};
  means.add(1, 0, hidden.data(), 2, serial_for);
  means.count(1, 2);
  CHECK(means.means(1, 0) == std::vector<double>{2, 3, 0.25});
  CHECK(means.means(0, 0) == std::vector<double>{0, 0, 0});
  CHECK(means.tokens(1) == 2);
}

TEST_CASE("the kept share is rounded to channels by 32, and leaves room for an expert") {
  CHECK(kept_channels(0.5, 768) == 384);
  CHECK(kept_channels(0.5, 11008) == 5504);
  CHECK(kept_channels(0.5, 100) == 64);
  CHECK(kept_channels(0.01, 768) == 64);
  CHECK(kept_channels(1, 100) == 96);
  CHECK_THROWS_AS(kept_channels(0.5, 63), ConfigError);
}

// Of random activity; the first `shared` channels are active in every domain.
ChannelMeans random_means(int32_t domains, int64_t layers, int64_t ff, int64_t shared,
                          uint32_t seed) {
  std::mt19937 random(seed);
  ChannelMeans means(domains, layers, ff);
  for (int32_t d = 0; d < domains; ++d) {
    for (int64_t l = 0; l < layers; ++l) {
      std::vector<float> hidden(static_cast<size_t>(ff));
      for (int64_t c = 0; c < ff; ++c) {
        // Few values, so that there are ties.
        hidden[static_cast<size_t>(c)] =
            static_cast<float>(random() % 50) + (c < shared + 16 * l ? 100.0F : 0.0F);
      }
      means.add(d, l, hidden.data(), 1, serial_for);
    }
    means.count(d, 1);
  }
  return means;
}

// By definition: a channel is kept if fewer than n beat it.
std::set<int32_t> brute_force(const std::vector<double>& means, int64_t n,
                              const std::set<int32_t>& among) {
  std::set<int32_t> kept;
  for (const int32_t c : among) {
    const auto better = std::count_if(among.begin(), among.end(), [&](int32_t o) {
      const double a = means[static_cast<size_t>(o)];
      const double b = means[static_cast<size_t>(c)];
      return a > b || (a == b && o < c);
    });
    if (better < n) kept.insert(c);
  }
  return kept;
}

TEST_CASE("an expert and the residual make exactly the domain's mask") {
  constexpr int64_t kFf = 200;
  constexpr int64_t kKept = 96;
  const ChannelMeans means = random_means(3, 2, kFf, 40, 7);
  const ExpertMasks masks = choose_masks(means, kKept);
  std::set<int32_t> all;
  for (int32_t c = 0; c < kFf; ++c) all.insert(c);
  CHECK(masks.residual == 32);  // of an intersection of some 40 and 56
  CHECK(masks.width == kKept - masks.residual);
  CHECK(masks.n_experts() == 3);
  REQUIRE(masks.layers.size() == 2);
  for (int64_t l = 0; l < 2; ++l) {
    const LayerChannels& layer = masks.layers[static_cast<size_t>(l)];
    std::set<int32_t> common = all;
    std::vector<double> least(kFf, 1e9);
    for (int32_t d = 0; d < 3; ++d) {
      const std::set<int32_t> mask = brute_force(means.means(d, l), kKept, all);
      CHECK(mask.size() == kKept);
      const auto& own = layer.experts[static_cast<size_t>(d)];
      CHECK(std::is_sorted(own.begin(), own.end()));
      std::set<int32_t> both(own.begin(), own.end());
      both.insert(layer.residual.begin(), layer.residual.end());
      CHECK(own.size() == static_cast<size_t>(masks.width));
      CHECK(both == mask);
      std::set<int32_t> rest;
      std::set_intersection(common.begin(), common.end(), mask.begin(), mask.end(),
                            std::inserter(rest, rest.begin()));
      common = rest;
      for (size_t c = 0; c < kFf; ++c) least[c] = std::min(least[c], means.means(d, l)[c]);
    }
    CHECK(std::is_sorted(layer.residual.begin(), layer.residual.end()));
    CHECK(std::set<int32_t>(layer.residual.begin(), layer.residual.end()) ==
          brute_force(least, masks.residual, common));
  }
}

TEST_CASE("domains that share few channels have no residual") {
  const ExpertMasks masks = choose_masks(random_means(8, 2, 256, 0, 3), 64);
  CHECK(masks.residual == 0);
  CHECK(masks.width == 64);
  CHECK(masks.layers[1].residual.empty());
}

TEST_CASE("domains that are all alike leave experts 32 channels") {
  const ExpertMasks masks = choose_masks(random_means(2, 1, 256, 128, 3), 128);
  CHECK(masks.residual == 96);
  CHECK(masks.width == 32);
  CHECK(masks.layers[0].experts[0] == masks.layers[0].experts[1]);
  CHECK(mask_overlap(masks) == 1);
}

TEST_CASE("the overlap of masks is the mean over pairs") {
  ExpertMasks masks{.ff = 8, .kept = 4, .residual = 1, .width = 3, .layers = {}};
  masks.layers.push_back({{0}, {{1, 2, 3}, {2, 3, 4}, {5, 6, 7}}});
  CHECK(mask_overlap(masks) == (3.0 + 1.0 + 1.0) / 4 / 3);
}

}  // namespace
}  // namespace tandem::test
