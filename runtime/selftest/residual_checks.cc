// residual_norm and norm_product.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kernels/packed.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {
namespace {

constexpr int kN = 4;
constexpr float kEps = 1e-5F;

// What a residual gets, on the host and in device memory.
struct Inputs {
  int d;
  std::vector<float> y, first, gated, last, gate, out, weights, gain;
  std::vector<int> begin{0, 3, 3, 5, 6};
  std::vector<int> uses{4, 0, 2, 1, 3, 5};

  Inputs(Random* random, int the_d) : d(the_d) {
    const auto rows = [&](size_t n, float most) {
      return random->floats(static_cast<int64_t>(n) * d, most);
    };
    y = rows(kN, 3);
    first = rows(kN, 1);
    gated = rows(kN, 1);
    last = rows(kN, 1);
    out = rows(uses.size(), 1);
    gate = random->floats(kN, 4);
    weights = random->floats(static_cast<int64_t>(uses.size()), 1);
    gain = random->floats(d, 2);
    // The first row is so small that eps counts.
    for (int i = 0; i < d; ++i) y[at(i)] *= 1e-3F;
  }
};

// Every addend adds a rounding, and (with a gate) exp, a sum and a division their own.
void compare_sums(const Inputs& in, const std::vector<float>& got, Comparison* comparison) {
  for (int t = 0; t < kN; ++t) {
    const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(in.gate[at(t)])));
    for (int c = 0; c < in.d; ++c) {
      const int64_t i = int64_t{t} * in.d + c;
      double sum = in.y[at(i)];
      double magnitude = std::abs(sum);
      int roundings = 8;
      const auto add = [&](double more) {
        sum += more;
        magnitude += std::abs(more);
        ++roundings;
      };
      add(in.first[at(i)]);
      add(sigmoid * in.gated[at(i)]);
      for (int u = in.begin[at(t)]; u < in.begin[at(t + 1)]; ++u) {
        const int use = in.uses[at(u)];
        add(static_cast<double>(in.weights[at(use)]) * in.out[at(int64_t{use} * in.d + c)]);
      }
      add(in.last[at(i)]);
      comparison->add(t, c, got[at(i)], sum, roundings * kRounding * magnitude);
    }
  }
}

// y * scale * gain, of y as it came out: a sum of d squares has d roundings, of which a root halves
// what they do; 8: mean, eps, rsqrtf (two units in the last place), two products.
void compare_norm(const Inputs& in, const std::vector<float>& y, const std::vector<float>& got,
                  Comparison* comparison) {
  for (int t = 0; t < kN; ++t) {
    const float* row = y.data() + int64_t{t} * in.d;
    const Dot squares = dot(row, row, in.d);
    const double scale = 1 / std::sqrt(squares.sum / in.d + kEps);
    for (int c = 0; c < in.d; ++c) {
      const double expected = row[c] * scale * in.gain[at(c)];
      comparison->add(t, c, got[at(int64_t{t} * in.d + c)], expected,
                      (in.d / 2.0 + 8) * kRounding / 2 * std::abs(expected) + 1e-30);
    }
  }
}

// adds: everything at once; else the norm alone, which leaves y as it is. copies: packed, too.
void check_of(const OpContext& c, int d, bool adds, bool copies) {
  const std::string text =
      fmt::format("{} x {}{}{}", kN, d, adds ? ", sums" : "", copies ? ", packed copies" : "");
  c.check("residual_norm", "", text, [&](DeviceMemory& memory, Comparison& comparison) {
    Random random(static_cast<uint32_t>(d));
    const Inputs in(&random, d);
    const auto y = memory.put(in.y);
    const auto first = memory.put(in.first);
    const auto gated = memory.put(in.gated);
    const auto last = memory.put(in.last);
    const auto gate = memory.put(in.gate);
    const auto out = memory.put(in.out);
    const auto weights = memory.put(in.weights);
    const auto gain = memory.put(in.gain);
    const auto begin = memory.put(in.begin);
    const auto uses = memory.put(in.uses);
    const auto normed = memory.room<float>(int64_t{kN} * d);
    constexpr std::array kKinds{XKind::kBf16, XKind::kQ8, XKind::kQ8K};
    std::array<DeviceArray<uint8_t>, 3> rooms{};
    std::array<int, 3> strides{};
    for (size_t k = 0; k < kKinds.size() && copies; ++k) {
      strides[k] = static_cast<int>(x_bytes(kKinds[k], d));
      rooms[k] = memory.room<uint8_t>(int64_t{kN} * strides[k]);
    }
    memory.run("residual_norm", [&](const KernelScope& scope) {
      gpu::ResidualNorm call{};
      call.y = y.in(scope);
      call.gain = gain.in(scope);
      call.eps = kEps;
      call.normed = normed.in(scope);
      if (adds) {
        call.addends[0] = {first.in(scope), nullptr};
        call.addends[1] = {gated.in(scope), gate.in(scope)};
        call.addends[2] = {last.in(scope), nullptr};
        call.out = out.in(scope);
        call.uses = {begin.in(scope), uses.in(scope), weights.in(scope)};
      }
      if (copies) {
        call.copies = {rooms[0].in(scope), rooms[1].in(scope), rooms[2].in(scope),
                       strides[0],         strides[1],         strides[2]};
      }
      c.ops.residual_norm(scope.stream(), call, kN, d);
    });
    const std::vector<float> sums = memory.get(y);
    const std::vector<float> result = memory.get(normed);
    if (adds) {
      compare_sums(in, sums, &comparison);
    } else {
      comparison.add_bytes(sums.data(), in.y.data(), int64_t{kN} * d * 4);
    }
    compare_norm(in, sums, result, &comparison);
    for (size_t k = 0; k < kKinds.size() && copies; ++k) {
      const PackedActivations expected = pack_activations(kKinds[k], result, d);
      const std::vector<uint8_t> got = memory.get(rooms[k]);
      for (int64_t t = 0; t < kN; ++t) {
        comparison.add_bytes(got.data() + t * expected.stride,
                             expected.bytes.data() + t * expected.stride, expected.used_bytes());
      }
    }
  });
}

// A norm of y and one addend, and a product of it: y stays as it is.
void check_product_of(const OpContext& c, DType type, int rows, int d) {
  const std::string text = fmt::format("{} x {}, {}", rows, d, tokens_text(kN));
  c.check("norm_product", dtype_info(type).name, text, [&](DeviceMemory& memory, Comparison& cmp) {
    Random random(static_cast<uint32_t>(rows * 1000 + d));
    const Inputs in(&random, d);
    const RandomMatrix w = random_matrix(&random, type, rows, d);
    const XKind kind = rounded_x_kind(type);
    const DeviceMatrix w_at = put(memory, w);
    const auto y = memory.put(in.y);
    const auto first = memory.put(in.first);
    const auto gain = memory.put(in.gain);
    const auto normed = memory.room<float>(int64_t{kN} * d);
    const auto out = memory.room<float>(int64_t{kN} * rows);
    const int stride = kind == XKind::kFloat ? d * 4 : static_cast<int>(x_bytes(kind, d));
    memory.run("norm_product", [&](const KernelScope& scope) {
      gpu::ResidualNorm call{};
      call.y = y.in(scope);
      call.addends[0] = {first.in(scope), nullptr};
      call.gain = gain.in(scope);
      call.eps = kEps;
      call.normed = normed.in(scope);
      const gpu::ProductPart part{w_at.in(scope), nullptr, out.in(scope)};
      c.ops.norm_product(scope.stream(), type, call, {part, {}, {}}, kN, d, stride);
    });
    const std::vector<float> unchanged = memory.get(y);
    cmp.add_bytes(unchanged.data(), in.y.data(), int64_t{kN} * d * 4);
    std::vector<float> sums = in.y;
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += in.first[i];
    const std::vector<float> result = memory.get(normed);
    compare_norm(in, sums, result, &cmp);
    const PackedActivations x = pack_activations(kind, result, d);
    const std::vector<float> got = memory.get(out);
    for (int64_t t = 0; t < kN; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        const Dot expected = dot(w.row(r), x.row(t), d);
        cmp.add(t, r, got[at(t * rows + r)], expected.sum,
                dot_tolerance(type, d, expected.magnitude));
      }
    }
  });
}

}  // namespace

void check_norm_product(const OpContext& c) {
  for (const DType type : kWeightTypes) {
    const int block = dtype_info(type).block_elems;
    check_product_of(c, type, 17, block > 1 ? 2 * block : 97);
    check_product_of(c, type, 8, std::max(block, 64));
    if (c.large) check_product_of(c, type, 128, 2048);
  }
}

void check_residual_norm(const OpContext& c) {
  for (const int d : {1, 7, 256, 1000}) check_of(c, d, false, false);
  for (const int d : {5, 300}) check_of(c, d, true, false);
  check_of(c, 768, true, true);
  if (c.large) check_of(c, 7168, true, true);
}

}  // namespace tandem
