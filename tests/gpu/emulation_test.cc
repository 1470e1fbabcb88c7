#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "kernels/gpu/vgpu.h"
#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::gpu::emulated {
namespace {

using testing::all_ways;
using testing::Way;
using vgpu::Emulation;
using vgpu::KernelFault;

constexpr int kThreads = 96;

std::string fault_of(const Way& way, const std::function<void()>& body, size_t dynamic = 0) {
  Emulation emulation(way.options);
  try {
    emulation.launch("kernel", 2, kThreads, dynamic, body);
  } catch (const KernelFault& fault) {
    return fault.what();
  }
  return "";
}

bool says(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("each CUDA thread of a grid runs once and knows its place") {
  for (const Way& way : all_ways()) {
    std::vector<int> seen(3 * 2 * 4 * 5);
    Emulation emulation(way.options);
    emulation.launch("places", dim3(3, 2), dim3(4, 5), 0, [&] {
      const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
      const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
      ++seen[block * blockDim.x * blockDim.y + thread];
    });
    INFO(way.name);
    CHECK(seen == std::vector<int>(seen.size(), 1));
    CHECK(emulation.stats().blocks == 6);
    CHECK(emulation.stats().threads == seen.size());
  }
}

TEST_CASE("a barrier lets all threads of a block see what the others stored in shared memory") {
  for (const Way& way : all_ways()) {
    std::vector<int> out(2 * kThreads);
    Emulation emulation(way.options);
    emulation.launch("reverse", 2, kThreads, 0, [&] {
      VGPU_SHARED(int, tile, kThreads);
      const int i = static_cast<int>(threadIdx.x);
      tile[i] = i + 1000 * static_cast<int>(blockIdx.x);
      __syncthreads();
      out[static_cast<size_t>(blockIdx.x * kThreads) + threadIdx.x] = tile[kThreads - 1 - i];
    });
    INFO(way.name);
    for (int i = 0; i < 2 * kThreads; ++i) {
      REQUIRE(out[static_cast<size_t>(i)] == i / kThreads * 1000 + kThreads - 1 - i % kThreads);
    }
  }
}

TEST_CASE("shared memory that nobody wrote is not a number") {
  float seen = 0;
  Emulation emulation;
  emulation.launch("unwritten", 1, 1, 0, [&] {
    VGPU_SHARED(float, tile, 4);
    seen = tile[2];
  });
  CHECK(seen != seen);
}

TEST_CASE("shuffles and votes move values between the lanes of a warp, also of a part of one") {
  for (const Way& way : all_ways()) {
    Emulation emulation(way.options);
    emulation.launch("lanes", 1, 40, 0, [&] {  // the second warp has eight lanes
      const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
      const int other = __shfl_xor_sync(kAllLanes, lane * lane, 1);
      if (other != (lane ^ 1) * (lane ^ 1)) throw KernelFault("wrong xor");
      if (__shfl_sync(kAllLanes, lane, 5) != 5) throw KernelFault("wrong lane");
      if (__any_sync(kAllLanes, lane == 6 ? 1 : 0) == 0) throw KernelFault("missed a vote");
      if (__any_sync(kAllLanes, 0) != 0) throw KernelFault("saw a vote");
    });
  }
}

TEST_CASE("a barrier that not all threads reach is a fault that says where") {
  for (const Way& way : all_ways()) {
    INFO(way.name);
    const auto divergent = [] {
      if (threadIdx.x < 50) {
        __syncthreads();
      } else {
        __syncthreads();
      }
    };
    CHECK(says(fault_of(way, divergent), "divergent __syncthreads"));
  }
}

TEST_CASE("lanes that wait for lanes which never come are a fault") {
  for (const Way& way : all_ways()) {
    INFO(way.name);
    const auto absent = [] {
      if (threadIdx.x % kWarpSize != 31) (void)__shfl_xor_sync(kAllLanes, 1, 1);
    };
    CHECK(says(fault_of(way, absent), "wait for lanes of their warp"));
    const auto outside = [] { (void)__shfl_sync(0xFFFFU, 1, 1); };
    CHECK(says(fault_of(way, outside), "which it is none of"));
    const auto from_outside = [] {
      if (threadIdx.x % kWarpSize < 16) (void)__shfl_sync(0xFFFFU, 1, 20);
    };
    CHECK(says(fault_of(way, from_outside), "which is not in mask"));
  }
}

TEST_CASE(
    "asynchronous copies have landed once they are waited for, and not before a late one is") {
  for (const Way& way : all_ways()) {
    alignas(16) std::array<uint32_t, 4 * 32> from{};
    for (uint32_t i = 0; i < from.size(); ++i) from[i] = i;
    std::array<uint32_t, 32> first{};   // of each thread's copy, before it is waited for
    std::array<uint32_t, 32> copied{};  // of another thread's, behind a barrier
    std::array<uint32_t, 32> filled{};
    Emulation emulation(way.options);
    emulation.launch("copies", 1, 32, 0, [&] {
      VGPU_SHARED(uint32_t, tile, 4 * 32);
      const unsigned i = threadIdx.x;
      copy_async16(tile + 4 * i, from.data() + 4 * i, i == 3 ? 8 : 16);
      commit_copies();
      first[i] = tile[4 * i];
      wait_copies<0>();
      __syncthreads();
      copied[i] = tile[4 * (31 - i)];
      filled[i] = tile[4 * i + 3];
    });
    INFO(way.name);
    for (uint32_t i = 0; i < 32; ++i) {
      CHECK(first[i] == (way.options.early_copies ? 4 * i : 0xFFFFFFFFU));
      CHECK(copied[i] == 4 * (31 - i));
      CHECK(filled[i] == (i == 3 ? 0 : 4 * i + 3));
    }
  }
  alignas(16) std::array<uint8_t, 32> bytes{};
  const auto misaligned = [&] {
    VGPU_SHARED(uint8_t, tile, 32);
    copy_async16(tile + 8, bytes.data(), 16);
  };
  CHECK(says(fault_of(Way{}, misaligned), "misaligned"));
}

TEST_CASE("the last groups of asynchronous copies may still be on their way") {
  Emulation emulation;
  alignas(16) std::array<uint32_t, 8> from{1, 1, 1, 1, 2, 2, 2, 2};
  std::array<uint32_t, 2> seen{};
  emulation.launch("groups", 1, 1, 0, [&] {
    VGPU_SHARED(uint32_t, tile, 8);
    copy_async16(tile, from.data(), 16);
    commit_copies();
    copy_async16(tile + 4, from.data() + 4, 16);
    commit_copies();
    wait_copies<1>();
    seen = {tile[0], tile[4]};
  });
  CHECK(seen == std::array<uint32_t, 2>{1, 0xFFFFFFFFU});
}

TEST_CASE("what no GPU could launch is a fault") {
  Emulation emulation;
  const auto nothing = [] {};
  CHECK_THROWS_AS(emulation.launch("threads", 1, 1025, 0, nothing), KernelFault);
  CHECK_THROWS_AS(emulation.launch("no block", dim3(1, 0), 1, 0, nothing), KernelFault);
  CHECK_THROWS_AS(emulation.launch("shared", 1, 32, size_t{48} * 1024 + 1, nothing), KernelFault);
  const Way way;
  CHECK(says(fault_of(
                 way,
                 [] {
                   VGPU_SHARED(char, big, 30 * 1024);
                   (void)big;
                 },
                 20 * 1024),
             "more than the 49152 of a block"));
}

TEST_CASE("a misaligned load or store is a fault") {
  alignas(16) std::array<uint8_t, 16> bytes{};
  const Way way;
  CHECK(says(fault_of(way, [&] { (void)load_u32(bytes.data() + 2); }), "misaligned"));
  CHECK(says(fault_of(way, [&] { store_u16(bytes.data() + 1, 1); }), "misaligned"));
}

TEST_CASE("after a fault the emulation runs the next launch") {
  Emulation emulation;
  CHECK_THROWS_AS(emulation.launch("fault", 1, 64, 0,
                                   [] {
                                     if (threadIdx.x > 0) __syncthreads();
                                   }),
                  KernelFault);
  std::array<int, 64> ran{};
  emulation.launch("sound", 1, 64, 0, [&] {
    __syncthreads();
    ran[threadIdx.x] = 1;
  });
  CHECK(std::count(ran.begin(), ran.end(), 1) == 64);
}

}  // namespace tandem::gpu::emulated
