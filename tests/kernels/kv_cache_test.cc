// What a KV cache in q8_0 holds, byte by byte, and that no type of cache hides what is not finite.
#include "kernels/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "kernels/attention.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/kernels/q8_blocks.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::IsaScope;
using testing::PlainQ8;
using testing::random_floats;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Block {
  uint16_t scale = 0;
  int8_t q[32] = {};
};

Block quantized(const std::vector<float>& x) {
  Block block;
  std::byte bytes[34];
  quantize_q8_0(x.data(), bytes);
  std::memcpy(&block.scale, bytes, sizeof block.scale);
  std::memcpy(block.q, bytes + 2, sizeof block.q);
  return block;
}

// Blocks of every size that f32 has, and a few that are special.
std::vector<std::vector<float>> blocks() {
  std::mt19937 rng(5);
  std::vector<std::vector<float>> all;
  for (int exponent = -149; exponent <= 120; ++exponent) {
    all.push_back(random_floats(rng, 32, std::ldexp(1.0F, exponent)));
  }
  all.emplace_back(32, 0.0F);
  all.emplace_back(32, -0.0F);
  all.emplace_back(32, -3.0F);
  std::vector<float> ties(32);
  for (int i = 0; i < 32; ++i) ties[static_cast<size_t>(i)] = static_cast<float>(i) + 0.5F;
  ties[31] = -127;  // a scale of 1: each of the others is halfway between two int8
  all.push_back(ties);
  std::vector<float> lone(32);
  lone[17] = -1e-30F;
  all.push_back(lone);
  return all;
}

}  // namespace

TEST_CASE("a block of q8_0 has the scale and the int8 that its formula gives") {
  for (const std::vector<float>& x : blocks()) {
    const Block got = quantized(x);
    const PlainQ8 expected(x.data());
    INFO("first value " << x[0]);
    CHECK(got.scale == expected.scale);
    for (size_t i = 0; i < 32; ++i) CHECK(int{got.q[i]} == expected.q[i]);
  }
}

TEST_CASE("a block of q8_0 is as near to its values as its scale allows") {
  for (const std::vector<float>& x : blocks()) {
    const Block got = quantized(x);
    const double d = static_cast<double>(f16_to_f32(got.scale));
    if (!std::isfinite(d)) continue;
    double largest = 0;
    for (const float v : x) largest = std::max(largest, std::abs(static_cast<double>(v)));
    // Half a step, and f16's rounding of the scale: half a unit of 2^-10, or of 2^-24 where it has
    // no more digits.
    const double bound = largest / 127 * (0.5 + 1e-5) + 127 * std::max(d / 2048, 0x1p-25);
    for (size_t i = 0; i < 32; ++i) {
      REQUIRE(std::abs(static_cast<double>(x[i]) - d * got.q[i]) <= bound);
    }
  }
}

TEST_CASE("a value that is not finite makes the scale of its block NaN") {
  std::mt19937 rng(6);
  for (const float bad : {kNan, -kNan, kInf, -kInf}) {
    for (const size_t place : {0, 13, 31}) {
      std::vector<float> x = random_floats(rng, 32);
      x[place] = bad;
      CHECK(std::isnan(f16_to_f32(quantized(x).scale)));
    }
  }
  // Larger than an f16 times 127.
  CHECK(f16_to_f32(quantized(std::vector<float>(32, 1e9F)).scale) == kInf);
}

TEST_CASE("a cache in q8_0 has each block where its header says, and nothing else is written") {
  constexpr int64_t kHeads = 2;
  constexpr int64_t kFirst = 60;
  constexpr int64_t kN = 9;
  for (const auto& [k_dim, v_dim] : {std::pair{32, 96}, {160, 32}}) {
    std::mt19937 rng(static_cast<unsigned>(k_dim));
    const KvShape shape{KvType::kQ8_0, KvType::kQ8_0, kHeads, k_dim, v_dim};
    const std::vector<float> k = random_floats(rng, kN * kHeads * k_dim);
    const std::vector<float> v = random_floats(rng, kN * kHeads * v_dim);
    CHECK(shape.k_bytes(128) == 128 * kHeads * k_dim / 32 * 34);
    CHECK(shape.v_bytes(128) == 128 * kHeads * v_dim / 32 * 34);
    constexpr std::byte kUntouched{0xA5};
    std::vector<std::byte> cache_k(static_cast<size_t>(shape.k_bytes(128)), kUntouched);
    std::vector<std::byte> cache_v(static_cast<size_t>(shape.v_bytes(128)), kUntouched);
    const KvView cache{shape, cache_k.data(), cache_v.data()};
    for (int64_t h = 0; h < kHeads; ++h) kv_append(cache, h, k.data(), v.data(), kFirst, kN);

    std::set<int64_t> in_k;
    std::set<int64_t> in_v;
    const auto check = [](const std::vector<std::byte>& bytes, int64_t at, const void* expected,
                          int64_t n, std::set<int64_t>* seen) {
      REQUIRE(std::memcmp(bytes.data() + at, expected, static_cast<size_t>(n)) == 0);
      for (int64_t i = 0; i < n; ++i) REQUIRE(seen->insert(at + i).second);
    };
    for (int64_t t = 0; t < kN; ++t) {
      const int64_t tile = (kFirst + t) / 64;
      const int64_t in_tile = (kFirst + t) % 64;
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t b = 0; b < k_dim / 32; ++b) {
          const PlainQ8 block(k.data() + (t * kHeads + h) * k_dim + b * 32);
          // A group: 16 positions; its block: 16 scales, then eight lines of 16 dwords.
          const int64_t at = (tile * kHeads + h) * (k_dim / 32) * 34 * 64 +
                             in_tile / 16 * (k_dim / 32) * 544 + b * 544;
          check(cache_k, at + in_tile % 16 * 2, &block.scale, 2, &in_k);
          for (int64_t i = 0; i < 32; ++i) {
            const auto q = static_cast<int8_t>(block.q[i]);
            check(cache_k, at + 32 + i / 4 * 64 + in_tile % 16 * 4 + i % 4, &q, 1, &in_k);
          }
        }
        for (int64_t b = 0; b < v_dim / 32; ++b) {
          const PlainQ8 block(v.data() + (t * kHeads + h) * v_dim + b * 32);
          // 64 scales, then two groups of 16 rows: 16 lines of four positions each.
          const int64_t at = ((tile * kHeads + h) * (v_dim / 32) + b) * 34 * 64;
          check(cache_v, at + in_tile * 2, &block.scale, 2, &in_v);
          for (int64_t i = 0; i < 32; ++i) {
            const auto q = static_cast<int8_t>(block.q[i]);
            check(cache_v, at + 128 + i / 16 * 1024 + in_tile / 4 * 64 + i % 16 * 4 + in_tile % 4,
                  &q, 1, &in_v);
          }
        }
      }
    }
    for (size_t i = 0; i < cache_k.size(); ++i) {
      if (in_k.count(static_cast<int64_t>(i)) == 0) REQUIRE(cache_k[i] == kUntouched);
    }
    for (size_t i = 0; i < cache_v.size(); ++i) {
      if (in_v.count(static_cast<int64_t>(i)) == 0) REQUIRE(cache_v[i] == kUntouched);
    }
  }
}

namespace {

constexpr int64_t kTokens = 6;
constexpr int64_t kDim = 64;
constexpr int64_t kBad = 3;  // the position that has something which is not finite

// Attention of one head over tokens with `bad` in an element of position kBad's key or value.
std::vector<float> attended(KvType type, float bad, bool in_key, int64_t element) {
  std::mt19937 rng(8);
  const std::vector<float> q = random_floats(rng, kTokens * kDim);
  std::vector<float> k = random_floats(rng, kTokens * kDim);
  std::vector<float> v = random_floats(rng, kTokens * kDim);
  (in_key ? k : v)[static_cast<size_t>(kBad * kDim + element)] = bad;
  const KvShape shape{type, type, 1, kDim, kDim};
  std::vector<std::byte> cache_k(static_cast<size_t>(shape.k_bytes(kTokens)));
  std::vector<std::byte> cache_v(static_cast<size_t>(shape.v_bytes(kTokens)));
  std::vector<float> out(static_cast<size_t>(kTokens * kDim));
  Workspace scratch;
  attention({shape, cache_k.data(), cache_v.data()}, {q.data(), k.data(), v.data(), 0, kTokens}, 1,
            0.1F, out.data(), scratch, serial_for);
  return out;
}

bool any_not_finite(const std::vector<float>& out, int64_t token) {
  const auto row = out.begin() + token * kDim;
  return std::any_of(row, row + kDim, [](float f) { return !std::isfinite(f); });
}

}  // namespace

TEST_CASE("a key or value that is not finite shows in every token that sees it, and in no other") {
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
      for (const float bad : {kNan, kInf, -kInf, 1e9F}) {
        if (bad == 1e9F && type == KvType::kF32) continue;  // which has such numbers
        for (const bool in_key : {false, true}) {
          // An infinite score below all others is a weight of 0, rightly, where keys are floats.
          if (in_key && !std::isnan(bad)) continue;
          for (const int64_t element : {0, 40}) {
            INFO(ops->name << " " << kv_type_name(type) << " " << bad << " in a "
                           << (in_key ? "key" : "value"));
            const std::vector<float> out = attended(type, bad, in_key, element);
            for (int64_t t = 0; t < kTokens; ++t) CHECK(any_not_finite(out, t) == (t >= kBad));
          }
        }
      }
    }
  }
}

TEST_CASE("an infinite key in q8_0 is NaN, not a weight of 0") {
  for (const SimdOps* ops : all_isas()) {
    const IsaScope isa(ops);
    for (const float bad : {kInf, -kInf}) {
      const std::vector<float> out = attended(KvType::kQ8_0, bad, true, 5);
      for (int64_t t = 0; t < kTokens; ++t) CHECK(any_not_finite(out, t) == (t >= kBad));
    }
  }
}

}  // namespace tandem
