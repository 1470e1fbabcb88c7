#include "runtime/probe/packed_activations.h"

#include <cstring>

#include "kernels/packed.h"
#include "kernels/simd.h"
#include "runtime/selftest/random_inputs.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("the selftest's own packing gives the bytes that a model's gives") {
  const SimdOps* avx2 = find_simd("avx2");
  if (avx2 == nullptr) {
    WARN("skipped: this CPU has no vectors, and its reference does not round");
    return;
  }
  for (const XKind kind : {XKind::kBf16, XKind::kQ8, XKind::kQ8K}) {
    const int64_t cols = kind == XKind::kBf16 ? 517 : 768;
    Random random(1);
    std::vector<float> x = random.floats(3 * cols, 2);
    for (int64_t i = 0; i < cols; ++i) x[static_cast<size_t>(cols + i)] *= 1e-38F;
    const PackedActivations packed = pack_activations(kind, x, cols);
    CHECK(packed.used_bytes() <= packed.stride);
    for (int64_t t = 0; t < packed.n; ++t) {
      std::vector<std::byte> expected(static_cast<size_t>(packed.stride));
      avx2->pack_x(kind, x.data() + t * cols, cols, expected.data());
      INFO("kind " << static_cast<int>(kind) << " row " << t);
      CHECK(std::memcmp(packed.bytes.data() + t * packed.stride, expected.data(),
                        static_cast<size_t>(packed.used_bytes())) == 0);
    }
  }
}

TEST_CASE("random inputs are the same on every machine") {
  Random random(7);
  CHECK(random.uniform(1) == -7108368.0F / (1 << 23));
  CHECK(random.below(1000) == 892);
  for (const float v : random.floats(1000, 2)) CHECK(std::abs(v) <= 2);
}

}  // namespace tandem::test
