#include "runtime/pregate/decoupled_router.h"

#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "tests/support/catch.h"
#include "tests/support/counted_new.h"
#include "tests/support/decoupled_reference.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

// Sides that no vector width divides.
DecoupledShape odd_shape() {
  DecoupledShape shape;
  shape.n_vocab = 37;
  shape.width = 42;
  shape.n_heads = 3;
  shape.n_blocks = 2;
  shape.ff = 53;
  shape.n_experts = 7;
  shape.n_layers = 5;
  shape.rope_base = 100;
  shape.attention_scale = 0.7F;
  shape.window = 9;
  return shape;
}

DecoupledShape even_shape() {
  DecoupledShape shape;
  shape.n_vocab = 64;
  shape.width = 64;
  shape.n_heads = 2;
  shape.ff = 128;
  shape.n_experts = 8;
  shape.n_layers = 2;
  return shape;
}

std::vector<float> logits_at_once(const DecoupledRouter& router, std::span<const int32_t> tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  DecoupledState state(router, n, n);
  const auto logits = state.append(tokens);
  return {logits.begin(), logits.end()};
}

// To the bit, so that -0 is not 0.
bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Each task on a thread of its own, the last first.
void backwards_for(int64_t n_tasks, Task task) {
  std::vector<std::thread> threads;
  for (int64_t i = n_tasks - 1; i >= 0; --i) threads.emplace_back([&task, i] { task(i); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_CASE("a decoupled router says what float64 says") {
  for (const DecoupledShape& shape : {odd_shape(), even_shape()}) {
    const DecoupledRouter router = made_up_router(shape, 3);
    const std::vector<int32_t> tokens = random_tokens(45, shape.n_vocab, 4);
    const std::vector<float> logits = logits_at_once(router, tokens);
    const std::vector<Doubles> expected = reference_logits(router, tokens);
    const auto n_experts = static_cast<size_t>(shape.n_experts);
    REQUIRE(logits.size() == tokens.size() * n_experts);
    double worst = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double got = static_cast<double>(logits[i]);
      worst = std::max(worst, std::abs(got - expected[i / n_experts][i % n_experts]));
    }
    CHECK(worst < 2e-5);
  }
}

TEST_CASE("a decoupled router's logits are the same however a text is cut") {
  std::mt19937 random(5);
  for (const DecoupledShape& shape : {odd_shape(), even_shape()}) {
    const DecoupledRouter router = made_up_router(shape, 6);
    const std::vector<int32_t> tokens = random_tokens(40, shape.n_vocab, 7);
    const std::vector<float> whole = logits_at_once(router, tokens);
    const auto n_experts = static_cast<size_t>(shape.n_experts);
    for (int trial = 0; trial < 30; ++trial) {
      const size_t most = trial == 0 ? 1 : 1 + random() % tokens.size();
      DecoupledState state(router, std::ssize(tokens), std::ssize(tokens));
      for (size_t at = 0; at < tokens.size();) {
        const size_t n = std::min(1 + random() % most, tokens.size() - at);
        const auto part = state.append(std::span(tokens).subspan(at, n));
        REQUIRE(same_bits(part, std::span(whole).subspan(at * n_experts, n * n_experts)));
        at += n;
        REQUIRE(state.n_tokens() == static_cast<int64_t>(at));
      }
    }
  }
}

TEST_CASE("a decoupled router's logits do not depend on what was rewound") {
  const DecoupledRouter router = made_up_router(odd_shape(), 8);
  const std::vector<int32_t> tokens = random_tokens(30, router.shape.n_vocab, 9);
  const std::vector<float> whole = logits_at_once(router, tokens);
  const auto n_experts = static_cast<size_t>(router.shape.n_experts);
  DecoupledState state(router, std::ssize(tokens), std::ssize(tokens));
  for (const size_t keep : {size_t{0}, size_t{1}, size_t{17}, size_t{29}}) {
    state.rewind(0);
    state.append(std::span(tokens).first(keep));
    state.append(random_tokens(std::ssize(tokens) - static_cast<int64_t>(keep),
                               router.shape.n_vocab, 10));  // drafted, then refused
    state.rewind(static_cast<int64_t>(keep));
    const auto rest = state.append(std::span(tokens).subspan(keep));
    CHECK(same_bits(rest, std::span(whole).subspan(keep * n_experts)));
  }
}

TEST_CASE("a decoupled router's logits do not depend on threads") {
  const DecoupledRouter router = made_up_router(odd_shape(), 11);
  const std::vector<int32_t> tokens = random_tokens(20, router.shape.n_vocab, 12);
  DecoupledState state(router, 20, 20);
  CHECK(same_bits(state.append(tokens, backwards_for), logits_at_once(router, tokens)));
}

TEST_CASE("a decoupled router hears of every token of its text") {
  const DecoupledRouter router = made_up_router(even_shape(), 13);
  std::vector<int32_t> tokens = random_tokens(12, router.shape.n_vocab, 14);
  const std::vector<float> before = logits_at_once(router, tokens);
  tokens[3] = (tokens[3] + 1) % router.shape.n_vocab;
  const std::vector<float> after = logits_at_once(router, tokens);
  const auto n_experts = static_cast<size_t>(router.shape.n_experts);
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto row = [&](const std::vector<float>& all) {
      return std::span(all).subspan(t * n_experts, n_experts);
    };
    CHECK(same_bits(row(before), row(after)) == (t < 3));
  }
}

TEST_CASE("a decoupled router at work allocates nothing") {
  if (!kCountsAllocations) return;
  const DecoupledRouter router = made_up_router(odd_shape(), 17);
  const std::vector<int32_t> tokens = random_tokens(20, router.shape.n_vocab, 18);
  DecoupledState state(router, 20, 15);
  const int64_t before = allocation_count;
  state.append(std::span(tokens).first(15));
  state.rewind(10);
  for (size_t t = 10; t < 20; ++t) state.append(std::span(tokens).subspan(t, 1));
  CHECK(allocation_count == before);
}

TEST_CASE("a decoupled router at work is not handed what it has no room for") {
  const DecoupledRouter router = made_up_router(even_shape(), 19);
  const std::vector<int32_t> tokens(5, 1);
  DecoupledState state(router, 4, 3);
  CHECK(dies([&] { state.append(std::span(tokens).first(4)); }, "4 tokens behind 0"));
  state.append(std::span(tokens).first(3));
  CHECK(dies([&] { state.append(std::span(tokens).first(2)); }, "2 tokens behind 3"));
  CHECK(dies([&] { state.rewind(4); }, "4 of 3 tokens"));
  const std::vector<int32_t> unknown{router.shape.n_vocab};
  CHECK(dies([&] { state.append(unknown); }, "token 64 of 64"));
}

TEST_CASE("a decoupled router that lacks numbers is not put to work") {
  DecoupledRouter router = made_up_router(even_shape(), 22);
  router.blocks[0].w1.pop_back();
  CHECK(dies([&] { DecoupledState(router, 4, 4); }, "router.blk.0.w1 has 8191 values"));
  router = made_up_router(even_shape(), 22);
  router.blocks.emplace_back();
  CHECK(dies([&] { DecoupledState(router, 4, 4); }, "2 blocks"));
}

TEST_CASE("a decoupled router of one block looks back no further than its window") {
  DecoupledShape shape = even_shape();
  shape.window = 4;
  const DecoupledRouter router = made_up_router(shape, 20);
  std::vector<int32_t> tokens = random_tokens(12, shape.n_vocab, 21);
  const std::vector<float> before = logits_at_once(router, tokens);
  tokens[3] = (tokens[3] + 1) % shape.n_vocab;
  const std::vector<float> after = logits_at_once(router, tokens);
  const auto n_experts = static_cast<size_t>(shape.n_experts);
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto row = [&](const std::vector<float>& all) {
      return std::span(all).subspan(t * n_experts, n_experts);
    };
    CHECK(same_bits(row(before), row(after)) == (t < 3 || t > 6));
  }
}

TEST_CASE("appending nothing to a decoupled router changes nothing") {
  const DecoupledRouter router = made_up_router(even_shape(), 15);
  DecoupledState state(router, 4, 4);
  CHECK(state.append({}).empty());
  CHECK(state.n_tokens() == 0);
}

TEST_CASE("shapes that no decoupled router can have are named") {
  const auto fault = [](auto change) {
    DecoupledShape shape = odd_shape();
    change(&shape);
    return decoupled_shape_fault(shape);
  };
  CHECK(fault([](DecoupledShape*) {}).empty());
  CHECK(fault([](DecoupledShape* s) { s->width = 0; }) == "width: expected 2 to 16384, got 0");
  CHECK(fault([](DecoupledShape* s) { s->n_heads = 4; }) ==
        "width: expected a multiple of twice the 4 heads, got 42");
  CHECK(fault([](DecoupledShape* s) { s->n_heads = -3; }) == "heads: expected 1 to 21, got -3");
  CHECK(fault([](DecoupledShape* s) { s->top_k = 8; }) == "top_k: expected 1 to 7, got 8");
  CHECK(fault([](DecoupledShape* s) { s->attention_scale = 0; }) ==
        "attention_scale: expected more than 0 and at most 1000000, got 0");
  CHECK(fault([](DecoupledShape* s) {
          s->rope_base = std::numeric_limits<float>::quiet_NaN();
        }).starts_with("rope_base: expected 1 to "));
}

TEST_CASE("the hash of a decoupled router is of every number in it") {
  const DecoupledRouter router = made_up_router(odd_shape(), 16);
  const std::string hash = decoupled_hash(router);
  CHECK(hash.size() == 64);
  size_t n_tensors = 0;
  for_each_decoupled_tensor(router, [&](const auto&, const auto&, const auto&) { ++n_tensors; });
  CHECK(n_tensors == 1 + 2 * 13 + 2);
  for (size_t changed = 0; changed < n_tensors; ++changed) {
    DecoupledRouter other = router;
    size_t i = 0;
    for_each_decoupled_tensor(other, [&](const auto&, const auto&, auto& values) {
      if (i++ == changed) values.back() += 1;
    });
    CHECK(decoupled_hash(other) != hash);
  }
  DecoupledRouter other = router;
  other.model.append("called otherwise");
  CHECK(decoupled_hash(other) == hash);
  other.shape.top_k = 2;
  CHECK(decoupled_hash(other) != hash);
  other = router;
  other.shape.attention_scale = 1;
  CHECK(decoupled_hash(other) != hash);
  other = router;
  other.shape.window = 0;
  CHECK(decoupled_hash(other) != hash);
}

}  // namespace tandem::test
