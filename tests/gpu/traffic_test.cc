// Bytes that emulated kernels move, counted at their loads and stores: the counter on a kernel that
// can be counted by hand, and a decode token of the demo model.
#include "bench/gpu/token_traffic.h"
#include "kernels/gpu/vgpu.h"
#include "kernels/parallel.h"
#include "tests/gpu/gpu_testing.h"
#include "tests/support/catch.h"

namespace tandem::testing {
namespace {

using gpu::emulated::copy_async16;
using vgpu::Traffic;

struct Memory {
  alignas(vgpu::kSectorBytes) float x[16];
  float y[4][64];
};

// Each of four blocks reads all of x, writes a row of y and adds it to itself.
void row(Memory* m) {
  VGPU_SHARED(float, staged, 16);
  const unsigned i = threadIdx.x;
  if (i < 4) copy_async16(&staged[4 * i], &m->x[4 * i], 16);
  gpu::emulated::commit_copies();
  gpu::emulated::wait_copies<0>();
  gpu::emulated::__syncthreads();
  for (unsigned at = i; at < 64; at += 32) m->y[blockIdx.x][at] = staged[at % 16];
  for (unsigned at = i; at < 64; at += 32) m->y[blockIdx.x][at] += m->y[blockIdx.x][at];
}

}  // namespace

TEST_CASE("reads and writes are counted once a block and once a launch, in whole sectors") {
  Memory memory{};
  memory.x[15] = 3;
  vgpu::count_traffic(&memory, sizeof memory);
  vgpu::Emulation emulation;
  for (int launch = 0; launch < 2; ++launch) {
    emulation.launch("rows", 4, 32, 0, [&] { row(&memory); });
  }
  CHECK(memory.y[3][63] == 6);
  const Traffic counted = vgpu::take_traffic()["rows"];
  constexpr uint64_t kRow = 64 * sizeof(float);
  CHECK(counted.launches == 2);
  CHECK(counted.read_once == 2 * (sizeof memory.x + 4 * kRow));
  CHECK(counted.read_by_blocks == 2 * 4 * (sizeof memory.x + kRow));
  CHECK(counted.written_once == 2 * 4 * kRow);
  CHECK(counted.written_by_blocks == 2 * 4 * kRow);
}

TEST_CASE("a decode token moves what its launches declare, and hardly more than its weights") {
  Model model = Model::load(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf"));
  model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
  const int32_t tokens = 4;
  const TokenTraffic traffic = token_traffic(model, tokens);
  Traffic all;
  for (const auto& [name, t] : traffic.by_kernel) {
    all.read_once += t.read_once;
    all.read_by_blocks += t.read_by_blocks;
    all.written_once += t.written_once;
    all.written_by_blocks += t.written_by_blocks;
  }
  const auto to = [&](uint64_t bytes, int64_t of) {
    return static_cast<double>(bytes) / static_cast<double>(of * tokens);
  };
  CHECK(to(all.read_once + all.written_once, traffic.declared) == Approx(1).epsilon(0.02));
  // Activations are 6 percent of this small model, and blocks read them again: from L2.
  CHECK(to(all.read_once + all.written_once, traffic.fewest) < 1.07);
  CHECK(to(all.read_by_blocks + all.written_by_blocks, traffic.fewest) < 1.2);
  // Two blocks never write the same sector.
  CHECK(all.written_by_blocks == all.written_once);
}

}  // namespace tandem::testing
