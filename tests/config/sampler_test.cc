// The sampler against the definition of its settings, by brute force in double precision.
#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

using Logits = std::vector<float>;

// Everything off: draws from the softmax of the logits.
SamplingSettings plain() {
  SamplingSettings s;
  s.temperature = 1;
  s.top_k = 0;
  s.top_p = 1;
  s.min_p = 0;
  return s;
}

SamplingSettings greedy() {
  SamplingSettings s = plain();
  s.temperature = 0;
  return s;
}

Sampler sampler(const SamplingSettings& settings, size_t n_vocab) {
  return {settings, static_cast<int64_t>(n_vocab), 16};
}

std::vector<double> softmax(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(logits.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits[i] - top);
  for (double& x : p) x /= sum;
  return p;
}

// The tokens that the filters leave: the top k; of these, renormalised, the fewest that reach p;
// of these, those with at least min_p of the best one's probability.
std::set<int> kept(const SamplingSettings& s, const Logits& logits) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int i) { return logits[static_cast<size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return at(a) > at(b); });
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < order.size()) {
    order.resize(static_cast<size_t>(s.top_k));
  }
  std::vector<double> sorted;
  for (const int i : order) sorted.push_back(at(i));
  const std::vector<double> p = softmax(sorted);
  std::set<int> out;
  double before = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const bool in_top_p = s.top_p >= 1 || i == 0 || before < double{s.top_p};
    const bool in_min_p = s.min_p <= 0 || i == 0 || p[i] >= double{s.min_p} * p[0];
    if (in_top_p && in_min_p) out.insert(order[i]);
    before += p[i];
  }
  return out;
}

// The tokens that are ever drawn. So hot that all that the filters left are about as likely.
std::set<int> drawn(SamplingSettings s, const Logits& logits) {
  s.temperature = 1e4F;
  std::set<int> out;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    s.seed = seed;
    Sampler one = sampler(s, logits.size());
    for (int i = 0; i < 200; ++i) out.insert(one.sample(logits));
  }
  return out;
}

Logits random_logits(std::mt19937& random, size_t n) {
  std::normal_distribution<float> normal(0, 2);
  Logits out(n);
  for (float& x : out) x = normal(random);
  return out;
}

// Draws n times and gives the chi-square distance to the wanted probabilities.
double distance(const SamplingSettings& s, const Logits& logits, const std::vector<double>& want) {
  constexpr int kDraws = 40000;
  Sampler one = sampler(s, logits.size());
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(one.sample(logits))];
  double sum = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double expected = kDraws * want[i];
    if (expected == 0) {
      CHECK(counts[i] == 0);
      continue;
    }
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

TEST_CASE("greedy sampling picks the largest logit") {
  std::mt19937 random(1);
  for (int i = 0; i < 100; ++i) {
    const Logits logits = random_logits(random, 50);
    CHECK(sampler(greedy(), 50).sample(logits) ==
          std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
}

TEST_CASE("greedy sampling picks the lowest id of equals") {
  CHECK(sampler(greedy(), 4).sample(Logits{1, 5, 5, 5}) == 1);
  CHECK(sampler(greedy(), 3).sample(Logits{-2, -2, -2}) == 0);
}

TEST_CASE("greedy sampling ignores seed, top-k, top-p and min-p") {
  SamplingSettings s = greedy();
  s.seed = 99;
  s.top_k = 2;
  s.top_p = 0.1F;
  s.min_p = 0.9F;
  CHECK(sampler(s, 3).sample(Logits{0, 1, 2}) == 2);
}

TEST_CASE("a negative temperature is greedy") {
  SamplingSettings s = greedy();
  s.temperature = -1;
  CHECK(sampler(s, 3).sample(Logits{0, 2, 1}) == 1);
}

TEST_CASE("top-k draws exactly the k most likely tokens") {
  std::mt19937 random(2);
  for (const int k : {1, 2, 5, 11, 12, 40}) {
    SamplingSettings s = plain();
    s.top_k = k;
    const Logits logits = random_logits(random, 12);
    CHECK(drawn(s, logits) == kept(s, logits));
    CHECK(kept(s, logits).size() == static_cast<size_t>(std::min(k, 12)));
  }
}

TEST_CASE("of equals top-k keeps the lower ids") {
  SamplingSettings s = plain();
  s.top_k = 2;
  CHECK(drawn(s, Logits{1, 3, 3, 3}) == std::set<int>{1, 2});
}

TEST_CASE("a top-k of zero or less keeps every token") {
  for (const int k : {0, -1}) {
    SamplingSettings s = plain();
    s.top_k = k;
    CHECK(drawn(s, Logits{0, 1, 2, 3}).size() == 4);
  }
}

TEST_CASE("top-p draws exactly the fewest tokens that reach p") {
  std::mt19937 random(3);
  for (const float p : {0.0F, 0.1F, 0.5F, 0.9F, 0.95F, 0.999F, 1.0F}) {
    for (int i = 0; i < 5; ++i) {
      SamplingSettings s = plain();
      s.top_p = p;
      const Logits logits = random_logits(random, 12);
      CHECK(drawn(s, logits) == kept(s, logits));
    }
  }
}

TEST_CASE("min-p draws exactly the tokens with that share of the best one's probability") {
  std::mt19937 random(4);
  for (const float p : {0.0F, 0.01F, 0.05F, 0.3F, 0.9F, 1.0F}) {
    for (int i = 0; i < 5; ++i) {
      SamplingSettings s = plain();
      s.min_p = p;
      const Logits logits = random_logits(random, 12);
      CHECK(drawn(s, logits) == kept(s, logits));
    }
  }
}

TEST_CASE("top-k, top-p and min-p together draw exactly what they leave in this order") {
  std::mt19937 random(5);
  for (int i = 0; i < 60; ++i) {
    SamplingSettings s = plain();
    s.top_k = 1 + i % 10;
    s.top_p = 0.5F + 0.05F * static_cast<float>(i % 10);
    s.min_p = 0.03F * static_cast<float>(i % 7);
    const Logits logits = random_logits(random, 12);
    CAPTURE(s.top_k, s.top_p, s.min_p);
    CHECK(drawn(s, logits) == kept(s, logits));
  }
}

TEST_CASE("the filters look at probabilities before the temperature") {
  SamplingSettings s = plain();
  s.top_p = 0.6F;  // the first token has 0.73 at temperature 1, and next to nothing at 10000
  CHECK(drawn(s, Logits{2, 1, -5}) == std::set<int>{0});
}

// Bounds on chi-square are the 99.99 % points for 5 degrees of freedom; the seed is fixed.
TEST_CASE("tokens are drawn as often as the softmax says") {
  const Logits logits{0, 1, 2, -1, 0.5F, 1.5F};
  CHECK(distance(plain(), logits, softmax({0, 1, 2, -1, 0.5, 1.5})) < 25.7);
}

TEST_CASE("logits are divided by the temperature before the draw") {
  const Logits logits{0, 1, 2, -1, 0.5F, 1.5F};
  for (const float t : {0.5F, 1.5F, 4.0F}) {
    SamplingSettings s = plain();
    s.temperature = t;
    std::vector<double> scaled;
    for (const float x : logits) scaled.push_back(double{x} / double{t});
    CHECK(distance(s, logits, softmax(scaled)) < 25.7);
  }
}

TEST_CASE("what is left after the filters is drawn in proportion") {
  SamplingSettings s = plain();
  s.top_k = 2;
  const double p = 1 / (1 + std::exp(-1.0));
  CHECK(distance(s, Logits{1, 2, 0, -1}, {1 - p, p, 0, 0}) < 15.1);  // 1 degree of freedom
}

TEST_CASE("a temperature close to zero picks the most likely token") {
  for (const float t : {1e-3F, 1e-20F, 1e-38F, 1e-45F}) {
    SamplingSettings s = plain();
    s.temperature = t;
    Sampler one = sampler(s, 4);
    for (int i = 0; i < 20; ++i) CHECK(one.sample(Logits{-9, 12, 30, 20}) == 2);
  }
}

TEST_CASE("the same seed draws the same tokens, another seed others") {
  std::mt19937 random(6);
  const Logits logits = random_logits(random, 100);
  const auto tokens = [&](uint32_t seed) {
    SamplingSettings s = plain();
    s.seed = seed;
    Sampler one = sampler(s, 100);
    std::vector<int32_t> out;
    for (int i = 0; i < 50; ++i) out.push_back(one.sample(logits));
    return out;
  };
  CHECK(tokens(7) == tokens(7));
  CHECK(tokens(7) != tokens(8));
}

// The token that greedy sampling picks after `accepted`.
int32_t after(float penalty, int32_t last_n, const std::vector<int32_t>& accepted,
              const Logits& logits) {
  SamplingSettings s = greedy();
  s.repeat_penalty = penalty;
  s.repeat_last_n = last_n;
  Sampler one = sampler(s, logits.size());
  for (const int32_t token : accepted) one.accept(token);
  return one.sample(logits);
}

TEST_CASE("a repeated token's positive logit is divided by the penalty") {
  CHECK(after(2, 64, {0}, {4, 1.9F}) == 0);  // 2 against 1.9
  CHECK(after(2, 64, {0}, {4, 2.1F}) == 1);
}

TEST_CASE("a repeated token's negative logit is multiplied by the penalty") {
  CHECK(after(2, 64, {0}, {-1, -2.1F}) == 0);  // -2 against -2.1
  CHECK(after(2, 64, {0}, {-1, -1.9F}) == 1);
}

TEST_CASE("a token that was repeated often is penalised once") {
  CHECK(after(2, 64, {0, 0, 0}, {4, 1.9F}) == 0);
}

TEST_CASE("the penalty forgets tokens further back than repeat-last-n") {
  const Logits logits{4, 3, 0, 0};
  CHECK(after(2, 2, {0, 2}, logits) == 1);
  CHECK(after(2, 2, {0, 2, 3}, logits) == 0);
  CHECK(after(2, 2, {0, 2, 3, 2, 3, 2, 3}, logits) == 0);
}

TEST_CASE("a repeat-last-n of zero penalises nothing, minus one the whole context") {
  const Logits logits{4, 3, 0, 0};
  CHECK(after(2, 0, {0}, logits) == 0);
  std::vector<int32_t> long_ago(16, 2);  // the context is 16 long
  long_ago[0] = 0;
  CHECK(after(2, -1, long_ago, logits) == 1);
}

TEST_CASE("a penalty of one changes nothing") { CHECK(after(1, 64, {0}, {4, 3.9F}) == 0); }

TEST_CASE("a penalty changes one draw's logits, not the next") {
  SamplingSettings s = greedy();
  s.repeat_penalty = 2;
  s.repeat_last_n = 1;
  Sampler one = sampler(s, 2);
  one.accept(0);
  CHECK(one.sample(Logits{4, 3}) == 1);
  one.accept(1);
  CHECK(one.sample(Logits{4, 3}) == 0);
}

TEST_CASE("the penalty comes before top-k") {
  SamplingSettings s = plain();
  s.repeat_penalty = 2;
  s.top_k = 1;
  Sampler one = sampler(s, 2);
  one.accept(0);
  for (int i = 0; i < 20; ++i) CHECK(one.sample(Logits{4, 3}) == 1);
}

TEST_CASE("a vocabulary of one token always gives that token") {
  SamplingSettings s;
  Sampler one = sampler(s, 1);
  for (const float logit : {0.0F, -1e30F, 1e30F}) CHECK(one.sample(Logits{logit}) == 0);
}

TEST_CASE("logits of another vocabulary fail a check") {
  Sampler one = sampler(plain(), 3);
  CHECK(dies([&] { one.sample(Logits{1, 2}); }, "2 logits, 3 tokens"));
}

}  // namespace
}  // namespace tandem::test
