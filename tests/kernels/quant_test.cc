#include "kernels/quant.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"
#include "tests/support/read_file.h"

namespace tandem {
namespace {

using testing::all_isas;
using testing::IsaScope;
using testing::kAllTypes;
using testing::RandomWeights;

std::string read_fixture(const std::string& name) {
  return test::read_file(TANDEM_SOURCE_DIR "/tests/fixtures/quant/" + name);
}

uint32_t bits_of(float f) {
  uint32_t bits = 0;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}

// The value of an f16 by its definition, in float64.
double f16_value(uint16_t h) {
  const double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (h >> 10) & 0x1F;
  const int mantissa = h & 0x3FF;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  if (exponent == 31) return sign * std::numeric_limits<double>::infinity();
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

bool is_f16_nan(uint16_t h) { return (h & 0x7C00) == 0x7C00 && (h & 0x3FF) != 0; }

TEST_CASE("every format dequantises bit for bit as the gguf package does") {
  for (const SimdOps* ops : all_isas()) {
    for (const DType type : kAllTypes) {
      const DTypeInfo& info = dtype_info(type);
      INFO(ops->name << " " << info.name);
      const std::string blocks = read_fixture(std::string(info.name) + ".blocks");
      const std::string expected = read_fixture(std::string(info.name) + ".f32");
      const int64_t n = static_cast<int64_t>(expected.size() / sizeof(float));
      REQUIRE(n > 100);
      REQUIRE(dtype_bytes(type, n) == static_cast<int64_t>(blocks.size()));
      for (const size_t misalign : {0U, 1U}) {
        std::vector<char> moved(misalign, '\0');
        moved.insert(moved.end(), blocks.begin(), blocks.end());
        std::vector<float> got(static_cast<size_t>(n) + 1, 77.0F);
        const IsaScope isa(ops);
        dequantize(type, reinterpret_cast<const std::byte*>(moved.data() + misalign), got.data(),
                   n);
        CHECK(got.back() == 77.0F);
        CHECK(std::memcmp(got.data(), expected.data(), expected.size()) == 0);
      }
    }
  }
}

TEST_CASE("every f16 converts to its value and back to itself") {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint16_t h = static_cast<uint16_t>(i);
    const float f = f16_to_f32(h);
    if (is_f16_nan(h)) {
      REQUIRE(std::isnan(f));
      REQUIRE(is_f16_nan(f32_to_f16(f)));
      continue;
    }
    REQUIRE(static_cast<double>(f) == f16_value(h));
    REQUIRE(std::signbit(f) == ((h & 0x8000) != 0));
    REQUIRE(f32_to_f16(f) == h);
  }
}

TEST_CASE("f32 to f16 rounds to nearest even between every two neighbours") {
  for (uint16_t h = 0; h < 0x7C00; ++h) {
    const double low = f16_value(h);
    // The neighbour of the largest f16 counts as 2^16, as IEEE 754 has it.
    const double high = h == 0x7BFF ? 65536.0 : f16_value(static_cast<uint16_t>(h + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact in f32
    const uint16_t even = static_cast<uint16_t>(h + (h & 1));
    for (const int sign : {0, 0x8000}) {
      const float s = sign != 0 ? -1.0F : 1.0F;
      REQUIRE(f32_to_f16(s * middle) == (even | sign));
      REQUIRE(f32_to_f16(s * std::nextafter(middle, 0.0F)) == (h | sign));
      REQUIRE(f32_to_f16(s * std::nextafter(middle, 1e9F)) == ((h + 1) | sign));
    }
  }
  CHECK(f32_to_f16(1e30F) == 0x7C00);
  CHECK(f32_to_f16(-std::numeric_limits<float>::infinity()) == 0xFC00);
  CHECK(f32_to_f16(1e-30F) == 0);
}

TEST_CASE("the instruction sets agree on every f16 conversion, NaN included") {
  std::vector<uint16_t> halves(0x10000);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const int64_t n = static_cast<int64_t>(halves.size());
  for (const SimdOps* ops : all_isas()) {
    INFO(ops->name);
    std::vector<float> floats(halves.size());
    ops->dequantize(DType::kF16, reinterpret_cast<const std::byte*>(halves.data()), floats.data(),
                    n);
    std::vector<uint16_t> back(halves.size());
    ops->store_f16(floats.data(), reinterpret_cast<std::byte*>(back.data()), n);
    for (size_t i = 0; i < halves.size(); ++i) {
      REQUIRE(bits_of(floats[i]) == bits_of(f16_to_f32(halves[i])));
      REQUIRE(back[i] == f32_to_f16(floats[i]));
    }
  }
}

TEST_CASE("a scale or weight that is not finite is found in every format") {
  std::mt19937 rng(5);
  const float bad_values[] = {std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN()};
  for (const DType type : kAllTypes) {
    const DTypeInfo& info = dtype_info(type);
    const int64_t n = 3 * info.block_elems;
    std::vector<int> offsets = testing::scale_offsets(type);
    if (offsets.empty()) offsets = {0};
    for (const float bad : bad_values) {
      for (int block = 0; block < 3; ++block) {
        for (const int offset : offsets) {
          INFO(info.name << " block " << block << " offset " << offset << " value " << bad);
          RandomWeights weights(rng, type, 1, n);
          REQUIRE(all_finite(type, weights.data(), n));
          uint32_t bits = bits_of(bad);
          if (type == DType::kBF16) bits >>= 16;
          if (type != DType::kF32 && type != DType::kBF16) bits = f32_to_f16(bad);
          std::memcpy(weights.data() + block * info.block_bytes + offset, &bits,
                      type == DType::kF32 ? 4 : 2);
          CHECK_FALSE(all_finite(type, weights.data(), n));
        }
      }
    }
  }
}

TEST_CASE("bytes that are not scales do not make a block count as not finite") {
  for (const DType type : kAllTypes) {
    const DTypeInfo& info = dtype_info(type);
    if (info.block_elems == 1) continue;
    INFO(info.name);
    std::vector<std::byte> block(static_cast<size_t>(info.block_bytes), std::byte{0xFF});
    for (const int offset : testing::scale_offsets(type)) {
      block[static_cast<size_t>(offset)] = std::byte{0};
      block[static_cast<size_t>(offset) + 1] = std::byte{0x3C};
    }
    CHECK(all_finite(type, block.data(), info.block_elems));
  }
}

TEST_CASE("type ids that no kernel reads have no description") {
  for (const uint32_t id : {3U, 7U, 9U, 10U, 11U, 15U, 16U, 29U, 31U, 1000U}) {
    CHECK(dtype_info(id) == nullptr);
  }
  CHECK(dtype_bytes(DType::kQ4_K, 512) == 288);
  CHECK(dtype_bytes(DType::kQ8_0, 0) == 0);
}

}  // namespace
}  // namespace tandem
