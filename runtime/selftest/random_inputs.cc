#include "runtime/selftest/random_inputs.h"

#include <algorithm>
#include <cstring>

#include "kernels/packed.h"

namespace tandem {
namespace {

// Byte offsets of the f16 scales in a block.
std::vector<int> scale_offsets(DType type) {
  switch (type) {
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

// Any bytes are a block, but for its scales, which are small and of both signs.
void fill_blocks(Random* random, DType type, std::vector<std::byte>* bytes) {
  for (std::byte& b : *bytes) b = static_cast<std::byte>(random->below(256));
  const auto step = static_cast<size_t>(dtype_info(type).block_bytes);
  for (size_t block = 0; block < bytes->size(); block += step) {
    for (const int offset : scale_offsets(type)) {
      const float scale = 0.001F + 0.0001F * static_cast<float>(random->below(100));
      const uint16_t half = f32_to_f16(random->below(2) == 0 ? scale : -scale);
      std::memcpy(bytes->data() + block + offset, &half, sizeof half);
    }
  }
}

void fill_floats(Random* random, DType type, std::vector<std::byte>* bytes) {
  const auto step = static_cast<size_t>(dtype_info(type).block_bytes);
  for (size_t at = 0; at < bytes->size(); at += step) {
    const float value = random->uniform(1);
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    if (type == DType::kF16) bits = f32_to_f16(value);
    if (type == DType::kBF16) bits >>= 16;
    std::memcpy(bytes->data() + at, &bits, step);
  }
}

}  // namespace

float Random::uniform(float most) {
  // 24 bits: exact in float, and without std::uniform_real_distribution, which differs by library.
  const auto bits = static_cast<int32_t>(rng_() >> 8) - (1 << 23);
  return most * (static_cast<float>(bits) / (1 << 23));
}

std::vector<float> Random::floats(int64_t n, float most) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = uniform(most);
  return out;
}

RandomMatrix random_matrix(Random* random, DType type, int64_t rows, int64_t cols) {
  RandomMatrix m{type, rows, cols, {}, std::vector<float>(static_cast<size_t>(rows * cols))};
  std::vector<std::byte> bytes(static_cast<size_t>(dtype_bytes(type, cols) * rows));
  if (dtype_info(type).block_elems > 1) {
    fill_blocks(random, type, &bytes);
  } else {
    fill_floats(random, type, &bytes);
  }
  dequantize(type, bytes.data(), m.values.data(), rows * cols);
  const WeightView view{type, rows, cols, bytes.data()};
  const int64_t group = packed_bytes(type, cols);
  m.packed.resize(static_cast<size_t>((rows + kGroupRows - 1) / kGroupRows * group));
  for (int64_t r = 0; r < rows; r += kGroupRows) {
    pack_group(view, r, std::min(kGroupRows, rows - r), 0, cols,
               m.packed.data() + r / kGroupRows * group);
  }
  return m;
}

}  // namespace tandem
