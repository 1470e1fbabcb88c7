// How a simulated GPU behaves. The defaults are those of a run; tests look for what others do.
#pragma once

#include <cstdint>

namespace tandem {

enum class SimKernels : uint8_t {
  kHost,      // bodies of launches compute, with the CPU's kernels
  kEmulated,  // they enqueue CUDA kernels, which are emulated
};

// When work takes effect, in any order that streams and waits allow.
enum class SimSchedule : uint8_t {
  kAtOnce,  // when it is enqueued
  kLate,    // when the host waits for it, or for what waits for it
  kTimed,   // when the host waits: all that ends sooner by the modelled times, in their order
  kRandom,  // in between
};

enum class SimFault : uint8_t {
  kNone,
  kAtOnce,  // the call fails
  kLater,   // the call succeeds, its work is not done; the next host_wait() fails
};

struct SimSettings {
  SimKernels kernels = SimKernels::kHost;
  SimSchedule schedule = SimSchedule::kAtOnce;  // others: of emulated kernels only
  uint64_t seed = 1;
  // Every access is checked against those that it is not ordered with; HazardError.
  bool check_hazards = false;
  // The n-th call of alloc, copy, launch or host_wait from now on, from 0.
  SimFault fault = SimFault::kNone;
  uint64_t fault_call = 0;
};

}  // namespace tandem
