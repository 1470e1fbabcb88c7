// Fits of the residual before attention on taps that were made up, beside a ridge regression that
// is written down here in double.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/quant.h"
#include "runtime/model/router_hash.h"
#include "runtime/pregate/fit.h"
#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

constexpr int kTexts = 10;
constexpr int kTokens = 60;  // of a text
constexpr int kTraining = 6 * kTokens;

using Row = std::vector<double>;
using Rows = std::vector<Row>;

Model demo() { return Model::load(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf")); }

TapShape shape_of(const Model& model) {
  TapShape shape = tap_shape(model.config());
  shape.before_attention = true;
  return shape;
}

Row router_on(const Model& model, int layer, const Row& x) {
  const WeightView& w = model.weights().layers[static_cast<size_t>(layer)].router;
  std::vector<float> row(x.size());
  Row logits;
  for (int64_t r = 0; r < w.rows; ++r) {
    dequantize(w.type, w.data + r * w.row_bytes(), row.data(), w.cols);
    logits.push_back(std::inner_product(x.begin(), x.end(), row.begin(), 0.0));
  }
  return logits;
}

// Of one layer, all texts: taps before attention, logits, and what gate reuse lacks of those.
struct Layer {
  Rows x, logits, lacks;
};

// Routers say `planted` times a matrix of what is before attention beside what they say of it, and
// noise. Inputs of routers are noise that says nothing.
std::vector<Layer> write_texts(const Model& model, const Collection& data, double planted,
                               double noise) {
  const TapShape shape = shape_of(model);
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  const auto draw = [&](int n) {
    std::vector<float> v;
    for (int i = 0; i < n; ++i) v.push_back(f16_to_f32(f32_to_f16(normal(rng))));
    return v;
  };
  std::vector<std::vector<std::vector<float>>> matrices(static_cast<size_t>(shape.n_layers));
  for (auto& matrix : matrices) {
    for (int e = 0; e < shape.n_experts; ++e) matrix.push_back(draw(shape.d_model));
  }
  std::vector<Layer> layers(static_cast<size_t>(shape.n_layers));
  for (int text = 0; text < kTexts; ++text) {
    TapBuffer taps(shape);
    for (int t = 0; t < kTokens; ++t) {
      for (int l = 0; l < shape.n_layers; ++l) {
        Layer& layer = layers[static_cast<size_t>(l)];
        const std::vector<float> x = draw(shape.d_model);
        const Row row(x.begin(), x.end());
        const Row reuse = router_on(model, l, row);
        std::vector<float> logits;
        for (size_t e = 0; e < reuse.size(); ++e) {
          const auto& m = matrices[static_cast<size_t>(l)][e];
          const double more = planted * std::inner_product(row.begin(), row.end(), m.begin(), 0.0);
          logits.push_back(
              static_cast<float>(reuse[e] + more + noise * static_cast<double>(normal(rng))));
        }
        taps.add(l, 1, draw(shape.d_model).data(), logits.data(), x.data());
        layer.x.push_back(row);
        layer.logits.emplace_back(logits.begin(), logits.end());
        Row lacks = layer.logits.back();
        for (size_t e = 0; e < lacks.size(); ++e) lacks[e] -= reuse[e];
        const double mean =
            std::accumulate(lacks.begin(), lacks.end(), 0.0) / static_cast<double>(lacks.size());
        for (double& v : lacks) v -= mean;
        layer.lacks.push_back(lacks);
      }
    }
    taps.write(data.file(text).string());
  }
  return layers;
}

// Texts of one of five parts: 3 chooses, 4 tests.
std::vector<size_t> tokens_of(bool (*part)(int)) {
  std::vector<size_t> tokens;
  for (int i = 0; i < kTexts * kTokens; ++i) {
    if (part(i / kTokens % 5)) tokens.push_back(static_cast<size_t>(i));
  }
  return tokens;
}

Row mean_of(const Rows& rows, const std::vector<size_t>& tokens) {
  Row mean(rows[0].size(), 0.0);
  for (const size_t t : tokens) {
    for (size_t i = 0; i < mean.size(); ++i) {
      mean[i] += rows[t][i] / static_cast<double>(tokens.size());
    }
  }
  return mean;
}

// a x = b for each column of b, by Cholesky's factorisation of a.
void solve(Rows a, Rows* b) {
  const size_t n = a.size();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (size_t k = 0; k < j; ++k) sum -= a[i][k] * a[j][k];
      a[i][j] = i == j ? std::sqrt(sum) : sum / a[j][j];
    }
  }
  for (Row& x : *b) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < i; ++k) x[i] -= a[i][k] * x[k];
      x[i] /= a[i][i];
    }
    for (size_t i = n; i-- > 0;) {
      for (size_t k = i + 1; k < n; ++k) x[i] -= a[k][i] * x[k];
      x[i] /= a[i][i];
    }
  }
}

std::vector<size_t> best(const Row& logits, size_t k) {
  std::vector<size_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), size_t{0});
  std::sort(ids.begin(), ids.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  ids.resize(k);
  return ids;
}

// Recall on the texts that test of gate reuse corrected with this ridge; infinite: not corrected.
double reference_recall(const Model& model, const Layer& layer, int index, double ridge) {
  const auto training = tokens_of([](int part) { return part < 3; });
  const size_t d = layer.x[0].size();
  const size_t n_experts = layer.logits[0].size();
  const Row mean_x = mean_of(layer.x, training);
  const Row mean_lacks = mean_of(layer.lacks, training);
  Rows gram(d, Row(d, 0.0));
  Rows correction(n_experts, Row(d, 0.0));
  for (const size_t t : training) {
    for (size_t i = 0; i < d; ++i) {
      const double xi = layer.x[t][i] - mean_x[i];
      for (size_t j = 0; j < d; ++j) gram[i][j] += xi * (layer.x[t][j] - mean_x[j]);
      for (size_t e = 0; e < n_experts; ++e) {
        correction[e][i] += xi * (layer.lacks[t][e] - mean_lacks[e]);
      }
    }
  }
  double trace = 0;
  for (size_t i = 0; i < d; ++i) trace += gram[i][i];
  if (std::isfinite(ridge)) {
    for (size_t i = 0; i < d; ++i) gram[i][i] += ridge * trace / static_cast<double>(d);
    solve(gram, &correction);
  }
  const auto k = static_cast<size_t>(model.config().routing.top_k);
  size_t right = 0;
  const auto test = tokens_of([](int part) { return part == 4; });
  for (const size_t t : test) {
    Row guess = router_on(model, index, layer.x[t]);
    for (size_t e = 0; std::isfinite(ridge) && e < n_experts; ++e) {
      guess[e] += mean_lacks[e];
      for (size_t i = 0; i < d; ++i) guess[e] += correction[e][i] * (layer.x[t][i] - mean_x[i]);
    }
    const auto truth = best(layer.logits[t], k);
    for (const size_t id : best(guess, k)) {
      right += static_cast<size_t>(std::count(truth.begin(), truth.end(), id));
    }
  }
  return static_cast<double>(right) / static_cast<double>(k * test.size());
}

Collection begin(const Model& model, const TempDir& dir) {
  return Collection::begin(dir.path() / "taps",
                           {"demo", router_hash(model), shape_of(model), kTexts, "made up"});
}

}  // namespace

TEST_CASE("each layer, the first too, is fitted to its residual before attention as by hand") {
  const Model model = demo();
  const TempDir dir;
  const Collection data = begin(model, dir);
  const std::vector<Layer> layers = write_texts(model, data, 0.3, 1);
  const FitResult result = fit_pregate(model, data, {1, 0}, serial_for, {}).value();
  CHECK(result.training_tokens == kTraining);
  REQUIRE(result.scores.size() == layers.size() + 5);
  for (size_t l = 0; l < layers.size(); ++l) {
    const LinkScore& score = result.scores[l];
    INFO("layer " << l << ", ridge " << score.ridge);
    CHECK(score.distance == 0);
    CHECK(score.source == static_cast<int32_t>(l));
    CHECK(std::isfinite(score.ridge));
    const auto index = static_cast<int>(l);
    // Halves and single precision may turn over who is nearly as good.
    CHECK(std::abs(score.fitted - reference_recall(model, layers[l], index, score.ridge)) < 0.01);
    const double reuse = reference_recall(model, layers[l], index, INFINITY);
    CHECK(std::abs(score.gate_reuse - reuse) < 0.005);
    CHECK(score.fitted > score.gate_reuse + 0.02);
  }
}

TEST_CASE("the fit of later layers is the same beside taps before attention, and so is its file") {
  const Model model = demo();
  const TempDir dir;
  const Collection data = begin(model, dir);
  write_texts(model, data, 0.3, 1);
  const FitResult both = fit_pregate(model, data, {2, 2}, serial_for, {}).value();
  TapShape alone = shape_of(model);
  alone.before_attention = false;
  const TempDir other;
  const Collection rest = Collection::begin(other.path() / "taps",
                                            {"demo", router_hash(model), alone, kTexts, "made up"});
  for (int i = 0; i < kTexts; ++i) {
    const TapFile file(data.file(i).string(), shape_of(model));
    TapBuffer taps(alone);
    std::vector<float> x(static_cast<size_t>(alone.d_model));
    std::vector<float> logits(static_cast<size_t>(alone.n_experts));
    for (int64_t t = 0; t < file.n_tokens(); ++t) {
      for (int l = 0; l < alone.n_layers; ++l) {
        file.read_inputs(l, t, 1, x.data());
        file.read_logits(l, t, 1, logits.data());
        taps.add(l, 1, x.data(), logits.data());
      }
    }
    taps.write(rest.file(i).string());
  }
  const FitResult one = fit_pregate(model, rest, {2, 2}, serial_for, {}).value();
  CHECK(one.scores.size() == 5 + 4);
  CHECK(both.scores.size() == 6 + 5 + 4);
  REQUIRE(one.pregate.links.size() == 5 + 4);
  REQUIRE(both.pregate.links.size() == 5 + 4);
  for (size_t i = 0; i < one.pregate.links.size(); ++i) {
    CHECK(both.pregate.links[i].distance >= 1);
    CHECK(both.pregate.links[i].weight == one.pregate.links[i].weight);
    CHECK(both.pregate.links[i].bias == one.pregate.links[i].bias);
  }
}

TEST_CASE("where the residual before attention says it all, nothing is corrected") {
  const Model model = demo();
  const TempDir dir;
  const Collection data = begin(model, dir);
  write_texts(model, data, 0, 0);
  const FitResult result = fit_pregate(model, data, {1, 0}, serial_for, {}).value();
  for (size_t l = 0; l < 6; ++l) {
    const LinkScore& score = result.scores[l];
    CHECK(score.distance == 0);
    CHECK(score.gate_reuse > 0.999);
    CHECK(std::isinf(score.ridge));
  }
}

}  // namespace tandem::test
