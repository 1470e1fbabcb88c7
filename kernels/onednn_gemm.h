// Matrix products by oneDNN, where the build found it: a library of its own (tandem_onednn), so
// that nothing else depends on oneDNN. Any thread; a product runs on the thread that calls it and
// starts no other, in any number at once. Each thread keeps the primitives of its last
// kOnednnShapes shapes; a new shape costs about 0.2 ms, one that oneDNN itself remembers a few
// microseconds. oneDNN allocates when a shape is new.
#pragma once

#include <cstdint>

namespace tandem {

enum class GemmType : uint8_t {
  kF32,   // f32 x f32
  kBf16,  // bf16 x bf16, sums in f32
  kU8S8,  // activations u8, weights s8, sums in int32 before they become f32: a yardstick
};

inline constexpr int kOnednnShapes = 64;

// x: [n_tokens, cols]; w: [n_rows, cols]; out: [n_tokens, n_rows] f32. Strides in elements. Where
// every matrix lies back to back oneDNN has its fast kernels (2.6: others reach about half).
struct GemmShape {
  GemmType type = GemmType::kF32;
  int64_t n_tokens = 0;
  int64_t n_rows = 0;
  int64_t cols = 0;
  int64_t x_stride = 0;
  int64_t w_stride = 0;  // of weights as they are before packing
  int64_t out_stride = 0;
  bool packed = false;  // w is what onednn_pack() made for this shape

  friend bool operator==(const GemmShape&, const GemmShape&) = default;
};
inline GemmShape dense_gemm(GemmType type, int64_t n_tokens, int64_t n_rows, int64_t cols) {
  return {type, n_tokens, n_rows, cols, cols, cols, n_rows};
}

// nullptr, or why all that follows fails: a line for users.
const char* onednn_missing();
// For instance "oneDNN 2.6.3"; "" where it is missing.
const char* onednn_version();

// out[t, r] = sum_c x[t, c] * w[r, c]. False where this oneDNN or this CPU has no such product, or
// memory is short; then `out` is undefined.
bool onednn_gemm(const GemmShape& shape, const void* x, const void* w, float* out);

// Weights in the order that oneDNN prefers for this shape, `packed` set: worth it where they stay.
// 0, or false: as onednn_gemm().
int64_t onednn_packed_bytes(const GemmShape& shape);
bool onednn_pack(const GemmShape& shape, const void* w, void* to);

}  // namespace tandem
