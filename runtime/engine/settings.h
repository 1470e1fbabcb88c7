// What a user may ask of the engine, and what became of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kernels/attention.h"
#include "runtime/device/sim_settings.h"
#include "runtime/pregate/decoupled_router.h"
#include "runtime/pregate/pregate.h"
#include "scheduler/scheduling_settings.h"

namespace tandem {

// kSim: a simulated GPU with the CPU's kernels; kSimCuda: with CUDA kernels, emulated.
enum class DeviceKind { kAuto, kCpu, kCuda, kSim, kSimCuda };

inline constexpr int64_t kDefaultContext = 4096;

// What may be lowered so that a GPU's memory is enough.
struct FitSettings {
  bool batch = false;                   // the batch; a context of 0 always may
  int64_t least_ctx = kDefaultContext;  // of a context of 0; or the model's, if that is less
};

struct EngineSettings {
  DeviceKind device = DeviceKind::kAuto;
  SimSettings sim{};                           // of a simulated one; which kernels, `device` says
  std::optional<int64_t> vram_bytes{};         // default: the machine profile's
  std::optional<int64_t> vram_margin_bytes{};  // of a real one without vram_bytes, what to leave
  std::optional<FitSettings> fit{};            // nothing is lowered without it
  std::optional<int32_t> expert_slots{};       // default: what fits into the VRAM
  SchedulingSettings scheduling{};             // what a policy file says
  std::optional<std::string> cache_policy{};   // instead of its eviction policy
  std::optional<int32_t> cache_inserts{};      // instead of its prefetch.fills
  std::shared_ptr<const Pregate> pregate{};    // in the place of reused gates
  std::shared_ptr<const DecoupledRouter> router{};  // of a model whose layers have none
  std::string pregate_from{};                       // the file of either, for messages
  int32_t recorded_distances = 0;                   // layers ahead that are guessed in any case
  int64_t n_ctx = 0;                                // 0: the model's own, at most kDefaultContext
  int64_t n_batch = 512;
  int64_t max_logits = 1;
  int n_threads = 0;  // 0: the physical cores that this process may use
  bool numa = true;   // spreads threads where there are several nodes
  KvType kv_type_k = KvType::kF16;
  KvType kv_type_v = KvType::kF16;
  // Told after each layer whose experts have been copied into slots before there are tokens to
  // compute: bytes done, and of how many.
  std::function<void(int64_t done, int64_t of)> copied{};
};

// One line of "requested and effective".
struct EffectiveSetting {
  std::string name;
  std::string requested;
  std::string effective;
  std::string reason;  // why it is so; empty where the two are the same
};

}  // namespace tandem
