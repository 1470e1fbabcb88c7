#include "kernels/gpu/emulation/emulation.h"

#include <string>

#include "kernels/gpu/emulation/block_runner.h"

namespace tandem::vgpu {
namespace {

constexpr uint64_t kMostThreads = 1024;  // of a block, on every GPU
constexpr uint64_t kMostBlocksYZ = 65535;

}  // namespace

Emulation::Emulation(const EmulationOptions& options)
    : options_(options), runner_(std::make_unique<BlockRunner>(options)) {}

Emulation::~Emulation() = default;

void Emulation::check_launch(const char* name, Size3 grid, Size3 block,
                             size_t dynamic_shared_bytes) const {
  const auto refuse = [&](const std::string& why) {
    throw KernelFault(std::string(name) + ": " + why);
  };
  if (block.count() == 0 || block.count() > kMostThreads) {
    refuse(std::to_string(block.count()) + " threads in a block; expected 1 to 1024");
  }
  if (grid.count() == 0 || grid.y > kMostBlocksYZ || grid.z > kMostBlocksYZ) {
    refuse("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
           std::to_string(grid.z) + " blocks");
  }
  if (dynamic_shared_bytes > options_.shared_bytes) {
    refuse(std::to_string(dynamic_shared_bytes) + " bytes of dynamic shared memory; a block has " +
           std::to_string(options_.shared_bytes));
  }
}

void Emulation::run(const char* name, Size3 grid, Size3 block, size_t dynamic_shared_bytes,
                    FunctionRef<void()> body) {
  ++stats_.launches;
  stats_.blocks += grid.count();
  stats_.threads += grid.count() * block.count();
  runner_->run_grid(name, grid, block, dynamic_shared_bytes, body);
}

}  // namespace tandem::vgpu
