// Runs CUDA kernels on the CPU: a fiber for each CUDA thread, a block at a time. It is there to
// check kernels, not to be fast: threads run in an order that tests choose, asynchronous copies
// land as early or as late as they may, and what CUDA leaves undefined ends a launch with
// KernelFault: a barrier that not all threads reach, a shuffle with a lane that is not there, too
// much shared memory. Under ASan and TSan it also tells these what a CUDA thread is.
//
// What it cannot show: speed, coalescing, the rounding of tensor cores and of approximate
// functions, weak memory between blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/function_ref.h"

namespace tandem::vgpu {

// Threads that may run, in the order of their numbers or another; blocks alike.
enum class Order : uint8_t { kForward, kReverse, kRandom };

struct EmulationOptions {
  Order order = Order::kForward;
  uint64_t seed = 1;
  bool early_copies = false;  // cp.async lands when issued, not when waited for
  // Of a block, static and dynamic: what every GPU gives where nobody asks for more, which would
  // take a call for each kernel.
  size_t shared_bytes = size_t{48} * 1024;
};

struct Size3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  constexpr Size3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)  // NOLINT: as dim3
      : x(x_size), y(y_size), z(z_size) {}
  constexpr uint64_t count() const { return uint64_t{x} * y * z; }
};

struct EmulationStats {
  uint64_t launches = 0;
  uint64_t blocks = 0;
  uint64_t threads = 0;
};

// A kernel's argument as it gets it. What `meant` has no bits for is padding.
struct Argument {
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> meant;
};

struct Launch {
  std::string name;  // of the kernel, with the template arguments of its source
  Size3 grid;
  Size3 block;
  uint64_t dynamic_shared_bytes;
  std::vector<Argument> arguments;
};

// What a kernel did that CUDA does not define.
class KernelFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class BlockRunner;

// Stands in for a CUDA stream where kernels are launched. One host thread at a time.
class Emulation {
 public:
  explicit Emulation(const EmulationOptions& options = {});
  ~Emulation();
  Emulation(const Emulation&) = delete;
  Emulation& operator=(const Emulation&) = delete;

  // Runs body() once as each CUDA thread, and returns when all have ended; KernelFault. Or keeps a
  // copy of it, while work is captured.
  template <typename F>
  void launch(const char* name, Size3 grid, Size3 block, size_t dynamic_shared_bytes,
              const F& body) {
    check_launch(name, grid, block, dynamic_shared_bytes);
    if (log_ != nullptr) log_->push_back({name, grid, block, dynamic_shared_bytes, {}});
    if (!capturing_) return run(name, grid, block, dynamic_shared_bytes, body);
    captured_.emplace_back([this, name, grid, block, dynamic_shared_bytes, body] {
      run(name, grid, block, dynamic_shared_bytes, body);
    });
  }

  // As streams of CUDA capture graphs: from begin_capture() on nothing runs; end_capture() gives
  // what would have, in its order, with the arguments that it had, to be called as often as is
  // wanted while this lives.
  using Captured = std::vector<std::function<void()>>;
  void begin_capture() { capturing_ = true; }
  Captured end_capture() {
    capturing_ = false;
    return std::exchange(captured_, {});
  }
  bool capturing() const { return capturing_; }
  // Other work of the stream's: done now, or captured.
  void enqueue(std::function<void()> work) {
    if (!capturing_) return work();
    captured_.push_back(std::move(work));
  }

  const EmulationStats& stats() const { return stats_; }
  // What is launched from now on is told there, too; nullptr: no longer.
  void log_launches(std::vector<Launch>* to) { log_ = to; }
  // The arguments of the launch that was told last.
  template <typename... Parameters, typename... Arguments>
  void log_arguments(void (* /*kernel*/)(Parameters...), const Arguments&... arguments) {
    if (log_ != nullptr) (log_argument<Parameters>(arguments), ...);
  }

 private:
  template <typename T>
  void log_argument(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    constexpr size_t kBytes = sizeof(T);
    Argument logged{std::vector<uint8_t>(kBytes), std::vector<uint8_t>(kBytes, 0xFF)};
    std::memcpy(logged.bytes.data(), &value, kBytes);
#if __has_builtin(__builtin_clear_padding)
    alignas(T) unsigned char meant[kBytes];
    std::memset(meant, 0xFF, kBytes);
    __builtin_clear_padding(reinterpret_cast<T*>(meant));
    std::memcpy(logged.meant.data(), meant, kBytes);
#endif
    log_->back().arguments.push_back(std::move(logged));
  }
  void check_launch(const char* name, Size3 grid, Size3 block, size_t dynamic_shared_bytes) const;
  void run(const char* name, Size3 grid, Size3 block, size_t dynamic_shared_bytes,
           FunctionRef<void()> body);

  EmulationOptions options_;
  EmulationStats stats_;
  bool capturing_ = false;
  Captured captured_;
  std::vector<Launch>* log_ = nullptr;
  std::unique_ptr<BlockRunner> runner_;
};

}  // namespace tandem::vgpu
