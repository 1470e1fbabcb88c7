// Forces products with activations as they are while it lives, in this process: the reference's
// path, with AVX2 under it where the CPU has it. For tests that compare with exact arithmetic, or
// one placement with another: rounding to int8 makes 0.4 % of a difference in the last bit.
#pragma once

#include "kernels/simd.h"

namespace tandem::test {

class Unrounded {
 public:
  Unrounded() {
    ops_.name = "unrounded";
    if (const SimdOps* avx2 = find_simd("avx2")) {
      ops_.dequantize = avx2->dequantize;
      ops_.dot = avx2->dot;
      ops_.softmax = avx2->softmax;
      ops_.decay_add = avx2->decay_add;
    }
    override_simd(&ops_);
  }
  ~Unrounded() { override_simd(nullptr); }
  Unrounded(const Unrounded&) = delete;
  Unrounded& operator=(const Unrounded&) = delete;

 private:
  SimdOps ops_ = kScalarOps;
};

}  // namespace tandem::test
