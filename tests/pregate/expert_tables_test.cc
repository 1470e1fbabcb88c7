#include "runtime/pregate/expert_tables.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/quant.h"
#include "runtime/pregate/text_lookup.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

std::vector<ExpertId> ids_of(const std::vector<int>& numbers) {
  std::vector<ExpertId> ids;
  ids.reserve(numbers.size());
  for (const int n : numbers) ids.push_back(ExpertId{n});
  return ids;
}

// Two layers of five experts, top 1: a row lists two.
ExpertTables small_tables() {
  ExpertTables t;
  t.n_experts = 5;
  t.top_k = 1;
  t.hot = {{0.2F, 0.2F, 0.2F, 0.2F, 0.2F}, {0.5F, 0.25F, 0.15F, 0.1F, 0}};
  t.tokens.ids = {7, 20};
  t.tokens.experts = {0, 1, 4, 3, 2, 0, 1, 2};
  t.tokens.use = {255, 0, 102, 51, 51, 51, 204, 0};
  return t;
}

}  // namespace

TEST_CASE("log-odds of use are those of the rate and what each used expert adds") {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  PairLink link;
  constexpr size_t kExperts = 37;
  for (size_t i = 0; i < kExperts * kExperts; ++i) link.adds.push_back(f32_to_f16(normal(rng)));
  std::vector<float> base(kExperts);
  for (float& b : base) b = normal(rng);
  std::vector<float> scores(kExperts);
  std::vector<float> scratch(kExperts);
  const std::vector<ExpertId> used = ids_of({5, 36, 0});
  pair_scores(link, base, used, scores, scratch);
  for (size_t e = 0; e < kExperts; ++e) {
    double sum = static_cast<double>(base[e]);
    for (const size_t row : {5, 36, 0}) {
      sum += static_cast<double>(f16_to_f32(link.adds[row * kExperts + e]));
    }
    CHECK(static_cast<double>(scores[e]) == Approx(sum).margin(1e-5));
  }
}

TEST_CASE("log-odds of a rate give it back, and those of nought and one are finite") {
  const std::vector<float> rates{0, 0.125F, 0.5F, 0.9F, 1};
  std::vector<float> odds(5);
  log_odds(rates, odds);
  for (size_t e = 1; e < 4; ++e) {
    const double p = 1 / (1 + std::exp(-static_cast<double>(odds[e])));
    CHECK(p == Approx(static_cast<double>(rates[e])));
  }
  CHECK(odds[0] < -5);
  CHECK(std::isfinite(odds[0]));
  CHECK(odds[4] > 5);
  CHECK(std::isfinite(odds[4]));
}

TEST_CASE("a token's experts are as likely as its row says, and the others share the rest") {
  const ExpertTables t = small_tables();
  CHECK(t.tokens.row(7) == 0);
  CHECK(t.tokens.row(20) == 1);
  std::vector<float> use(5);
  token_use(t, 1, t.tokens.row(7), use);
  CHECK(use[4] == Approx(0.4));
  CHECK(use[3] == Approx(0.2));
  // 0.4 is left for rates of 0.5, 0.25 and 0.15.
  CHECK(use[0] == Approx(0.4 * 0.5 / 0.9));
  CHECK(use[1] == Approx(0.4 * 0.25 / 0.9));
  CHECK(use[2] == Approx(0.4 * 0.15 / 0.9));
  token_use(t, 0, t.tokens.row(7), use);
  CHECK(use == std::vector<float>{1, 0, 0, 0, 0});
  token_use(t, 1, t.tokens.row(20), use);
  CHECK(use[1] == Approx(0.8));
  CHECK(use[2] == 0);
  CHECK(std::accumulate(use.begin(), use.end(), 0.0F) == Approx(1));
}

TEST_CASE("a token that is not known uses what is used most") {
  const ExpertTables t = small_tables();
  for (const int token : {-5, 0, 6, 8, 21, 1 << 30}) CHECK(t.tokens.row(token) == -1);
  std::vector<float> use(5);
  token_use(t, 1, -1, use);
  CHECK(use == t.hot[1]);
}

TEST_CASE("nobody becomes surer than sure of a rest, and no rest is shared where there is none") {
  std::vector<float> use{-1, -1, 0.5F};
  share_rest(std::vector<float>{0.9F, 0.1F, 0}, 2.5F, use);
  CHECK(use == std::vector<float>{1, 0.2F, 0.5F});
  use = {-1, 0.75F, 0.75F};
  share_rest(std::vector<float>{0.9F, 0.1F, 0}, 1, use);
  CHECK(use == std::vector<float>{0, 0.75F, 0.75F});
  use = {-1, 0.25F, 0.25F};
  share_rest(std::vector<float>{0, 0.1F, 0}, 1, use);
  CHECK(use == std::vector<float>{0, 0.25F, 0.25F});
}

TEST_CASE("the largest are those that a stable sort puts first") {
  std::mt19937 rng(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(1 + rng() % 40);
    for (float& v : values) v = static_cast<float>(rng() % 8);  // many ties
    std::vector<int32_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
    });
    std::vector<ExpertId> ids(1 + rng() % values.size());
    largest(values, ids);
    for (size_t i = 0; i < ids.size(); ++i) CHECK(ids[i].value == order[i]);
  }
}

namespace {

// By trying every length and place, the longest and the latest first.
TextMatch searched(const std::vector<int32_t>& text, int32_t most) {
  const auto n = static_cast<int64_t>(text.size());
  for (int64_t length = std::min<int64_t>(most, n - 1); length >= 1; --length) {
    for (int64_t at = n - length - 1; at >= 0; --at) {
      if (std::equal(text.end() - length, text.end(), text.begin() + at)) {
        return {static_cast<int32_t>(length), at + length};
      }
    }
  }
  return {};
}

}  // namespace

TEST_CASE("the longest match is the one that a search of all lengths and places finds") {
  std::mt19937 rng(8);
  int found = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> text(rng() % 40);
    const uint64_t n_words = 1 + rng() % 5;
    for (int32_t& token : text) token = static_cast<int32_t>(rng() % n_words);
    const auto most = static_cast<int32_t>(1 + rng() % 8);
    const TextMatch match = longest_match(text, most);
    const TextMatch expected = searched(text, most);
    REQUIRE(match.length == expected.length);
    REQUIRE(match.position == expected.position);
    found += match.length > 0 ? 1 : 0;
  }
  CHECK(found > 1000);
  CHECK(longest_match({}, 8).length == 0);
  CHECK(longest_match(std::vector<int32_t>{3}, 8).length == 0);
}

}  // namespace tandem::test
