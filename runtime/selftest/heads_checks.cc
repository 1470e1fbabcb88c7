// prepare_heads.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/elementwise.h"
#include "kernels/kv_cache.h"
#include "kernels/packed.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

constexpr int kHeads = 4;
constexpr int kKvHeads = 2;
constexpr float kEps = 1e-6F;

// A model's way with heads; 0 tokens behind the first are in the next tile of the cache.
struct Shape {
  KvType type;
  int dim;
  int v_dim;
  int n_rot;
  RopeStyle style;
  bool norm;
  bool whole;   // all heads of a token together
  float limit;  // 0: none
  int first_pos;
  int n;

  KvShape kv() const { return {type, type, kKvHeads, dim, v_dim}; }
  int width(int heads) const { return !norm ? 0 : whole ? heads * dim : dim; }
};

// A value and what roundings may make of it.
struct Value {
  double expected;
  double tolerance;
};

// The heads of a token's queries or keys in float64: norm, limit, rotation. A norm's roundings are
// those of residual_checks.cc; the rotation is two products and a sum.
std::vector<Value> prepared(const Shape& s, const float* row, int heads, const float* gain,
                            const float* table) {
  const int width = s.width(heads);
  std::vector<double> x;
  std::vector<double> error;
  for (int i = 0; i < heads * s.dim; ++i) {
    double value = row[i];
    double off = 0;
    if (width > 0) {
      const float* group = row + i / width * width;
      const double mean = dot(group, group, width).sum / width;
      value *= gain[i % width] / std::sqrt(mean + kEps);
      off = (width / 2.0 + 8) * kRounding / 2 * std::abs(value);
    }
    if (s.limit > 0 && std::abs(value) > s.limit) value = std::copysign(s.limit, value);
    x.push_back(value);
    error.push_back(off);
  }
  std::vector<Value> out;
  const bool halves = s.style == RopeStyle::kHalves;
  const int half = s.n_rot / 2;
  for (int i = 0; i < heads * s.dim; ++i) {
    const int in_head = i % s.dim;
    const auto begin = static_cast<size_t>(i - in_head);
    if (in_head >= s.n_rot) {
      out.push_back({x[at(i)], error[at(i)]});
      continue;
    }
    const int pair = halves ? in_head % half : in_head / 2;
    const size_t a = begin + at(halves ? pair : 2 * pair);
    const size_t b = begin + at(halves ? pair + half : 2 * pair + 1);
    const double cosine = table[pair];
    const double sine = table[half + pair];
    const bool second = halves ? in_head >= half : in_head % 2 != 0;
    out.push_back({second ? x[a] * sine + x[b] * cosine : x[a] * cosine - x[b] * sine,
                   error[a] + error[b] + 2 * kRounding * (std::abs(x[a]) + std::abs(x[b]))});
  }
  return out;
}

// Rows of the cache's matrices, as the host's own view of the layout has them: a position's key.
std::vector<float> cached_key(const KvView& cache, int64_t tile, int64_t head, int64_t position) {
  const WeightView keys = cache.keys(tile, head);
  WeightView whole = keys;
  whole.cols += whole.cols % 2;  // unpack_row() gives whole dwords
  std::vector<std::byte> bytes(static_cast<size_t>(whole.row_bytes()));
  unpack_row(whole, position, bytes.data());
  std::vector<float> out(static_cast<size_t>(keys.cols));
  dequantize(keys.type, bytes.data(), out.data(), keys.cols);
  return out;
}

// Element i of a position's value.
float cached_value(const KvView& cache, int64_t tile, int64_t head, int64_t position, int64_t i) {
  if (cache.shape.type_v != KvType::kQ8_0) {
    const WeightView values = cache.values(tile, head, kKvTile);
    std::vector<std::byte> bytes(static_cast<size_t>(values.row_bytes()));
    unpack_row(values, i, bytes.data());
    float value = 0;
    dequantize(values.type, bytes.data() + position * dtype_info(values.type).block_bytes, &value,
               1);
    return value;
  }
  const Q8Values values = cache.q8_values(tile, head);
  const int64_t block = i / Q8Values::kRows;
  const int64_t row = i % Q8Values::kRows;
  uint16_t scale = 0;
  std::memcpy(&scale, values.scales(block) + 2 * position, sizeof scale);
  const std::byte q = values.groups(block)[row / kGroupRows * Q8Values::kGroupBytes +
                                           position / 4 * 64 + row % kGroupRows * 4 + position % 4];
  return f16_to_f32(scale) * static_cast<float>(static_cast<int8_t>(q));
}

// What storing adds to the tolerance of x[i]. f16 rounds by half a unit of 2^-10, and what is just
// beside a step may fall to either side. q8_0 by half of its scale, and rounds that as f16 does:
// 127 / 2048 of it for the largest.
double stored_tolerance(KvType type, const std::vector<Value>& x, size_t i) {
  const auto most = [](const Value& v) { return std::abs(v.expected) + v.tolerance; };
  double tolerance = x[i].tolerance + 1e-30;
  if (type == KvType::kF16) tolerance += std::abs(x[i].expected) / 1024 + 6e-8;
  if (type == KvType::kQ8_0) {
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(i / 32 * 32);
    double largest = 0;
    for (auto v = begin; v != begin + 32; ++v) largest = std::max(largest, most(*v));
    tolerance += largest / 127 * (0.5 + 127.0 / 2048) * (1 + 1e-5) + 127 * 6e-8;
  }
  return tolerance;
}

struct Run {
  Shape shape;
  std::vector<float> q, k, v, q_gain, k_gain, table;

  explicit Run(const Shape& s) : shape(s) {
    Random random(static_cast<uint32_t>(s.dim + s.n));
    q = random.floats(int64_t{s.n} * kHeads * s.dim, 2);
    k = random.floats(int64_t{s.n} * kKvHeads * s.dim, 2);
    v = random.floats(int64_t{s.n} * kKvHeads * s.v_dim, 2);
    q_gain = random.floats(kHeads * s.dim, 2);
    k_gain = random.floats(kKvHeads * s.dim, 2);
    table.resize(at(int64_t{s.n} * s.n_rot));
    RopeParams params;
    params.style = s.style;
    params.n_rot = s.n_rot;
    if (s.n_rot > 0) rope_table(params, s.first_pos, s.n, table.data());
  }

  void check(const OpContext& c, DeviceMemory& memory, Comparison& comparison) const {
    const Shape& s = shape;
    const int n_positions = s.first_pos + s.n;
    const auto q_at = memory.put(q);
    const auto k_at = memory.put(k);
    const auto v_at = memory.put(v);
    const auto q_gain_at = memory.put(q_gain);
    const auto k_gain_at = memory.put(k_gain);
    const auto table_at = memory.put(table);
    const auto out_at = memory.room<float>(static_cast<int64_t>(q.size()));
    // 4-byte aligned is what a cache must be.
    const auto cache_k = memory.room<uint8_t>(s.kv().k_bytes(n_positions), 4);
    const auto cache_v = memory.room<uint8_t>(s.kv().v_bytes(n_positions), 4);
    memory.run("prepare_heads", [&](const KernelScope& scope) {
      c.ops.prepare_heads(
          scope.stream(),
          {q_at.in(scope), k_at.in(scope), v_at.in(scope), s.norm ? q_gain_at.in(scope) : nullptr,
           s.norm ? k_gain_at.in(scope) : nullptr, s.width(kHeads), s.width(kKvHeads), kEps,
           s.limit, table_at.in(scope), s.n_rot, s.style == RopeStyle::kHalves, kHeads, s.first_pos,
           out_at.in(scope)},
          {s.type, s.type, kKvHeads, s.dim, s.v_dim, cache_k.in(scope), cache_v.in(scope)}, s.n);
    });
    std::vector<uint8_t> got_k = memory.get(cache_k);
    std::vector<uint8_t> got_v = memory.get(cache_v);
    const KvView view{s.kv(), reinterpret_cast<std::byte*>(got_k.data()),
                      reinterpret_cast<std::byte*>(got_v.data())};
    compare(memory.get(out_at), view, &comparison);
  }

 private:
  void compare(const std::vector<float>& got_q, const KvView& cache, Comparison* comparison) const {
    const Shape& s = shape;
    for (int64_t t = 0; t < s.n; ++t) {
      const float* turns = table.data() + t * s.n_rot;
      const auto queries = prepared(s, q.data() + t * kHeads * s.dim, kHeads, q_gain.data(), turns);
      for (int64_t i = 0; i < kHeads * s.dim; ++i) {
        comparison->add(t, i, got_q[at(t * kHeads * s.dim + i)], queries[at(i)].expected,
                        queries[at(i)].tolerance + 1e-30);
      }
      const auto keys =
          prepared(s, k.data() + t * kKvHeads * s.dim, kKvHeads, k_gain.data(), turns);
      const int64_t tile = (s.first_pos + t) / kKvTile;
      const int64_t in_tile = (s.first_pos + t) % kKvTile;
      for (int h = 0; h < kKvHeads; ++h) {
        const std::vector<float> key = cached_key(cache, tile, h, in_tile);
        for (int i = 0; i < s.dim; ++i) {
          const size_t of_all = at(h * s.dim + i);
          comparison->add(t, h * s.dim + i, key[at(i)], keys[of_all].expected,
                          stored_tolerance(s.type, keys, of_all));
        }
        std::vector<Value> values;
        for (int i = 0; i < s.v_dim; ++i) {
          double value = v[at((t * kKvHeads + h) * s.v_dim + i)];
          if (s.limit > 0) value = std::clamp<double>(value, -s.limit, s.limit);
          values.push_back({value, 0});
        }
        for (int i = 0; i < s.v_dim; ++i) {
          comparison->add(t, h * s.v_dim + i, cached_value(cache, tile, h, in_tile, i),
                          values[at(i)].expected, stored_tolerance(s.type, values, at(i)));
        }
      }
    }
  }
};

void check_of(const OpContext& c, const Shape& s) {
  const std::string text =
      fmt::format("{} at {}, heads of {} and {}, {} turn ({}){}{}", tokens_text(s.n), s.first_pos,
                  s.dim, s.v_dim, s.n_rot, s.style == RopeStyle::kHalves ? "halves" : "pairs",
                  !s.norm   ? ""
                  : s.whole ? ", norm of all"
                            : ", norm of each",
                  s.limit > 0 ? ", limit" : "");
  const Run run(s);
  c.check("prepare_heads", kv_type_name(s.type), text,
          [&](DeviceMemory& memory, Comparison& comparison) { run.check(c, memory, comparison); });
}

// NaN stays NaN behind a limit, and infinity becomes it.
void check_not_finite(const OpContext& c) {
  Run run({KvType::kF32, 8, 8, 0, RopeStyle::kHalves, false, false, 1.0F, 0, 1});
  run.q[3] = std::numeric_limits<float>::quiet_NaN();
  run.q[4] = std::numeric_limits<float>::infinity();
  c.check("prepare_heads", "f32", "NaN and infinity, limit",
          [&](DeviceMemory& memory, Comparison& comparison) {
            const auto q = memory.put(run.q);
            const auto out = memory.room<float>(static_cast<int64_t>(run.q.size()));
            memory.run("prepare_heads", [&](const KernelScope& scope) {
              gpu::PreparedHeads call{};
              call.q = q.in(scope);
              call.limit = 1;
              call.n_heads = kHeads;
              call.q_out = out.in(scope);
              c.ops.prepare_heads(scope.stream(), call,
                                  {KvType::kF32, KvType::kF32, 0, 8, 8, nullptr, nullptr}, 1);
            });
            const std::vector<float> got = memory.get(out);
            comparison.add_exact(0, 3, got[3], run.q[3]);
            comparison.add_exact(0, 4, got[4], 1);
          });
}

}  // namespace

void check_prepare_heads(const OpContext& c) {
  constexpr KvType kF16 = KvType::kF16;
  constexpr KvType kF32 = KvType::kF32;
  constexpr KvType kQ8 = KvType::kQ8_0;
  constexpr RopeStyle kHalves = RopeStyle::kHalves;
  constexpr RopeStyle kPairs = RopeStyle::kInterleaved;
  check_of(c, {kF16, 128, 128, 128, kHalves, false, false, 0, 62, 4});
  check_of(c, {kF32, 80, 80, 16, kPairs, false, false, 0, 0, 9});
  check_of(c, {kF32, 64, 64, 64, kHalves, true, false, 0, 5, 3});
  check_of(c, {kF32, 24, 40, 24, kPairs, true, true, 1.5F, 63, 2});
  check_of(c, {kF16, 13, 7, 8, kHalves, false, false, 0.7F, 70, 1});
  check_of(c, {kQ8, 96, 64, 32, kHalves, true, false, 0, 61, 5});
  check_of(c, {kQ8, 32, 160, 32, kPairs, false, false, 0.7F, 130, 1});
  check_not_finite(c);
  if (c.large) check_of(c, {kF16, 128, 128, 128, kHalves, true, false, 0, 500, 130});
}

}  // namespace tandem
