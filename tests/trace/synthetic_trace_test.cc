// What synthetic traces are like: each knob does what it says.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "runtime/trace/crc32.h"
#include "runtime/trace/trace_fault.h"
#include "tests/support/catch.h"
#include "tests/trace/replay.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

template <typename Value>
uint32_t crc_of(const std::vector<Value>& values, uint32_t crc) {
  return crc32({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)}, crc);
}

uint32_t fingerprint(const Trace& trace) {
  return crc_of(trace.predicted, crc_of(trace.weights, crc_of(trace.ids, 0)));
}

// Per cent of what was predicted `ahead` layers before that was then selected.
double recall(const Trace& trace, int32_t ahead) {
  const auto top_k = static_cast<size_t>(trace.header.top_k);
  int64_t n_right = 0;
  int64_t n = 0;
  for (int64_t token = 0; token < trace.n_tokens(); ++token) {
    for (int32_t layer = 0; layer + ahead < trace.header.n_layers; ++layer) {
      const auto truth = trace.ids_of(token, layer + ahead).first(top_k);
      for (const int16_t id : trace.predicted_of(token, layer, ahead)) {
        ++n;
        n_right += std::find(truth.begin(), truth.end(), id) != truth.end() ? 1 : 0;
      }
    }
  }
  return 100.0 * static_cast<double>(n_right) / static_cast<double>(n);
}

// How often each expert of the layer is selected, the most frequent first.
std::vector<int64_t> use_counts(const Trace& trace, int32_t layer) {
  std::vector<int64_t> counts(static_cast<size_t>(trace.header.n_experts));
  for (int64_t token = 0; token < trace.n_tokens(); ++token) {
    for (const int16_t id :
         trace.ids_of(token, layer).first(static_cast<size_t>(trace.header.top_k))) {
      ++counts[static_cast<size_t>(id)];
    }
  }
  std::sort(counts.begin(), counts.end(), std::greater<>());
  return counts;
}

// Per cent of all selections that go to the most popular quarter of each layer's experts.
double top_quarter(const Trace& trace) {
  int64_t n_top = 0;
  int64_t n = 0;
  for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
    const std::vector<int64_t> counts = use_counts(trace, layer);
    const auto quarter = counts.begin() + static_cast<ptrdiff_t>(counts.size() / 4);
    n_top += std::accumulate(counts.begin(), quarter, int64_t{0});
    n += std::accumulate(counts.begin(), counts.end(), int64_t{0});
  }
  return 100.0 * static_cast<double>(n_top) / static_cast<double>(n);
}

// A measure of traces at rising values of a knob.
template <typename Set, typename Measure>
std::vector<double> sweep(const std::vector<double>& values, const Set& set,
                          const Measure& measure) {
  std::vector<double> measures;
  for (const double value : values) {
    SyntheticTraceSettings settings = small_settings();
    settings.n_sequences = 4;
    set(settings, value);
    measures.push_back(measure(make_synthetic_trace(settings)));
  }
  return measures;
}

bool rises(const std::vector<double>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
}

TEST_CASE("a synthetic trace is the same on every platform") {
  CHECK(fingerprint(make_synthetic_trace(small_settings())) == 0xd33b24c9);
  SyntheticTraceSettings other = small_settings();
  other.seed = 2;
  CHECK(fingerprint(make_synthetic_trace(other)) !=
        fingerprint(make_synthetic_trace(small_settings())));
}

TEST_CASE("a synthetic trace has the shape that was asked for and no fault") {
  SyntheticTraceSettings settings = small_settings();
  const Trace trace = make_synthetic_trace(settings);
  CHECK_FALSE(find_trace_fault(trace).has_value());
  CHECK(trace.header.n_ranks == 8);
  CHECK(trace.steps.size() == 2 * (1 + 200));
  CHECK(trace.steps[0].prefill);
  CHECK(trace.steps[0].n_tokens == 50);
  CHECK(trace.steps[201].sequence == 1);
  CHECK(trace.n_tokens() == 2 * 250);
  settings.n_prompt = 0;
  settings.n_ahead = 0;
  settings.n_experts = 6;
  const Trace bare = make_synthetic_trace(settings);
  CHECK_FALSE(find_trace_fault(bare).has_value());
  CHECK(bare.header.n_ranks == 6);
  CHECK(bare.steps.size() == 2 * 200);
  CHECK(bare.predicted.empty());
}

TEST_CASE("selections are the heaviest experts in order") {
  const Trace trace = make_synthetic_trace(small_settings());
  for (int64_t token = 0; token < trace.n_tokens(); ++token) {
    for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
      const auto weights = trace.weights_of(token, layer);
      if (!std::is_sorted(weights.begin(), weights.end(), std::greater<>())) FAIL(token);
    }
  }
}

TEST_CASE("weights are a softmax over all experts whose temperature is 1 / sharpness") {
  SyntheticTraceSettings settings = small_settings();
  settings.n_ranks = settings.n_experts;
  settings.n_decode = 20;
  const Trace plain = make_synthetic_trace(settings);
  settings.sharpness = 3.0;
  const Trace sharp = make_synthetic_trace(settings);
  REQUIRE(plain.ids == sharp.ids);
  for (int64_t token = 0; token < plain.n_tokens(); ++token) {
    const auto a = plain.weights_of(token, 0);
    const auto b = sharp.weights_of(token, 0);
    CHECK(std::accumulate(a.begin(), a.end(), 0.0) == Approx(1.0).epsilon(1e-5));
    CHECK(std::accumulate(b.begin(), b.end(), 0.0) == Approx(1.0).epsilon(1e-5));
    for (size_t i = 1; i < a.size(); ++i) {
      CHECK(b[i] / b[0] == Approx(std::pow(a[i] / a[0], 3.0F)).epsilon(1e-5));
    }
  }
}

TEST_CASE("without skew, topic and reuse experts are chosen independently and evenly") {
  SyntheticTraceSettings settings = small_settings();
  settings.skew = settings.topic = settings.reuse = 0.0;
  settings.n_sequences = 8;
  const Trace trace = make_synthetic_trace(settings);
  const double chance = 100.0 * settings.top_k / settings.n_experts;
  CHECK(adjacent_reuse(trace) == Approx(chance).margin(0.5));
  const double expected = static_cast<double>(trace.n_tokens()) * chance / 100.0;
  for (int32_t layer = 0; layer < settings.n_layers; ++layer) {
    double chi_square = 0.0;
    for (const int64_t n : use_counts(trace, layer)) {
      const double off = static_cast<double>(n) - expected;
      chi_square += off * off / expected;
    }
    CHECK(chi_square < 62.0);  // 31 degrees of freedom, 1 in 1000
  }
}

TEST_CASE("more skew concentrates the traffic") {
  const auto shares = sweep(
      {0.0, 0.3, 0.6, 1.0, 2.0}, [](auto& s, double x) { s.skew = x; }, top_quarter);
  CHECK(rises(shares));
  CHECK(shares.back() > 2.0 * shares.front());
}

TEST_CASE("more topic concentrates the traffic of a sequence more than that of all") {
  const auto one = [](auto& s, double x) {
    s.topic = x;
    s.n_sequences = 1;
    s.n_decode = 1000;
  };
  CHECK(rises(sweep({0.0, 0.3, 0.6, 1.0, 2.0}, one, top_quarter)));
  const auto many = [](auto& s, double x) {
    s.topic = x;
    s.n_sequences = 20;
  };
  CHECK(sweep({2.0}, many, top_quarter)[0] + 20.0 < sweep({2.0}, one, top_quarter)[0]);
}

TEST_CASE("more reuse and longer memory make neighbours alike") {
  const auto reuses = sweep(
      {0.0, 0.1, 0.3, 0.6, 0.9, 1.0}, [](auto& s, double x) { s.reuse = x; }, adjacent_reuse);
  CHECK(rises(reuses));
  CHECK(reuses.back() > 1.5 * reuses.front());
  const auto memories = sweep(
      {0.0, 0.3, 0.6, 0.9, 0.99},
      [](auto& s, double x) {
        s.reuse = 0.8;
        s.memory = x;
      },
      adjacent_reuse);
  CHECK(rises(memories));
}

TEST_CASE("predictions have the recall that was asked for at every distance") {
  for (const auto& [n_experts, top_k] : {std::pair{128, 8}, {64, 6}, {8, 2}, {32, 1}}) {
    for (const double predict : {0.0, 0.3, 0.667, 0.85, 0.95, 1.0}) {
      SyntheticTraceSettings settings = small_settings();
      settings.n_experts = n_experts;
      settings.top_k = top_k;
      settings.n_layers = 12;
      settings.predictability = predict;
      const Trace trace = make_synthetic_trace(settings);
      for (int32_t ahead = 1; ahead <= 3; ++ahead) {
        const double expected = std::max(0.0, predict - 0.04 * (ahead - 1));
        INFO(n_experts << " " << top_k << " " << predict << " " << ahead);
        CHECK(recall(trace, ahead) == Approx(100.0 * expected).margin(2.0));
      }
    }
  }
}

TEST_CASE("nothing is predicted past the last layer") {
  const Trace trace = make_synthetic_trace(small_settings());
  for (const auto& [layer, ahead] : {std::pair{3, 1}, {3, 3}, {2, 2}, {1, 3}}) {
    CHECK(trace.predicted_of(7, layer, ahead)[0] == -1);
  }
  for (const auto& [layer, ahead] : {std::pair{2, 1}, {1, 2}, {0, 3}}) {
    CHECK(trace.predicted_of(7, layer, ahead)[0] >= 0);
  }
}

TEST_CASE("a prediction cannot be wrong where every expert is used") {
  SyntheticTraceSettings settings = small_settings();
  settings.n_experts = settings.top_k;
  settings.predictability = 0.1;
  const Trace trace = make_synthetic_trace(settings);
  CHECK_FALSE(find_trace_fault(trace).has_value());
  CHECK(recall(trace, 1) == 100.0);
}

TEST_CASE("wrong predictions lean to popular experts") {
  SyntheticTraceSettings settings = small_settings();
  settings.skew = 1.0;
  settings.predictability = 0.0;
  settings.n_layers = 2;
  settings.n_ahead = 1;
  settings.n_decode = 2000;
  const Trace trace = make_synthetic_trace(settings);
  // Spearman-like: mean use of wrongly predicted experts against that of all.
  std::vector<double> uses(static_cast<size_t>(settings.n_experts));
  std::vector<double> wrong(uses.size());
  for (int64_t token = 0; token < trace.n_tokens(); ++token) {
    for (size_t i = 0; i < static_cast<size_t>(settings.top_k); ++i) {
      ++uses[static_cast<size_t>(trace.ids_of(token, 1)[i])];
      ++wrong[static_cast<size_t>(trace.predicted_of(token, 0, 1)[i])];
    }
  }
  const double mean = std::accumulate(uses.begin(), uses.end(), 0.0) / settings.n_experts;
  const double weighted = std::inner_product(uses.begin(), uses.end(), wrong.begin(), 0.0) /
                          std::accumulate(wrong.begin(), wrong.end(), 0.0);
  CHECK(weighted > 1.2 * mean);
}

TEST_CASE("predictions and further steps do not change the routes") {
  SyntheticTraceSettings settings = small_settings();
  const Trace trace = make_synthetic_trace(settings);
  settings.predictability = 0.1;
  settings.n_ahead = 1;
  const Trace other = make_synthetic_trace(settings);
  CHECK(trace.ids == other.ids);
  CHECK(trace.weights == other.weights);
  settings.n_sequences = 1;
  settings.n_decode += 100;
  const Trace longer = make_synthetic_trace(settings);
  const size_t n = trace.ids.size() / 2;  // of the first sequence
  CHECK(std::equal(trace.ids.begin(), trace.ids.begin() + static_cast<ptrdiff_t>(n),
                   longer.ids.begin()));
}

}  // namespace
}  // namespace tandem::test
