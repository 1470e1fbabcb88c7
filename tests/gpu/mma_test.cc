// The fragments of tensor cores, element by element as NVIDIA's PTX ISA reference states them for
// mma.m16n8k16 (bf16, f16; s8) and mma.m16n8k32 (s8). Our kernels and the emulation speak of
// dwords; here it is elements i of a thread's registers, so that neither can hide the other's
// mistake.
#include "kernels/gpu/mma.h"

#include <array>
#include <type_traits>

#include "tests/support/catch.h"

namespace tandem::gpu::emulated {
namespace {

struct Element {
  int row;
  int col;
};

// groupID = lane >> 2, threadID_in_group = lane % 4
Element a_half(int lane, int i) {
  const int group = lane >> 2;
  return {(i < 2 || (i >= 4 && i < 6)) ? group : group + 8,
          lane % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
Element b_half(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane >> 2}; }
Element a_s8_k32(int lane, int i) {
  const int group = lane >> 2;
  return {(i < 4 || (i >= 8 && i < 12)) ? group : group + 8,
          lane % 4 * 4 + (i & 3) + (i >= 8 ? 16 : 0)};
}
Element b_s8_k32(int lane, int i) {
  return {lane % 4 * 4 + (i & 3) + (i >= 4 ? 16 : 0), lane >> 2};
}
Element a_s8_k16(int lane, int i) {
  return {i < 4 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 4 + (i & 3)};
}
Element b_s8_k16(int lane, int i) { return {lane % 4 * 4 + i, lane >> 2}; }
Element c_of(int lane, int i) {
  return {i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)};
}

int value_a(int row, int k) { return (row * 5 + k * 3) % 11 - 5; }
int value_b(int k, int col) { return (k * 7 + col * 2) % 13 - 6; }

// Of a small integer.
uint32_t int8_bits(int v) { return static_cast<uint32_t>(v) & 0xFFU; }
uint32_t bf16_bits(int v) { return f32_to_bits(static_cast<float>(v)) >> 16; }
uint32_t f16_bits(int v) { return f32_to_f16(static_cast<float>(v)); }

template <auto kBits, int kDepth, typename C, typename ElementA, typename ElementB, typename Mma>
void check(ElementA element_a, ElementB element_b, Mma mma) {
  constexpr int kPer = std::is_same_v<C, int> ? 4 : 2;  // elements in four bytes
  const auto in_place = [](int v, int i) { return kBits(v) << i % kPer * (32 / kPer); };
  std::array<std::array<C, 8>, 16> got{};
  vgpu::Emulation emulation;
  emulation.launch("mma", 1, 32, 0, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    FragmentA a{};
    FragmentB b{};
    for (int i = 0; i < 16 * kDepth / 32; ++i) {
      const Element e = element_a(lane, i);
      a.r[i / kPer] |= in_place(value_a(e.row, e.col), i);
    }
    for (int i = 0; i < 8 * kDepth / 32; ++i) {
      const Element e = element_b(lane, i);
      b.r[i / kPer] |= in_place(value_b(e.row, e.col), i);
    }
    C c[4] = {1, 1, 1, 1};
    mma(c, a, b);
    for (int i = 0; i < 4; ++i) {
      const Element e = c_of(lane, i);
      got[static_cast<size_t>(e.row)][static_cast<size_t>(e.col)] = c[i];
    }
  });
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      int expected = 1;
      for (int k = 0; k < kDepth; ++k) expected += value_a(row, k) * value_b(k, col);
      INFO("row " << row << " column " << col);
      CHECK(got[static_cast<size_t>(row)][static_cast<size_t>(col)] == static_cast<C>(expected));
    }
  }
}

}  // namespace

TEST_CASE("emulated tensor cores have the fragments of the PTX reference") {
  check<&bf16_bits, 16, float>(
      a_half, b_half,
      [](float(&c)[4], const FragmentA& a, const FragmentB& b) { mma_bf16_k16(c, a, b); });
  check<&f16_bits, 16, float>(
      a_half, b_half,
      [](float(&c)[4], const FragmentA& a, const FragmentB& b) { mma_f16_k16(c, a, b); });
  check<&int8_bits, 32, int>(
      a_s8_k32, b_s8_k32,
      [](int(&c)[4], const FragmentA& a, const FragmentB& b) { mma_s8_k32(c, a, b); });
  check<&int8_bits, 16, int>(a_s8_k16, b_s8_k16,
                             [](int(&c)[4], const FragmentA& a, const FragmentB& b) {
                               mma_s8_k16(c, a.r[0], a.r[1], b.r[0]);
                             });
}

}  // namespace tandem::gpu::emulated
