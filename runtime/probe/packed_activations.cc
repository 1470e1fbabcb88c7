#include "runtime/probe/packed_activations.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/packed.h"

namespace tandem {
namespace {

template <typename T>
void put(uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// bf16, to nearest, ties to even; returns what it means.
float put_bf16(float v, uint8_t* to) {
  uint32_t bits = 0;
  std::memcpy(&bits, &v, sizeof bits);
  bits = (bits + 0x7FFFU + (bits >> 16 & 1U)) & 0xFFFF0000U;
  put(to, static_cast<uint16_t>(bits >> 16));
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

int sum(const int8_t* q, int n) {
  int out = 0;
  for (int i = 0; i < n; ++i) out += q[i];
  return out;
}

// Sums stand in the order 0 2 1 3 of each four.
int64_t place(int64_t i) { return (i & ~int64_t{3}) | (i & 1) << 1 | (i >> 1 & 1); }

// int8 with a scale a block, and sums behind them.
void pack_q8(XKind kind, const float* x, int64_t cols, uint8_t* to, float* values) {
  const int64_t block = x_block(kind);
  const int64_t blocks = cols / block;
  auto* q = reinterpret_cast<int8_t*>(to);
  uint8_t* scales = to + cols;
  uint8_t* sums = scales + 4 * blocks;
  for (int64_t b = 0; b < blocks; ++b) {
    float largest = 0;
    for (int64_t i = b * block; i < (b + 1) * block; ++i) {
      largest = std::max(largest, std::abs(x[i]));
    }
    const bool zeros = largest < 1e-36F;
    const float scale = zeros ? 0 : largest / 127;
    const float inverse = zeros ? 0 : 127 / largest;
    put(scales + 4 * b, scale);
    for (int64_t i = b * block; i < (b + 1) * block; ++i) {
      q[i] = static_cast<int8_t>(std::nearbyint(std::min(x[i] * inverse, 127.0F)));
      values[i] = static_cast<float>(q[i]) * scale;
    }
    if (kind == XKind::kQ8) put(sums + 4 * b, int32_t{-sum(q + b * block, 32)});
  }
  if (kind == XKind::kQ8) return;
  uint8_t* fine = sums + cols / 32 * 2;
  for (int64_t i = 0; i < cols / 32; ++i) {
    put(sums + 2 * place(i), static_cast<int16_t>(sum(q + 32 * i, 32)));
  }
  for (int64_t i = 0; i < cols / 16; ++i) {
    put(fine + 2 * place(i), static_cast<int16_t>(sum(q + 16 * i, 16)));
  }
}

void pack_row(XKind kind, const float* x, int64_t cols, uint8_t* to, float* values) {
  switch (kind) {
    case XKind::kFloat:
      std::copy_n(x, cols, values);
      std::memcpy(to, x, static_cast<size_t>(4 * cols));
      return;
    case XKind::kBf16:
      for (int64_t i = 0; i < cols; ++i) values[i] = put_bf16(x[i], to + 2 * i);
      return;
    default:
      return pack_q8(kind, x, cols, to, values);
  }
}

}  // namespace

int64_t PackedActivations::used_bytes() const {
  switch (kind) {
    case XKind::kFloat:
      return cols * 4;
    case XKind::kBf16:
      return (cols + 1) / 2 * 4;
    case XKind::kQ8:
      return cols + cols / 32 * 8;
    case XKind::kQ8K:
      return cols + cols / 256 * 4 + cols / 32 * 2 + cols / 16 * 2;
  }
  return 0;
}

PackedActivations pack_activations(XKind kind, const std::vector<float>& x, int64_t cols) {
  PackedActivations p{kind, static_cast<int64_t>(x.size()) / cols, cols, 0, {}, {}};
  p.stride = kind == XKind::kFloat ? cols * 4 : x_bytes(kind, cols);
  p.bytes.resize(static_cast<size_t>(p.n * p.stride));
  p.values.resize(x.size());
  for (int64_t t = 0; t < p.n; ++t) {
    pack_row(kind, x.data() + t * cols, cols, p.bytes.data() + t * p.stride,
             p.values.data() + t * cols);
  }
  return p;
}

std::vector<float> as_q8_0(const std::vector<float>& x) {
  const auto cols = static_cast<int64_t>(x.size());
  const PackedActivations p = pack_activations(XKind::kQ8, x, cols);
  std::vector<float> out;
  out.reserve(x.size());
  for (int64_t i = 0; i < cols; ++i) {
    float scale = 0;
    std::memcpy(&scale, p.bytes.data() + cols + i / 32 * 4, sizeof scale);
    const auto q = static_cast<int8_t>(p.bytes[static_cast<size_t>(i)]);
    out.push_back(f16_to_f32(f32_to_f16(scale)) * static_cast<float>(q));
  }
  return out;
}

}  // namespace tandem
