#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/check.h"

namespace tandem {
namespace {

constexpr int kLanes = 8;  // independent sums, so that additions need not wait for each other

double sum_of_squares(const float* x, int64_t d) {
  double lane[kLanes] = {};
  const int64_t whole = d - d % kLanes;
  for (int64_t c = 0; c < whole; c += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double v = x[c + l];
      lane[l] += v * v;
    }
  }
  for (int64_t c = whole; c < d; ++c) lane[c - whole] += static_cast<double>(x[c]) * x[c];
  double sum = 0;
  for (const double part : lane) sum += part;
  return sum;
}

// The pair index whose wavelength turns `rotations` times within the original context
// (YaRN, section 3.2, solved for the dimension).
double yarn_pair(const RopeParams& p, double rotations) {
  const double n_rot = static_cast<double>(p.n_rot);
  const double ctx = static_cast<double>(p.yarn_orig_ctx);
  return n_rot * std::log(ctx / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(static_cast<double>(p.freq_base)));
}

// Share of pair i that keeps its original frequency: 1 for fast pairs, 0 for slow ones.
double yarn_ramp(const RopeParams& p, int64_t i) {
  const double low = std::max(0.0, std::floor(yarn_pair(p, p.yarn_beta_fast)));
  const double high =
      std::min(static_cast<double>(p.n_rot - 1), std::ceil(yarn_pair(p, p.yarn_beta_slow)));
  const double position = (static_cast<double>(i) - low) / std::max(0.001, high - low);
  return 1.0 - std::clamp(position, 0.0, 1.0);
}

// Radians that pair i turns per position.
double pair_frequency(const RopeParams& p, int64_t i) {
  const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(p.n_rot);
  const double factor = p.freq_factors != nullptr ? p.freq_factors[i] : 1.0;
  const double original = std::pow(static_cast<double>(p.freq_base), exponent) / factor;
  const double scaled = p.freq_scale * original;
  if (p.yarn_ext_factor == 0.0F) return scaled;
  const double keep = yarn_ramp(p, i) * p.yarn_ext_factor;
  return scaled * (1.0 - keep) + original * keep;
}

double rope_magnitude(const RopeParams& p) {
  if (p.yarn_ext_factor == 0.0F) return p.yarn_attn_factor;
  return p.yarn_attn_factor * (1.0 + 0.1 * std::log(1.0 / static_cast<double>(p.freq_scale)));
}

void rotate_head(RopeStyle style, const float* cosines, const float* sines, int64_t pairs,
                 float* head) {
  const int64_t step = style == RopeStyle::kHalves ? 1 : 2;
  const int64_t distance = style == RopeStyle::kHalves ? pairs : 1;
  for (int64_t i = 0; i < pairs; ++i) {
    float& first = head[i * step];
    float& second = head[i * step + distance];
    const float a = first;
    const float b = second;
    first = a * cosines[i] - b * sines[i];
    second = a * sines[i] + b * cosines[i];
  }
}

}  // namespace

void rms_norm(const float* x, int64_t x_stride, const float* gain, float eps, int64_t n, int64_t d,
              float* y, int64_t y_stride) {
  for (int64_t t = 0; t < n; ++t) {
    const float* row = x + t * x_stride;
    float* out = y + t * y_stride;
    const double mean = sum_of_squares(row, d) / static_cast<double>(d);
    const float inverse = static_cast<float>(1.0 / std::sqrt(mean + eps));
    for (int64_t c = 0; c < d; ++c) out[c] = row[c] * inverse * gain[c];
  }
}

void add(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void rope_table(const RopeParams& params, int64_t first_pos, int64_t n, float* table) {
  TANDEM_CHECK(params.n_rot >= 0 && params.n_rot % 2 == 0, "n_rot %lld",
               static_cast<long long>(params.n_rot));
  TANDEM_CHECK(params.yarn_ext_factor == 0.0F || params.yarn_orig_ctx > 0,
               "YaRN needs the original context, got %lld",
               static_cast<long long>(params.yarn_orig_ctx));
  const int64_t pairs = params.n_rot / 2;
  const double magnitude = rope_magnitude(params);
  for (int64_t i = 0; i < pairs; ++i) {
    const double frequency = pair_frequency(params, i);
    for (int64_t t = 0; t < n; ++t) {
      const double angle = static_cast<double>(first_pos + t) * frequency;
      float* row = table + t * params.n_rot;
      row[i] = static_cast<float>(std::cos(angle) * magnitude);
      row[i + pairs] = static_cast<float>(std::sin(angle) * magnitude);
    }
  }
}

void rope_apply(RopeStyle style, const float* table, int64_t n_rot, int64_t n, int64_t n_heads,
                int64_t head_dim, float* x, int64_t x_stride) {
  TANDEM_CHECK(n_rot <= head_dim && n_rot % 2 == 0, "n_rot %lld, head_dim %lld",
               static_cast<long long>(n_rot), static_cast<long long>(head_dim));
  const int64_t pairs = n_rot / 2;
  for (int64_t t = 0; t < n; ++t) {
    const float* row = table + t * n_rot;
    for (int64_t h = 0; h < n_heads; ++h) {
      rotate_head(style, row, row + pairs, pairs, x + t * x_stride + h * head_dim);
    }
  }
}

}  // namespace tandem
