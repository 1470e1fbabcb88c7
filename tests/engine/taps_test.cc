// What the engine writes down of a layer before its attention, for fits of a lookahead.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "kernels/quant.h"
#include "tests/engine/engine_testing.h"
#include "tests/engine/float64_layer.h"
#include "tests/engine/step_harness.h"
#include "tests/support/catch.h"
#include "tests/support/unrounded.h"

namespace tandem::test {
namespace {

const std::vector<int32_t> kTokens{1, 5, 9, 2, 3, 4};  // few enough for logits on every device

Row embedding(const Model& model, int32_t token) {
  const WeightView& w = model.weights().embedding;
  std::vector<float> values(static_cast<size_t>(w.cols));
  dequantize(w.type, w.data + token * w.row_bytes(), values.data(), w.cols);
  return {values.begin(), values.end()};
}

// What an expert makes of x, times its gate's weight, is added to y.
void add_expert(const ExpertWeights& expert, double weight, const Row& x, Row* y) {
  Row hidden = times(expert.gate, x);
  const Row up = times(expert.up, x);
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= up[i] / (1 + std::exp(-hidden[i]));
  const Row out = times(expert.down, hidden);
  for (size_t i = 0; i < out.size(); ++i) (*y)[i] += weight * out[i];
}

// The residual behind the first layer of a qwen3moe model in float64. [n_tokens, d]
Rows second_residual(const Model& model, const std::vector<int32_t>& tokens) {
  const LayerWeights& layer = model.weights().layers[0];
  const auto k = static_cast<size_t>(model.config().routing.top_k);
  Rows residual = first_residual(model, tokens);
  for (Row& row : residual) {
    Row x = row;
    normalise(layer.ffn_norm, model.config().rms_eps, 0, &x);
    const Row logits = times(layer.router, x);
    std::vector<size_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), size_t{0});
    std::sort(ids.begin(), ids.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    ids.resize(k);
    double sum = 0;
    for (const size_t id : ids) sum += std::exp(logits[id] - logits[ids[0]]);
    for (const size_t id : ids) {
      add_expert(layer.experts[id], std::exp(logits[id] - logits[ids[0]]) / sum, x, &row);
    }
  }
  return residual;
}

double largest_error(const Rows& residual, const LayerWeights& layer, double epsilon,
                     const std::vector<float>& got) {
  double error = 0;
  size_t at = 0;
  for (Row x : residual) {
    normalise(layer.ffn_norm, epsilon, 0, &x);
    for (const double v : x) error = std::max(error, std::abs(v - static_cast<double>(got[at++])));
  }
  return error;
}

std::unique_ptr<Device> device_of(int which) {
  SimSettings sim;
  if (which == 2) sim.kernels = SimKernels::kEmulated;
  return StepHarness::make_device(which == 0 ? -1 : 3, sim);
}

}  // namespace

TEST_CASE("the residual before attention is on every device what float64 says") {
  const Unrounded unrounded;  // on the CPU; CUDA kernels always round
  for (const std::string& path : {kFamilies + "qwen3moe-f32.gguf", kDemoModel}) {
    const Model model = Model::load(GgufFile::open(path));
    const ModelConfig& c = model.config();
    Rows first;
    for (const int32_t token : kTokens) first.push_back(embedding(model, token));
    const Rows second = second_residual(model, kTokens);
    for (const int device : {0, 1, 2}) {  // the CPU, a simulated GPU, one with CUDA kernels
      INFO(path << ", device " << device);
      StepHarness harness(model, device == 0 ? -1 : 3, device_of(device));
      std::vector<std::vector<float>> got;
      harness.executor.set_tap_hook(
          [&](const RouterTap& tap) {
            REQUIRE(tap.before_attention != nullptr);
            const auto n = static_cast<int64_t>(tap.tokens.size()) * c.d_model;
            got.emplace_back(tap.before_attention, tap.before_attention + n);
          },
          true);
      NoPrefetcher nothing;
      run_step({kTokens, 0, 1}, harness.executor, harness.planner, harness.cache, nothing,
               harness.plan);
      REQUIRE(got.size() == static_cast<size_t>(c.n_layers));
      const auto& layers = model.weights().layers;
      CHECK(largest_error(first, layers[0], c.rms_eps, got[0]) < 1e-4);
      CHECK(largest_error(second, layers[1], c.rms_eps, got[1]) < (device == 2 ? 0.05 : 1e-3));
    }
  }
}

TEST_CASE("writing the residual down changes no result, and ends with the hook") {
  const Model model = Model::load(GgufFile::open(kDemoModel));
  for (const int device : {0, 1, 2}) {
    INFO("device " << device);
    std::vector<std::vector<float>> logits;
    for (const bool taps : {false, true}) {
      StepHarness harness(model, device == 0 ? -1 : 3, device_of(device));
      int64_t told = 0;
      harness.executor.set_tap_hook(
          [&](const RouterTap& tap) { told += tap.before_attention != nullptr ? 1 : 0; }, taps);
      NoPrefetcher nothing;
      const auto step = [&](std::span<const int32_t> tokens, int64_t at) {
        return run_step({tokens, at, 1}, harness.executor, harness.planner, harness.cache, nothing,
                        harness.plan);
      };
      const auto one = std::span(kTokens).first(1);
      step(kTokens, 0);
      step(one, std::ssize(kTokens));  // alone, a token may be a graph that is kept
      CHECK(told == (taps ? 2 * model.config().n_layers : 0));
      harness.executor.set_tap_hook(
          [&](const RouterTap& tap) { CHECK(tap.before_attention == nullptr); });
      const auto last = step(one, std::ssize(kTokens) + 1);
      logits.emplace_back(last.begin(), last.end());
    }
    CHECK(logits[0] == logits[1]);
  }
}

}  // namespace tandem::test
