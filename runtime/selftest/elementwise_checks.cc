// rms_norm, add, clamp and rope.
#include <fmt/format.h>

#include <limits>

#include "kernels/elementwise.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

// x * scale * gain: a sum of d squares has d roundings, of which a root halves what they do; 8:
// mean, eps, rsqrtf (two units in the last place), two products.
void compare_norm(const std::vector<float>& x, const std::vector<float>& gain, float eps,
                  const std::vector<float>& got, Comparison* comparison) {
  const auto d = static_cast<int64_t>(gain.size());
  const auto n = static_cast<int64_t>(x.size()) / d;
  for (int64_t t = 0; t < n; ++t) {
    const Dot squares = dot(x.data() + t * d, x.data() + t * d, d);
    const double scale = 1 / std::sqrt(squares.sum / static_cast<double>(d) + eps);
    for (int64_t i = 0; i < d; ++i) {
      const double expected = x[at(t * d + i)] * scale * gain[at(i)];
      const double roundings = static_cast<double>(d) / 2 + 8;
      comparison->add(t, i, got[at(t * d + i)], expected,
                      roundings * kRounding / 2 * std::abs(expected) + 1e-30);
    }
  }
}

void check_norm_of(const OpContext& c, int n, int d, bool in_place) {
  c.check("rms_norm", "", fmt::format("{} x {}{}", n, d, in_place ? ", in place" : ""),
          [&](DeviceMemory& memory, Comparison& comparison) {
            constexpr float kEps = 1e-5F;
            Random random(static_cast<uint32_t>(d));
            std::vector<float> x = random.floats(int64_t{n} * d, 3);
            // The first row is so small that eps counts.
            for (int64_t i = 0; i < d; ++i) x[at(i)] *= 1e-3F;
            const std::vector<float> gain = random.floats(d, 2);
            const auto x_at = memory.put(x);
            const auto gain_at = memory.put(gain);
            const auto y_at = in_place ? x_at : memory.room<float>(int64_t{n} * d);
            memory.run("rms_norm", [&](const KernelScope& scope) {
              c.ops.rms_norm(scope.stream(), x_at.in(scope), gain_at.in(scope), kEps, n, d,
                             y_at.in(scope));
            });
            compare_norm(x, gain, kEps, memory.get(y_at), &comparison);
          });
}

// Roundings of a sum, and (with a gate) of exp, a sum, a division.
void check_add_of(const OpContext& c, int n, int d, bool gated) {
  c.check("add", "", fmt::format("{} x {}{}", n, d, gated ? ", gated" : ""),
          [&](DeviceMemory& memory, Comparison& comparison) {
            Random random(1);
            const std::vector<float> x = random.floats(int64_t{n} * d, 1);
            const std::vector<float> y = random.floats(int64_t{n} * d, 1);
            const std::vector<float> gate = random.floats(n, 4);
            const auto x_at = memory.put(x);
            const auto y_at = memory.put(y);
            const auto gate_at = memory.put(gate);
            memory.run("add", [&](const KernelScope& scope) {
              c.ops.add(scope.stream(), x_at.in(scope), gated ? gate_at.in(scope) : nullptr, n, d,
                        y_at.in(scope));
            });
            const std::vector<float> got = memory.get(y_at);
            for (int t = 0; t < n; ++t) {
              const double scale =
                  gated ? 1 / (1 + std::exp(-static_cast<double>(gate[at(t)]))) : 1;
              for (int i = 0; i < d; ++i) {
                const double more = scale * x[at(t * d + i)];
                const double before = y[at(t * d + i)];
                comparison.add(t, i, got[at(t * d + i)], before + more,
                               (gated ? 8 : 1) * kRounding * (std::abs(more) + std::abs(before)));
              }
            }
          });
}

void check_rope_of(const OpContext& c, RopeStyle style, int n_rot, int head_dim) {
  const bool halves = style == RopeStyle::kHalves;
  constexpr int kN = 9;
  constexpr int kHeads = 5;
  c.check("rope", "",
          fmt::format("{} tokens, {} heads of {}, {} turn, {}", kN, kHeads, head_dim, n_rot,
                      halves ? "halves" : "pairs"),
          [&](DeviceMemory& memory, Comparison& comparison) {
            RopeParams params;
            params.style = style;
            params.n_rot = n_rot;
            std::vector<float> table(at(kN * n_rot));
            rope_table(params, 9, kN, table.data());
            Random random(2);
            const std::vector<float> x = random.floats(kN * kHeads * head_dim, 1);
            const auto table_at = memory.put(table);
            const auto x_at = memory.put(x);
            memory.run("rope", [&](const KernelScope& scope) {
              c.ops.rope(scope.stream(), table_at.in(scope), halves, n_rot, kN, kHeads, head_dim,
                         x_at.in(scope));
            });
            const std::vector<float> got = memory.get(x_at);
            const int half = n_rot / 2;
            for (int t = 0; t < kN; ++t) {
              for (int h = 0; h < kHeads; ++h) {
                const int64_t head = (t * kHeads + h) * head_dim;
                for (int i = 0; i < half; ++i) {
                  const int first = halves ? i : 2 * i;
                  const int second = halves ? i + half : 2 * i + 1;
                  const double cosine = table[at(t * n_rot + i)];
                  const double sine = table[at(t * n_rot + half + i)];
                  const double a = x[at(head + first)];
                  const double b = x[at(head + second)];
                  // Two products and a sum.
                  const double tolerance = 2 * kRounding * (std::abs(a) + std::abs(b));
                  comparison.add(t * kHeads + h, first, got[at(head + first)],
                                 a * cosine - b * sine, tolerance);
                  comparison.add(t * kHeads + h, second, got[at(head + second)],
                                 a * sine + b * cosine, tolerance);
                }
                for (int i = n_rot; i < head_dim; ++i) {
                  comparison.add_exact(t * kHeads + h, i, got[at(head + i)], x[at(head + i)]);
                }
              }
            }
          });
}

}  // namespace

void check_rms_norm(const OpContext& c) {
  for (const int d : {1, 7, 256, 1000}) check_norm_of(c, 3, d, false);
  check_norm_of(c, 17, 128, true);
  if (c.large) check_norm_of(c, 64, 7168, false);
}

void check_add(const OpContext& c) {
  check_add_of(c, 1, 777, false);
  check_add_of(c, 9, 300, true);
  if (c.large) check_add_of(c, 512, 4096, true);
}

void check_clamp(const OpContext& c) {
  c.check("clamp", "", "numbers, infinities, NaN",
          [&](DeviceMemory& memory, Comparison& comparison) {
            const float inf = std::numeric_limits<float>::infinity();
            const float nan = std::numeric_limits<float>::quiet_NaN();
            std::vector<float> x{-9, -2, 0.5F, 2, 9, inf, -inf, nan};
            std::vector<float> expected{-2, -2, 0.5F, 2, 2, 2, -2, nan};
            for (int i = 0; i < 300; ++i) {
              x.push_back(static_cast<float>(i));
              expected.push_back(static_cast<float>(std::min(i, 2)));
            }
            const auto x_at = memory.put(x);
            memory.run("clamp", [&](const KernelScope& scope) {
              c.ops.clamp(scope.stream(), 2, static_cast<int64_t>(x.size()), x_at.in(scope));
            });
            const std::vector<float> got = memory.get(x_at);
            for (size_t i = 0; i < x.size(); ++i) {
              comparison.add_exact(0, static_cast<int64_t>(i), got[i], expected[i]);
            }
          });
}

void check_rope(const OpContext& c) {
  for (const RopeStyle style : {RopeStyle::kHalves, RopeStyle::kInterleaved}) {
    check_rope_of(c, style, 128, 128);
    check_rope_of(c, style, 16, 80);
  }
}

}  // namespace tandem
