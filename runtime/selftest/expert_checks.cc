// expert_hidden, expert_output and expert_output_few.
#include <fmt/format.h>

#include <array>

#include "kernels/packed.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

constexpr int kTokens = 11;
constexpr float kFar = 1e30F;  // what nobody should read

// Experts of one launch: few uses, none, many, and a leading part.
struct Expert {
  int n_uses;
  bool part;
};
constexpr std::array<Expert, 4> kExperts = {{{3, false}, {0, false}, {19, false}, {2, true}}};

struct Shape {
  int64_t d;
  int64_t ff;
  int64_t part;  // of ff: a whole number of groups and blocks
};

Shape shape_of(DType a, DType b, bool large) {
  const int64_t block = std::max(dtype_info(a).block_elems, dtype_info(b).block_elems);
  if (large) return {2048, 1024, 256};
  if (block == 1) return {40, 54, 32};
  if (block == 32) return {64, 96, 32};
  return {512, 512, 256};
}

// Who uses what: uses in order, by expert.
struct Uses {
  std::vector<size_t> expert;
  std::vector<int> token;

  explicit Uses(Random* random) {
    for (size_t e = 0; e < kExperts.size(); ++e) {
      for (int i = 0; i < kExperts[e].n_uses; ++i) {
        expert.push_back(e);
        token.push_back(static_cast<int>(random->below(kTokens)));
      }
    }
  }
  int64_t n() const { return static_cast<int64_t>(token.size()); }
};

gpu::PackedWeights seen(const Device& device, const DeviceMatrix& m) {
  return {reinterpret_cast<const uint8_t*>(device.seen_by_kernels(m.bytes.at)), m.group_stride,
          m.rows, m.cols};
}

// The table that a launch reads, without matrices.
std::vector<gpu::ExpertUses> uses_table() {
  std::vector<gpu::ExpertUses> table;
  int first = 0;
  for (const Expert& expert : kExperts) {
    table.push_back({{}, {}, {}, first, expert.n_uses});
    first += expert.n_uses;
  }
  return table;
}

gpu::ExpertCalls calls_of(const gpu::ExpertUses* table) {
  return {table, {}, static_cast<int>(kExperts.size()), 20};
}

std::string text_of(const Shape& s) {
  return fmt::format("{} x {}, uses 3 0 19 2, of the last {} values", s.d, s.ff, s.part);
}

// Gates and ups of all experts, in device memory, and their table.
struct Factors {
  std::vector<RandomMatrix> gate;
  std::vector<RandomMatrix> up;
  DeviceArray<gpu::ExpertUses> table;

  Factors(const OpContext& c, DeviceMemory& memory, Random* random, DType gate_type, DType up_type,
          const Shape& s) {
    std::vector<gpu::ExpertUses> entries = uses_table();
    for (size_t e = 0; e < kExperts.size(); ++e) {
      gate.push_back(random_matrix(random, gate_type, s.ff, s.d));
      up.push_back(random_matrix(random, up_type, s.ff, s.d));
      DeviceMatrix gate_at = put(memory, gate.back());
      DeviceMatrix up_at = put(memory, up.back());
      if (kExperts[e].part) gate_at.rows = up_at.rows = static_cast<int>(s.part);
      entries[e].gate = seen(c.device, gate_at);
      entries[e].up = seen(c.device, up_at);
    }
    table = memory.put(entries);
  }
};

// silu(g) * u of two rows. SiLU's slope is at most 1.1; exp, a division and two products add some
// roundings.
void compare_value(const RandomMatrix& gate, const RandomMatrix& up, int64_t r, const float* x_gate,
                   const float* x_up, int64_t use, float got, Comparison* comparison) {
  const Dot g = dot(gate.row(r), x_gate, gate.cols);
  const Dot u = dot(up.row(r), x_up, up.cols);
  const double silu = g.sum / (1 + std::exp(-g.sum));
  const double of_gate = 1.1 * dot_tolerance(gate.type, gate.cols, g.magnitude);
  const double of_up = dot_tolerance(up.type, up.cols, u.magnitude);
  comparison->add(use, r, got, silu * u.sum,
                  of_gate * std::abs(u.sum) + of_up * std::abs(silu) +
                      sum_tolerance(0, std::abs(silu * u.sum)));
}

void compare_hidden(const Factors& f, const Uses& uses, const PackedActivations& x_gate,
                    const PackedActivations& x_up, const Shape& s, const std::vector<float>& hidden,
                    Comparison* comparison) {
  for (int64_t use = 0; use < uses.n(); ++use) {
    const size_t e = uses.expert[at(use)];
    const int token = uses.token[at(use)];
    for (int64_t r = 0; r < s.ff; ++r) {
      const float got = hidden[at(use * s.ff + r)];
      if (kExperts[e].part && r >= s.part) {
        comparison->add_exact(use, r, got, kFar);
        continue;
      }
      compare_value(f.gate[e], f.up[e], r, x_gate.row(token), x_up.row(token), use, got,
                    comparison);
    }
  }
}

void check_hidden_of(const OpContext& c, DType gate_type, DType up_type, bool large) {
  const Shape s = shape_of(gate_type, up_type, large);
  const bool both = gate_type == up_type;
  const std::string types =
      both ? dtype_info(gate_type).name
           : fmt::format("{}, {}", dtype_info(gate_type).name, dtype_info(up_type).name);
  c.check("expert_hidden", types, text_of(s), [&](DeviceMemory& memory, Comparison& comparison) {
    Random random(7);
    const Factors f(c, memory, &random, gate_type, up_type, s);
    const Uses uses(&random);
    // Small, so that SiLU is not a straight line everywhere.
    const std::vector<float> x = random.floats(kTokens * s.d, 0.1F);
    const PackedActivations x_gate = pack_activations(rounded_x_kind(gate_type), x, s.d);
    const PackedActivations x_up = pack_activations(rounded_x_kind(up_type), x, s.d);
    const auto tokens = memory.put(uses.token);
    const auto hidden = memory.put(std::vector<float>(at(uses.n() * s.ff), kFar));
    const auto launch = [&](DType type, gpu::HiddenPart part, const PackedActivations& packed) {
      const DeviceActivations at_device = memory.put(packed);
      memory.run("expert_hidden", [&](const KernelScope& scope) {
        c.ops.expert_hidden(scope.stream(), type, part, calls_of(f.table.in(scope)),
                            at_device.in(scope), tokens.in(scope), static_cast<int>(s.ff),
                            hidden.in(scope));
      });
    };
    if (both) {
      launch(gate_type, gpu::HiddenPart::kBoth, x_gate);
    } else {
      launch(gate_type, gpu::HiddenPart::kGate, x_gate);
      launch(up_type, gpu::HiddenPart::kUp, x_up);
    }
    compare_hidden(f, uses, x_gate, x_up, s, memory.get(hidden), &comparison);
  });
}

// few: of all experts but the one with many uses, by the kernel that packs hidden values.
void check_output_of(const OpContext& c, DType type, bool large, bool few) {
  const Shape s = shape_of(type, type, large);
  const char* name = few ? "expert_output_few" : "expert_output";
  c.check(name, dtype_info(type).name, text_of(s),
          [&](DeviceMemory& memory, Comparison& comparison) {
            Random random(8);
            const Uses uses(&random);
            std::vector<gpu::ExpertUses> entries = uses_table();
            std::vector<RandomMatrix> down;
            for (size_t e = 0; e < kExperts.size(); ++e) {
              down.push_back(random_matrix(&random, type, s.d, s.ff));
              DeviceMatrix down_at = put(memory, down.back());
              if (kExperts[e].part) down_at.cols = static_cast<int>(s.part);
              entries[e].down = seen(c.device, down_at);
            }
            constexpr size_t kMany = 2;
            static_assert(kExperts[kMany].n_uses > gpu::kFewTokens);
            if (few) entries.erase(entries.begin() + kMany);
            std::vector<float> hidden = random.floats(uses.n() * s.ff, 1);
            for (int64_t use = 0; use < uses.n(); ++use) {
              if (!kExperts[uses.expert[at(use)]].part) continue;
              for (int64_t i = s.part; i < s.ff; ++i) hidden[at(use * s.ff + i)] = kFar;
            }
            const PackedActivations packed = pack_activations(rounded_x_kind(type), hidden, s.ff);
            const DeviceActivations packed_at = memory.put(packed);
            const auto hidden_at = memory.put(hidden);
            const auto table = memory.put(entries);
            const auto out_at = memory.room<float>(uses.n() * s.d);
            memory.run(name, [&](const KernelScope& scope) {
              const gpu::ExpertCalls calls{
                  table.in(scope), {}, static_cast<int>(entries.size()), few ? 3 : 20};
              if (few) {
                c.ops.expert_output_few(scope.stream(), type, calls, hidden_at.in(scope),
                                        static_cast<int>(s.ff), static_cast<int>(packed.stride),
                                        static_cast<int>(s.d), out_at.in(scope));
              } else {
                c.ops.expert_output(scope.stream(), type, calls, packed_at.in(scope),
                                    static_cast<int>(s.d), out_at.in(scope));
              }
            });
            const std::vector<float> out = memory.get(out_at);
            for (int64_t use = 0; use < uses.n(); ++use) {
              const size_t e = uses.expert[at(use)];
              if (few && e == kMany) continue;
              const int64_t cols = kExperts[e].part ? s.part : s.ff;
              for (int64_t r = 0; r < s.d; ++r) {
                const Dot d = dot(down[e].row(r), packed.row(use), cols);
                comparison.add(use, r, out[at(use * s.d + r)], d.sum,
                               dot_tolerance(type, cols, d.magnitude));
              }
            }
          });
}

// One expert that is an argument instead of in a table, its uses being the tokens.
void check_single(const OpContext& c) {
  constexpr int64_t kD = 64;
  constexpr int64_t kFf = 48;
  c.check("expert_hidden", "q8_0", fmt::format("{} x {}, one expert, no table", kD, kFf),
          [&](DeviceMemory& memory, Comparison& comparison) {
            Random random(9);
            const RandomMatrix gate = random_matrix(&random, DType::kQ8_0, kFf, kD);
            const RandomMatrix up = random_matrix(&random, DType::kQ8_0, kFf, kD);
            const PackedActivations x =
                pack_activations(XKind::kQ8, random.floats(kTokens * kD, 0.1F), kD);
            const DeviceMatrix gate_at = put(memory, gate);
            const DeviceMatrix up_at = put(memory, up);
            const DeviceActivations x_at = memory.put(x);
            const auto hidden = memory.room<float>(kTokens * kFf);
            memory.run("expert_hidden", [&](const KernelScope& scope) {
              const gpu::ExpertUses single{gate_at.in(scope), up_at.in(scope), {}, 0, kTokens};
              c.ops.expert_hidden(scope.stream(), DType::kQ8_0, gpu::HiddenPart::kBoth,
                                  {nullptr, single, 1, kTokens}, x_at.in(scope), nullptr, kFf,
                                  hidden.in(scope));
            });
            const std::vector<float> got = memory.get(hidden);
            for (int64_t t = 0; t < kTokens; ++t) {
              for (int64_t r = 0; r < kFf; ++r) {
                compare_value(gate, up, r, x.row(t), x.row(t), t, got[at(t * kFf + r)],
                              &comparison);
              }
            }
          });
}

}  // namespace

void check_expert_hidden(const OpContext& c) {
  for (const DType type : kWeightTypes) check_hidden_of(c, type, type, false);
  for (const auto& [gate, up] : {std::pair{DType::kQ4_K, DType::kQ6_K},
                                 {DType::kQ8_0, DType::kF16},
                                 {DType::kBF16, DType::kQ5_0}}) {
    check_hidden_of(c, gate, up, false);
  }
  check_single(c);
  if (c.large) check_hidden_of(c, DType::kQ4_K, DType::kQ4_K, true);
}

void check_expert_output(const OpContext& c) {
  for (const DType type : kWeightTypes) check_output_of(c, type, false, false);
  if (c.large) check_output_of(c, DType::kQ6_K, true, false);
}

void check_expert_output_few(const OpContext& c) {
  for (const DType type : kWeightTypes) {
    if (rounded_x_kind(type) != XKind::kFloat) check_output_of(c, type, false, true);
  }
  if (c.large) check_output_of(c, DType::kQ6_K, true, true);
}

}  // namespace tandem
