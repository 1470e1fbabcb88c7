#include "runtime/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/dot_tile.h"
#include "kernels/onednn_tile.h"
#include "kernels/simd.h"
#include "runtime/device/cpu_quota.h"
#include "runtime/device/cpu_topology.h"
#include "runtime/device/thread_count.h"
#include "runtime/engine/device_choice.h"
#include "runtime/engine/engine_scheduling.h"
#include "runtime/engine/host_vector.h"
#include "runtime/engine/shape_choice.h"
#include "runtime/error.h"
#include "runtime/pregate/pregate_file.h"
#include "runtime/words.h"
#include "scheduler/first_contents.h"
#include "scheduler/make_scheduling.h"

namespace tandem {
namespace {

ThreadPool make_pool(const EngineSettings& settings, std::vector<EffectiveSetting>* effective) {
  constexpr int kMostThreads = 512;
  if (settings.n_threads < 0 || settings.n_threads > kMostThreads) {
    throw ConfigError(fmt::format("-t is {}; expected 0 (all physical cores) to {}",
                                  settings.n_threads, kMostThreads));
  }
  const CpuTopology cpu = CpuTopology::of_this_machine();
  const ThreadCount count = thread_count(settings.n_threads, cpu, cpu_quota());
  effective->push_back({"threads",
                        settings.n_threads == 0 ? "auto" : std::to_string(settings.n_threads),
                        std::to_string(count.n), count.reason});
  const bool spread = settings.numa && cpu.n_nodes() > 1;
  effective->push_back({"numa", settings.numa ? "distribute" : "off", spread ? "distribute" : "off",
                        settings.numa && !spread ? "there is one node" : ""});
  return ThreadPool(count.n, spread ? &cpu : nullptr);
}

}  // namespace

Engine::Engine(const Model& model, const MachineProfile& machine, const EngineSettings& settings)
    : Engine(model, machine, settings, open_device(settings, machine)) {}

Engine::Engine(const Model& model, const MachineProfile& machine, const EngineSettings& settings,
               OpenDevice device)
    : model_(model),
      costs_(machine),
      effective_{device.setting},
      device_(std::move(device.device)),
      shape_(choose_shape(model, machine, settings, *device_, &effective_)),
      pool_(make_pool(settings, &effective_)),
      copied_(settings.copied) {
  TANDEM_CHECK(model.usable(), "weights of %s are not in memory yet", model.file().name().c_str());
  if (settings.pregate) check_pregate_fits(*settings.pregate, model, settings.pregate_from);
  choose_products(machine);
  make_executor(settings);
  pin_experts();
  make_cache(settings);
  loaded_bytes_h2d_ = device_->copied_to_device_bytes();
}

// What products are computed by: our kernels, or oneDNN for BF16 and many tokens.
void Engine::choose_products(const MachineProfile& machine) {
  const char* isa = std::getenv("TANDEM_ISA");
  const bool forced = isa != nullptr && *isa != '\0';
  effective_.push_back(
      {"kernels", forced ? isa : "auto", simd().name, forced ? "" : "the best that this CPU runs"});
  const int64_t from = machine.cpu.onednn_bf16_tokens;
  const char* missing = onednn_tile_missing();
  const bool reached = from <= kTokenTile;
  const bool used = from > 0 && missing == nullptr && reached;
  use_onednn_from(used ? from : kOnednnNever);
  if (from == 0) return;
  const std::string wanted = fmt::format("from {} tokens on", from);
  const std::string reason = missing != nullptr ? missing
                             : reached          ? "BF16 weights"
                                       : fmt::format("products take {} at a time", kTokenTile);
  effective_.push_back({"onednn", wanted, used ? wanted : "never", reason});
}

// Copies of experts run at the link's speed from locked pages only.
void Engine::pin_experts() {
  const std::span<const std::byte> experts = model_.packed_bytes();
  if (device_->info().host_memory || device_->info().simulated || experts.empty()) return;
  const std::string refused =
      device_->pin_host(experts.data(), static_cast<int64_t>(experts.size()));
  effective_.push_back({"pinned experts", "auto", refused.empty() ? "yes" : "no", refused});
}

void Engine::make_cache(const EngineSettings& settings) {
  const CacheShape& shape = executor_->cache_shape();
  const bool holds_all = executor_->n_slots() >= shape.n_layers * shape.n_experts;
  const Abilities can{executor_->n_slots() > 0, shape.pieces > 1, executor_->streams(), holds_all,
                      shape_.lookahead.count > 0};
  const SchedulingSettings used = effective_scheduling(settings, can, &effective_);
  cache_ = std::make_unique<ExpertCache>(shape, make_policy(used, shape, executor_->decoupled()));
  const std::vector<ExpertCost> experts = expert_costs(model_);
  planner_ = std::make_unique<Planner>(costs_, experts, planner_settings(used, can));
  prefetcher_ = make_prefetcher(used, costs_, experts, *cache_, nullptr);
  if (holds_all) start_with(hot_set());
}

void Engine::make_executor(const EngineSettings& settings) {
  try {
    executor_ = std::make_unique<HybridExecutor>(model_, *device_, pool_, costs_, shape_,
                                                 cache_wish(settings));
  } catch (const HostMemoryError& error) {
    throw MemoryError(fmt::format("{}; lower -b", error.what()));
  } catch (const MemoryError& error) {
    throw MemoryError(fmt::format("{} (the KV cache takes {}); {}", error.what(),
                                  bytes_text(kv_cache_bytes(model_.config(), shape_)),
                                  memory_advice(settings, device_->info(), shape_.n_ctx)));
  }
  EffectiveSetting slots =
      slots_setting(settings, model_.config(), device_->info(), executor_->n_slots(),
                    device_->used_bytes() - executor_->slots_bytes());
  if (const std::string& refused = executor_->refused_slots(); !refused.empty()) {
    slots.reason = "the device refused slots or buffers, although they seemed to fit: " + refused;
  }
  effective_.push_back(std::move(slots));
}

std::span<const float> Engine::eval(std::span<const int32_t> tokens, int64_t n_logits,
                                    const std::function<bool(int64_t done)>& progress) {
  const auto n = static_cast<int64_t>(tokens.size());
  if (position_ + n > shape_.n_ctx) {
    throw ConfigError(fmt::format("{} tokens after {} do not fit into the context of {}; raise -c",
                                  n, position_, shape_.n_ctx));
  }
  if (executor_->decoupled() != nullptr && !route(tokens, progress)) return {};
  std::span<const float> logits;
  for (int64_t done = 0; done < n;) {
    const int64_t size = std::min(n - done, shape_.n_batch);
    const bool last = done + size == n;
    const Batch batch{tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(size)),
                      position_, static_cast<int32_t>(last ? n_logits : 0)};
    if (!step(batch, done, progress, &logits)) return {};
    done += size;
  }
  if (!all_finite(logits)) {
    model_.check_finite();  // names the tensor
    throw FileError(model_.file().name(), "the model gives logits that are not finite");
  }
  return logits;
}

bool Engine::route(std::span<const int32_t> tokens,
                   const std::function<bool(int64_t done)>& progress) {
  executor_->finish_stopped();  // it uses the pool
  const auto known = executor_->decoupled()->know(tokens, position_, pool_,
                                                  [&] { return !progress || progress(0); });
  if (known == DecoupledRoutes::Known::kNotFinite) {
    throw FileError(model_.file().name(), "its router gives values that are not finite");
  }
  return known == DecoupledRoutes::Known::kAll;
}

bool Engine::step(const Batch& batch, int64_t done,
                  const std::function<bool(int64_t done)>& progress,
                  std::span<const float>* logits) {
  const auto size = static_cast<int64_t>(batch.tokens.size());
  if (progress) {
    executor_->set_layer_hook([&progress, done, size, this](int64_t layers) {
      return progress(done + size * layers / executor_->n_layers());
    });
  }
  // The hook refers to `progress`, so it must not outlive this call, whatever ends it.
  const auto remove_hook = [this](void*) { executor_->set_layer_hook({}); };
  const std::unique_ptr<void, decltype(remove_hook)> guard(this, remove_hook);
  try {
    *logits = run_step(batch, *executor_, *planner_, *cache_, *prefetcher_, plan_);
  } catch (const StepStopped&) {
    return false;
  }
  position_ += size;
  if (progress) progress(done + size);
  return true;
}

int32_t Engine::start_with(const HotSet& hot) {
  std::vector<SlotId> free;
  for (int32_t s = 0; s < cache_->n_slots(); ++s) {
    if (!cache_->occupant(SlotId{s}).layer.valid()) free.push_back(SlotId{s});
  }
  fill_saved(hot, cache_.get());
  const auto expert_bytes = [&](LayerId layer) {
    return cache_->shape().expert_bytes[static_cast<size_t>(layer.value)];
  };
  std::vector<std::vector<CopySlice>> by_layer(static_cast<size_t>(cache_->shape().n_layers));
  const int32_t pieces = cache_->shape().pieces;
  int64_t bytes = 0;
  int32_t came_in = 0;
  for (const SlotId slot : free) {
    const ExpertKey key = cache_->occupant(slot);
    if (!key.layer.valid()) continue;
    by_layer[static_cast<size_t>(key.layer.value)].push_back({key, slot, 0, pieces});
    bytes += expert_bytes(key.layer);
    ++came_in;
  }
  int64_t done = 0;
  for (const std::vector<CopySlice>& slices : by_layer) {
    if (slices.empty()) continue;
    copy_now(slices);
    done += static_cast<int64_t>(slices.size()) * expert_bytes(slices[0].key.layer);
    if (copied_) copied_(done, bytes);
  }
  loaded_bytes_h2d_ = device_->copied_to_device_bytes();
  return came_in;
}

// Experts of a layer, into the slots that the cache has given them.
void Engine::copy_now(std::span<const CopySlice> slices) {
  std::vector<ModelTime> landed(slices.size());
  executor_->prefetch(slices, landed);
  for (size_t i = 0; i < slices.size(); ++i) {
    cache_->set_pieces(slices[i].slot, cache_->shape().pieces, landed[i]);
  }
  device_->host_wait_all();
}

HotSet Engine::hot_set() const {
  HotSet hot = hot_set_of(*cache_);
  hot.model = model_.config().name;
  return hot;
}

void Engine::rewind(int64_t position) {
  TANDEM_CHECK(position >= 0 && position <= position_, "%lld of %lld",
               static_cast<long long>(position), static_cast<long long>(position_));
  position_ = position;
}

EngineStats Engine::stats() const {
  return {cache_->stats(),
          executor_->stats(),
          prefetcher_->stats(),
          device_->copied_to_device_bytes() - loaded_bytes_h2d_,
          executor_->graphs_refused(),
          std::max(device_->host_now_us(), device_->stream_now_us(Stream::kCompute)) * 1e-6};
}

}  // namespace tandem
