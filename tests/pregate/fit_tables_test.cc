// Tables that are fitted to texts that were made up, beside counts by brute force in double.
#include "runtime/pregate/fit_tables.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "kernels/quant.h"
#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

constexpr int kLayers = 6;  // of the demo model, as are the others
constexpr size_t kExperts = 32;
constexpr size_t kTopK = 4;
constexpr int kTokens = 120;  // of a text

Model demo() { return Model::load(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf")); }

struct Text {
  std::vector<int32_t> tokens;
  std::vector<std::vector<std::set<int>>> used;  // [tokens, layers]
};

// In even layers a token's id says mostly who is used, in odd ones the expert of the layer before.
Text make_text(uint32_t seed, int first_token) {
  std::mt19937 rng(seed);
  Text text;
  for (int t = 0; t < kTokens; ++t) {
    const int token = first_token + static_cast<int>(rng() % 12);
    text.tokens.push_back(token);
    auto& layers = text.used.emplace_back();
    for (int l = 0; l < kLayers; ++l) {
      std::set<int> used;
      const int from = l % 2 == 0 ? 5 * token + l : *layers.back().begin() * 3 + 1;
      for (int i = 0; i < 3; ++i) used.insert((from + i * i) % static_cast<int>(kExperts));
      while (used.size() < kTopK) used.insert(static_cast<int>(rng() % kExperts));
      layers.push_back(used);
    }
  }
  return text;
}

std::unique_ptr<TapFile> write(const Text& text, const std::string& path) {
  const TapShape shape{kLayers, kExperts, 256};
  TapBuffer taps(shape);
  const std::vector<float> x(256, 0.5F);
  for (size_t t = 0; t < text.tokens.size(); ++t) {
    for (int l = 0; l < kLayers; ++l) {
      std::vector<float> logits(kExperts, -1.0F);
      for (const int e : text.used[t][static_cast<size_t>(l)]) {
        logits[static_cast<size_t>(e)] = 2.0F + 0.01F * static_cast<float>(e);
      }
      taps.add(l, text.tokens[t], x.data(), logits.data());
    }
  }
  taps.write(path);
  return std::make_unique<TapFile>(path, shape);
}

struct World {
  TempDir dir{};
  std::vector<Text> training{};
  TapSplit split{};
};

// The last text of those held back has tokens that training never saw.
std::unique_ptr<World> make_world() {
  auto world = std::make_unique<World>();
  for (uint32_t i = 0; i < 6; ++i) {
    world->training.push_back(make_text(i, 1000));
    world->split.training.push_back(write(world->training.back(), world->dir / std::to_string(i)));
  }
  world->split.validation.push_back(write(make_text(50, 1000), world->dir / "v"));
  world->split.test.push_back(write(make_text(60, 1000), world->dir / "a"));
  world->split.test.push_back(write(make_text(61, 5000), world->dir / "b"));
  return world;
}

FittedTables fit(const Model& model, const World& world, int32_t distances = 3) {
  const auto one_by_one = [](int64_t n, FunctionRef<bool(int64_t)> task) {
    for (int64_t i = 0; i < n; ++i) {
      if (!task(i)) return false;
    }
    return true;
  };
  return fit_tables(model, world.split, distances, one_by_one).value();
}

struct Counts {
  double tokens = 0;
  double rate[kLayers][kExperts] = {};
  double seen[12] = {};
  double by_token[12][kLayers][kExperts] = {};
};

Counts count(const std::vector<Text>& texts) {
  Counts c;
  for (const Text& text : texts) {
    for (size_t t = 0; t < text.tokens.size(); ++t) {
      ++c.tokens;
      ++c.seen[text.tokens[t] - 1000];
      for (int l = 0; l < kLayers; ++l) {
        for (const int e : text.used[t][static_cast<size_t>(l)]) {
          ++c.rate[l][e];
          ++c.by_token[text.tokens[t] - 1000][l][e];
        }
      }
    }
  }
  for (auto& layer : c.rate) {
    for (double& r : layer) r /= c.tokens;
  }
  return c;
}

double odds(double p) {
  p = std::clamp(p, 1e-4, 1 - 1e-4);
  return std::log(p / (1 - p));
}

}  // namespace

TEST_CASE("a token table holds what was counted, shrunk to the layer's rates") {
  const Model model = demo();
  const auto world = make_world();
  const FittedTables fitted = fit(model, *world);
  const auto c = std::make_unique<Counts>(count(world->training));
  const ExpertTables& t = fitted.tables;
  REQUIRE(t.tokens.ids.size() == 12);
  for (int l = 0; l < kLayers; ++l) {
    for (size_t e = 0; e < kExperts; ++e) {
      CHECK(static_cast<double>(t.hot[static_cast<size_t>(l)][e]) == Approx(c->rate[l][e]));
    }
    // One prior explains all rows of a layer.
    int fits = 0;
    for (const double prior : {0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0}) {
      bool all = true;
      for (size_t row = 0; row < 12; ++row) {
        CHECK(t.tokens.ids[row] == 1000 + static_cast<int32_t>(row));
        std::vector<double> p;
        for (size_t e = 0; e < kExperts; ++e) {
          p.push_back((c->by_token[row][l][e] + prior * c->rate[l][e]) / (c->seen[row] + prior));
        }
        std::vector<double> best = p;
        std::sort(best.rbegin(), best.rend());
        for (size_t i = 0; i < 2 * kTopK; ++i) {
          const size_t at = (row * kLayers + static_cast<size_t>(l)) * 2 * kTopK + i;
          const double stored = t.tokens.use[at] / 255.0;
          all = all && std::abs(stored - best[i]) < 0.5001 / 255;
          all = all && std::abs(stored - p[t.tokens.experts[at]]) < 0.5001 / 255;
        }
      }
      fits += all ? 1 : 0;
    }
    CHECK(fits == 1);
  }
}

TEST_CASE("a pair table holds the log-odds that were counted, weighed by one of the weights") {
  const Model model = demo();
  const auto world = make_world();
  const FittedTables fitted = fit(model, *world);
  const auto c = std::make_unique<Counts>(count(world->training));
  REQUIRE(fitted.tables.pairs.size() == 5 + 4 + 3);
  for (const PairLink& link : fitted.tables.pairs) {
    INFO("from " << link.source << " by " << link.distance);
    const int32_t to_layer = link.source + link.distance;
    const auto target = static_cast<size_t>(to_layer);
    std::vector<std::vector<double>> both(kExperts, std::vector<double>(kExperts, 0));
    std::vector<double> uses(kExperts, 0);
    for (const Text& text : world->training) {
      for (const auto& layers : text.used) {
        for (const int from : layers[static_cast<size_t>(link.source)]) {
          ++uses[static_cast<size_t>(from)];
          for (const int to : layers[target]) {
            ++both[static_cast<size_t>(from)][static_cast<size_t>(to)];
          }
        }
      }
    }
    int fits = 0;
    for (const double weight : {1.0, 0.5, 0.25, 0.125}) {
      double worst = 0;
      for (size_t from = 0; from < kExperts; ++from) {
        for (size_t to = 0; to < kExperts; ++to) {
          const double rate = c->rate[target][to];
          const double p = (both[from][to] + 8 * rate) / (uses[from] + 8);
          const double expected = weight * (odds(p) - odds(rate));
          const auto stored = static_cast<double>(f16_to_f32(link.adds[from * kExperts + to]));
          worst = std::max(worst, std::abs(stored - expected));
        }
      }
      fits += worst < 5e-3 ? 1 : 0;
    }
    CHECK(fits == 1);
  }
}

TEST_CASE("each table guesses what it can know, and a token that is new is guessed by rates") {
  const Model model = demo();
  const auto world = make_world();
  const FittedTables fitted = fit(model, *world);
  CHECK(fitted.known == Approx(0.5));  // of the tokens held back
  REQUIRE(fitted.tokens.size() == kLayers);
  REQUIRE(fitted.pairs.size() == fitted.tables.pairs.size());
  // Three of four experts follow from the token, for the half of tokens that are known.
  CHECK(fitted.tokens[0].recall > 0.42);
  CHECK(fitted.tokens[0].recall < 0.7);
  for (size_t i = 0; i < fitted.pairs.size(); ++i) {
    const PairLink& link = fitted.tables.pairs[i];
    if (link.distance == 1 && link.source % 2 == 0) {
      CHECK(fitted.pairs[i].recall > fitted.tokens[static_cast<size_t>(link.source) + 1].recall);
    }
    CHECK(fitted.pairs[i].brier < 0.12);  // of rates alone: 1/8 (1 - 1/8)
  }
}

TEST_CASE("a fit of tables that is stopped gives none") {
  const Model model = demo();
  const auto world = make_world();
  int tasks = 0;
  const auto stopped = [&](int64_t n, FunctionRef<bool(int64_t)> task) {
    for (int64_t i = 0; i < n; ++i) {
      if (++tasks > 8 || !task(i)) return false;
    }
    return true;
  };
  CHECK_FALSE(fit_tables(model, world->split, 2, stopped));
  CHECK(tasks == 9);
}

}  // namespace tandem::test
