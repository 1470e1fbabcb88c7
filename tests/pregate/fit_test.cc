// Fits on taps that were made up: what later routers say is known exactly.
#include "runtime/pregate/fit.h"

#include <cmath>
#include <random>

#include "kernels/quant.h"
#include "runtime/model/router_hash.h"
#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

constexpr int kTokens = 150;  // of a text; training has three of five texts, more tokens than width

Model demo() { return Model::load(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf")); }

TapShape shape_of(const Model& model) {
  const ModelConfig& c = model.config();
  return {static_cast<int32_t>(c.n_layers), c.routing.n_experts, static_cast<int32_t>(c.d_model),
          false};
}

// Router of layer + 1 on the input of the layer's router, in double.
std::vector<double> reused(const Model& model, int layer, const std::vector<float>& x) {
  const auto l = static_cast<size_t>(layer);
  const WeightView& w = model.weights().layers[l + 1].router;
  std::vector<float> row(x.size());
  std::vector<double> logits;
  for (int64_t r = 0; r < w.rows; ++r) {
    dequantize(w.type, w.data + r * w.row_bytes(), row.data(), w.cols);
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      sum += static_cast<double>(row[i]) * static_cast<double>(x[i]) *
             static_cast<double>(model.weights().layers[l + 1].ffn_norm[i]) /
             static_cast<double>(model.weights().layers[l].ffn_norm[i]);
    }
    logits.push_back(sum);
  }
  return logits;
}

// What routers of later layers say beside gate reuse: a matrix of the layer before, and noise.
struct World {
  double planted = 0;  // size of the matrix
  double noise = 0;
  bool warped = false;                         // by a hyperbolic sine
  std::vector<std::vector<float>> matrices{};  // [layers] of [E, d]
};

World make_world(const Model& model, double planted, double noise) {
  World world{planted, noise, false};
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  const TapShape shape = shape_of(model);
  for (int l = 0; l < shape.n_layers; ++l) {
    auto& matrix = world.matrices.emplace_back();
    for (int i = 0; i < shape.n_experts * shape.d_model; ++i) {
      matrix.push_back(static_cast<float>(planted) * normal(rng));
    }
  }
  return world;
}

void write_text(const Model& model, const World& world, uint32_t seed, const std::string& path) {
  const TapShape shape = shape_of(model);
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  const auto d = static_cast<size_t>(shape.d_model);
  TapBuffer taps(shape);
  for (int t = 0; t < kTokens; ++t) {
    std::vector<float> before;
    for (int l = 0; l < shape.n_layers; ++l) {
      std::vector<float> x;
      for (size_t i = 0; i < d; ++i) x.push_back(f16_to_f32(f32_to_f16(normal(rng))));
      std::vector<float> logits;
      for (int e = 0; e < shape.n_experts; ++e) {
        double sum = world.noise * static_cast<double>(normal(rng));
        for (size_t i = 0; l > 0 && i < d; ++i) {
          sum += static_cast<double>(
                     world.matrices[static_cast<size_t>(l)][static_cast<size_t>(e) * d + i]) *
                 static_cast<double>(before[i]);
        }
        logits.push_back(static_cast<float>(sum));
      }
      if (l > 0) {
        const std::vector<double> reuse = reused(model, l - 1, before);
        for (size_t e = 0; e < logits.size(); ++e) logits[e] += static_cast<float>(reuse[e]);
      }
      for (float& v : logits) v = world.warped ? std::sinh(v) : v;
      taps.add(l, 1, x.data(), logits.data());
      before = x;
    }
  }
  taps.write(path);
}

Collection texts(const Model& model, const World& world, const TempDir& dir, int n) {
  const CollectionInfo info{"demo", router_hash(model), shape_of(model), n, "made up"};
  const Collection data = Collection::begin(dir.path() / "taps", info);
  for (int i = 0; i < n; ++i) {
    write_text(model, world, 100 + static_cast<uint32_t>(i), data.file(i).string());
  }
  return data;
}

FitResult fit(const Model& model, const Collection& data) {
  return fit_pregate(model, data, {1, 0}, serial_for, {}).value();
}

// Predicted logits of a link, less their mean, which selects nobody.
std::vector<double> predicted(const PregateLink& link, const std::vector<float>& x) {
  std::vector<double> logits;
  double mean = 0;
  for (size_t e = 0; e < link.bias.size(); ++e) {
    double sum = static_cast<double>(link.bias[e]);
    for (size_t i = 0; i < x.size(); ++i) {
      sum += static_cast<double>(f16_to_f32(link.weight[e * x.size() + i])) *
             static_cast<double>(x[i]);
    }
    logits.push_back(sum);
    mean += sum / static_cast<double>(link.bias.size());
  }
  for (double& v : logits) v -= mean;
  return logits;
}

}  // namespace

TEST_CASE("a fit finds what later routers see beside the residual") {
  const Model model = demo();
  const World world = make_world(model, 0.3, 0);
  const TempDir dir;
  const FitResult result = fit(model, texts(model, world, dir, 10));
  CHECK(result.training_tokens == 6 * kTokens);
  CHECK(result.validation_tokens == 2 * kTokens);
  CHECK(result.test_tokens == 2 * kTokens);
  REQUIRE(result.scores.size() == 5);
  const TapFile fresh = [&] {
    write_text(model, world, 999, dir / "fresh.taps");
    return TapFile(dir / "fresh.taps", shape_of(model));
  }();
  for (size_t i = 0; i < result.scores.size(); ++i) {
    const LinkScore& score = result.scores[i];
    INFO("layer " << score.source);
    CHECK(score.distance == 1);
    CHECK(score.fitted > 0.97);
    CHECK(score.gate_reuse < 0.8);
    CHECK(std::isfinite(score.ridge));
    CHECK(score.brier < 0.02);
    CHECK(result.pregate.links[i].recall == static_cast<float>(score.fitted));
    // The very logits, on a text that nobody has seen: independent of how they were fitted.
    std::vector<float> x(static_cast<size_t>(shape_of(model).d_model));
    std::vector<float> real(static_cast<size_t>(shape_of(model).n_experts));
    fresh.read_inputs(score.source, 3, 1, x.data());
    fresh.read_logits(score.source + 1, 3, 1, real.data());
    double mean = 0;
    for (const float v : real) mean += static_cast<double>(v) / static_cast<double>(real.size());
    const std::vector<double> guess = predicted(result.pregate.links[i], x);
    for (size_t e = 0; e < guess.size(); ++e) {
      CHECK(std::abs(guess[e] - (static_cast<double>(real[e]) - mean)) < 0.15);
    }
  }
}

TEST_CASE("where gate reuse is right nothing is corrected") {
  const Model model = demo();
  const TempDir dir;
  const FitResult result = fit(model, texts(model, make_world(model, 0, 0), dir, 5));
  for (const LinkScore& score : result.scores) {
    CHECK(score.gate_reuse > 0.999);
    CHECK(std::isinf(score.ridge));
    CHECK(score.fitted > 0.99);
  }
}

TEST_CASE("noise is not fitted: a fit is no worse than gate reuse") {
  const Model model = demo();
  const TempDir dir;
  const FitResult result = fit(model, texts(model, make_world(model, 0, 3), dir, 10));
  for (const LinkScore& score : result.scores) {
    INFO("layer " << score.source << " ridge " << score.ridge);
    CHECK(score.gate_reuse < 0.9);
    CHECK(score.fitted > score.gate_reuse - 0.01);
  }
}

TEST_CASE("refinement finds who is selected where logits are no linear function of the input") {
  const Model model = demo();
  World world = make_world(model, 0.3, 0);
  world.warped = true;  // the order is the same
  const TempDir dir;
  const Collection data = texts(model, world, dir, 10);
  const FitResult ridge = fit(model, data);
  const FitResult refined = fit_pregate(model, data, {1, 8}, serial_for, {}).value();
  const FitResult again = fit_pregate(model, data, {1, 8}, serial_for, {}).value();
  for (size_t i = 0; i < ridge.scores.size(); ++i) {
    INFO("layer " << i << ", epochs " << refined.scores[i].epochs << ": " << ridge.scores[i].fitted
                  << " and " << refined.scores[i].fitted);
    CHECK(ridge.scores[i].epochs == 0);
    CHECK(refined.scores[i].epochs > 0);
    CHECK(refined.scores[i].fitted > ridge.scores[i].fitted + 0.03);
    CHECK(refined.scores[i].gate_reuse == ridge.scores[i].gate_reuse);
    CHECK(refined.scores[i].brier < ridge.scores[i].brier);
    CHECK(refined.pregate.links[i].weight == again.pregate.links[i].weight);
    CHECK(refined.pregate.links[i].bias == again.pregate.links[i].bias);
  }
}

TEST_CASE("a guess that refinement makes no better stays as it was") {
  const Model model = demo();
  const TempDir dir;
  const Collection data = texts(model, make_world(model, 0, 0), dir, 5);
  const FitResult result = fit_pregate(model, data, {1, 2}, serial_for, {}).value();
  for (const LinkScore& score : result.scores) {
    CHECK(score.epochs == 0);
    CHECK(score.fitted > 0.99);
  }
}

TEST_CASE("what is held back for the table changes nothing but the table") {
  const Model model = demo();
  const World world = make_world(model, 0.3, 0.5);
  const TempDir dir;
  const Collection data = texts(model, world, dir, 5);
  FitResult before = fit(model, data);
  write_text(model, make_world(model, 0, 5), 77, data.file(4).string());
  FitResult after = fit(model, data);
  REQUIRE(before.pregate.tables);
  CHECK(before.pregate.tables->hot == after.pregate.tables->hot);
  CHECK(before.pregate.tables->tokens.use == after.pregate.tables->tokens.use);
  CHECK(before.pregate.tables->tokens.experts == after.pregate.tables->tokens.experts);
  for (size_t i = 0; i < before.pregate.links.size(); ++i) {
    CHECK(before.pregate.tables->pairs[i].adds == after.pregate.tables->pairs[i].adds);
    CHECK(before.pregate.links[i].weight == after.pregate.links[i].weight);
    CHECK(before.pregate.links[i].bias == after.pregate.links[i].bias);
    CHECK(before.pregate.links[i].calib_scale == after.pregate.links[i].calib_scale);
    CHECK(after.scores[i].fitted < before.scores[i].fitted);
  }
}

TEST_CASE("the experts of the token before and those of a hot list are counted") {
  const Model model = demo();
  World world = make_world(model, 0, 0);
  const TempDir dir;
  const CollectionInfo info{"demo", router_hash(model), shape_of(model), 5, "made up"};
  const Collection data = Collection::begin(dir.path() / "taps", info);
  // In every token experts 0 … 3 or, in the second half of the texts, 4 … 7.
  for (int i = 0; i < 5; ++i) {
    TapBuffer taps(shape_of(model));
    std::mt19937 rng(static_cast<uint32_t>(i));
    std::normal_distribution<float> normal;
    for (int t = 0; t < kTokens; ++t) {
      for (int l = 0; l < shape_of(model).n_layers; ++l) {
        std::vector<float> x;
        for (int c = 0; c < shape_of(model).d_model; ++c) x.push_back(normal(rng));
        std::vector<float> logits(static_cast<size_t>(shape_of(model).n_experts), 0.0F);
        const size_t first = t < 2 * kTokens / 3 ? 0 : 4;
        for (size_t e = first; e < first + 4; ++e) logits[e] = 50;
        taps.add(l, 1, x.data(), logits.data());
      }
    }
    taps.write(data.file(i).string());
  }
  for (const LinkScore& score : fit(model, data).scores) {
    CHECK(score.hot_list == Approx(2.0 / 3));
    CHECK(score.previous_token == Approx((kTokens - 2.0) / (kTokens - 1)));
  }
}

TEST_CASE("too few texts and taps of another model are refused, and a fit can be stopped") {
  const Model model = demo();
  const World world = make_world(model, 0, 1);
  const TempDir dir;
  const Collection few = texts(model, world, dir, 4);
  CHECK_THROWS_WITH(fit(model, few), contains("taps of 4 answers; expected at least 5"));
  const TempDir other;
  const Collection strange =
      Collection::begin(other.path() / "taps", {"strange", "0", shape_of(model), 1, ""});
  CHECK_THROWS_WITH(fit(model, strange), contains("collected with another model, \"strange\""));
  const TempDir third;
  const Collection data = texts(model, world, third, 5);
  CHECK_FALSE(fit_pregate(model, data, {1, 0}, serial_for, {{}, [] { return true; }}).has_value());
  // In the middle of the third layer.
  int64_t done = 0;
  int asked = 0;
  const auto interrupted = [&] { return done == 2 && ++asked > 3; };
  const auto count = [&](int64_t n, int64_t of) {
    done = n;
    CHECK(of == 5 + 2 * 6);  // sources, and two tables of each layer
  };
  CHECK_FALSE(fit_pregate(model, data, {1, 0}, serial_for, {count, interrupted}).has_value());
  CHECK(done == 2);
}

TEST_CASE(
    "answers without a token count for nothing, and a number that is none ends a fit by name") {
  const Model model = demo();
  const TempDir dir;
  const Collection data = texts(model, make_world(model, 0.3, 0), dir, 9);
  for (const int64_t empty : {0, 3, 4, 8}) {
    TapBuffer(shape_of(model)).write(data.file(empty).string());
  }
  const FitResult result = fit(model, data);
  CHECK(result.training_tokens == 3 * kTokens);
  CHECK(result.validation_tokens == kTokens);
  CHECK(result.test_tokens == kTokens);
  TapBuffer(shape_of(model)).write(data.file(1).string());
  CHECK_THROWS_WITH(fit(model, data), contains("taps of 4 answers"));
  TapBuffer taps(shape_of(model));
  std::vector<float> x(static_cast<size_t>(shape_of(model).d_model), 1.0F);
  const std::vector<float> logits(static_cast<size_t>(shape_of(model).n_experts), 0.0F);
  x[5] = 1e9F;  // infinite in half precision
  for (int l = 0; l < shape_of(model).n_layers; ++l) taps.add(l, 1, x.data(), logits.data());
  taps.write(data.file(1).string());
  CHECK_THROWS_WITH(fit(model, data),
                    contains("prompt-000001.taps: token 0, layer 0: an input is not finite"));
}

}  // namespace tandem::test
