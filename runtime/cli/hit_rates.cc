#include "runtime/cli/hit_rates.h"

#include <fmt/format.h>

#include <utility>

#include "scheduler/replay.h"

namespace tandem {
namespace {

constexpr const char* kBelady = "belady";
constexpr const char* kStatic = "static";

struct Replayed {
  SchedulingSettings settings;
  std::string name;
};

const char* slots_of(PoolShape pool) {
  if (pool == PoolShape::kShared) return "shared slots";
  return pool == PoolShape::kAdapted ? "adapted quotas" : "slots per layer";
}

// Each combination of policy, values, pool and contents once; Belady behind them.
std::vector<Replayed> list_replays(std::vector<SchedulingSettings> settings) {
  std::erase_if(settings, [](const SchedulingSettings& one) { return one.policy == kBelady; });
  const size_t n_causal = settings.size();
  for (size_t i = 0; i < n_causal; ++i) {
    if (settings[i].policy == kStatic) continue;  // no eviction that could be bounded
    settings.push_back(settings[i]);
    settings.back().policy = kBelady;
    settings.back().policy_values.clear();
    // Each policy has quotas of its own there; sharing bounds them all.
    if (settings[i].pool == PoolShape::kAdapted) settings.back().pool = PoolShape::kShared;
  }
  std::vector<Replayed> list;
  for (const SchedulingSettings& one : settings) {
    std::string name = fmt::format("{}, {}", one.policy, slots_of(one.pool));
    bool again = false;
    for (const Replayed& other : list) {
      if (other.settings.policy != one.policy || other.settings.pool != one.pool ||
          other.settings.contents != one.contents) {
        continue;
      }
      if (other.settings.policy_values == one.policy_values) again = true;
      if (other.name == name) name += " (" + one.name + ")";  // the same with other values
    }
    if (!again) list.push_back({one, std::move(name)});
  }
  return list;
}

}  // namespace

std::vector<HitRate> replay_hit_rates(const Trace& trace, const ModelShape& shape,
                                      const std::vector<SchedulingSettings>& settings,
                                      const HitRate& same) {
  const std::vector<SimStep> steps = decode_steps(trace);
  ReplayInput input;
  input.trace = &trace;
  input.expert_bytes = shape.expert_bytes;
  input.capacity_bytes = same.cache_bytes;
  input.learn = learning_steps(steps);
  input.steps = measured_steps(steps);

  std::vector<HitRate> rates;
  for (const Replayed& one : list_replays(settings)) {
    input.policy = one.settings.policy;
    input.policy_values = one.settings.policy_values;
    input.pool = one.settings.pool;
    input.contents = one.settings.contents;
    // Static contents are what their name says only where nobody has to come in.
    input.admission.rule =
        input.policy == kStatic ? AdmissionRule::kIfBetter : AdmissionRule::kAlways;
    HitRate& rate = rates.emplace_back(same);
    rate.policy = one.name;
    rate.bound = input.policy == kBelady;
    rate.value = SimResult::hit_rate_of(replay(input).warm);
  }
  return rates;
}

}  // namespace tandem
