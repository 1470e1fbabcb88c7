// Norms, rotary embedding and small elementwise operations, all f32.
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

// y[t, c] = x[t, c] / sqrt(mean_c x^2 + eps) * gain[c]; x, y: [n, d] with the given row strides;
// gain: [d] f32. x == y is allowed.
void rms_norm(const float* x, int64_t x_stride, const float* gain, float eps, int64_t n, int64_t d,
              float* y, int64_t y_stride);

// y[i] += x[i]
void add(const float* x, int64_t n, float* y);

// Which elements of a head turn together: (2i, 2i+1) or (i, i + n_rot/2).
enum class RopeStyle { kInterleaved, kHalves };

// Rotary embedding as the families use it. YaRN: Peng et al., arXiv 2309.00071.
struct RopeParams {
  RopeStyle style = RopeStyle::kHalves;
  int64_t n_rot = 0;  // leading elements of each head that turn
  float freq_base = 10000.0F;
  float freq_scale = 1.0F;       // 1/factor for linear scaling and for YaRN
  float yarn_ext_factor = 0.0F;  // 0: no YaRN; 1: full YaRN ramp
  float yarn_attn_factor = 1.0F;
  float yarn_beta_fast = 32.0F;
  float yarn_beta_slow = 1.0F;
  int64_t yarn_orig_ctx = 0;
  const float* freq_factors = nullptr;  // [n_rot / 2] divisors (rope_freqs.weight) or nullptr
};

// Fills table[t, 0..n_rot/2) = cos and table[t, n_rot/2..n_rot) = sin of positions first_pos + t.
// Angles are computed in double. table: [n, n_rot] f32.
void rope_table(const RopeParams& params, int64_t first_pos, int64_t n, float* table);

// Turns every head of x in place. x: [n, n_heads, head_dim] f32, rows x_stride apart.
void rope_apply(RopeStyle style, const float* table, int64_t n_rot, int64_t n, int64_t n_heads,
                int64_t head_dim, float* x, int64_t x_stride);

}  // namespace tandem
