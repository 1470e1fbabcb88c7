// The figures that others found on the recorded traces; bench/README.md has them beside ours.
#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "bench/scheduling/studies.h"
#include "scheduler/replay.h"

namespace tandem::bench {
namespace {

constexpr int64_t kBytes = int64_t{4000} << 20;

double per_cent(const CacheStats& stats) { return 100 * SimResult::hit_rate_of(stats); }

CacheStats operator+(CacheStats a, const CacheStats& b) {
  a.hits += b.hits;
  a.misses += b.misses;
  return a;
}

CacheStats all_of(const ReplayResult& result) { return result.warm + result.cold; }

ReplayInput lru_of(const Workload& load, int64_t bytes) {
  ReplayInput input;
  input.trace = &load.trace;
  input.expert_bytes = load.shape.expert_bytes;
  input.capacity_bytes = bytes;
  return input;
}

// An LRU list over bytes, whatever the sizes of its experts. Our cache has slots of fixed sizes
// instead and so hits a little differently where layers are quantised differently.
class ByteLru {
 public:
  ByteLru(const Workload& load, int64_t capacity) : load_(load), left_(capacity) {}

  // The experts that a layer's tokens ask for, in one event.
  void use(int32_t layer, const std::vector<int16_t>& experts) {
    std::vector<ExpertKey> absent;
    for (const int16_t id : experts) {
      const ExpertKey key{LayerId{layer}, ExpertId{id}};
      const auto found = where_.find(key);
      if (found == where_.end()) {
        absent.push_back(key);
      } else {
        order_.splice(order_.end(), order_, found->second);
      }
    }
    stats_.hits += experts.size() - absent.size();
    stats_.misses += absent.size();
    for (const ExpertKey key : absent) {
      left_ -= bytes(key);
      where_[key] = order_.insert(order_.end(), key);
    }
    while (left_ < 0) {
      left_ += bytes(order_.front());
      where_.erase(order_.front());
      order_.pop_front();
    }
  }
  const CacheStats& stats() const { return stats_; }

 private:
  int64_t bytes(ExpertKey key) const {
    return load_.shape.expert_bytes[static_cast<size_t>(key.layer.value)];
  }

  const Workload& load_;
  int64_t left_;
  std::list<ExpertKey> order_;  // used longest ago first
  std::map<ExpertKey, std::list<ExpertKey>::iterator> where_;
  CacheStats stats_;
};

double byte_lru(const Workload& load) {
  ByteLru lru(load, kBytes);
  for (const TraceStep& step : load.trace.steps) {
    for (int32_t layer = 0; layer < load.trace.header.n_layers; ++layer) {
      std::vector<int16_t> used;
      for (int64_t t = step.first_token; t < step.first_token + step.n_tokens; ++t) {
        const auto top_k = static_cast<size_t>(load.trace.header.top_k);
        for (const int16_t id : load.trace.ids_of(t, layer).first(top_k)) {
          const bool seen = std::find(used.begin(), used.end(), id) != used.end();
          if (id >= 0 && !seen) used.push_back(id);
        }
      }
      lru.use(layer, used);
    }
  }
  return per_cent(lru.stats());
}

double slot_lru(const Workload& load) {
  ReplayInput input = lru_of(load, kBytes);
  input.steps = decode_steps(load.trace);
  return per_cent(all_of(replay(input)));
}

// One expert after the other, each an event of its own: what event-atomic access is not.
Workload flattened(const Workload& load) {
  Workload flat{load.name, load.shape, {}};
  Trace& trace = flat.trace;
  trace.header = load.trace.header;
  trace.header.top_k = trace.header.n_ranks = 1;
  const auto n_layers = static_cast<size_t>(trace.header.n_layers);
  const auto top_k = static_cast<size_t>(load.trace.header.top_k);
  for (const TraceStep& step : load.trace.steps) {
    for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
      for (int64_t t = step.first_token; t < step.first_token + step.n_tokens; ++t) {
        for (const int16_t id : load.trace.ids_of(t, layer).first(top_k)) {
          if (id < 0) continue;
          trace.steps.push_back({step.sequence, step.prefill, trace.n_tokens(), 1});
          trace.ids.resize(trace.ids.size() + n_layers, -1);
          trace.ids[trace.ids.size() - n_layers + static_cast<size_t>(layer)] = id;
        }
      }
    }
  }
  trace.weights.assign(trace.ids.size(), 1.0F);
  return flat;
}

// Per-layer caches that start anew with each sequence.
double by_sequence(const Workload& load, const std::string& policy, int32_t slots) {
  ReplayInput input = lru_of(load, slots * all_expert_bytes(load.shape) / load.shape.n_experts);
  input.pool = PoolShape::kPerLayer;
  input.policy = policy;
  if (policy == "lfu") input.policy_values = {0};  // counts that never age
  const std::vector<SimStep> steps = decode_steps(load.trace);
  CacheStats all;
  for (size_t i = 0; i < steps.size(); ++i) {
    input.steps.push_back(steps[i]);
    const bool last =
        i + 1 == steps.size() || load.trace.steps[i + 1].sequence != load.trace.steps[i].sequence;
    if (!last) continue;
    all = all + all_of(replay(input));
    input.steps.clear();
  }
  return per_cent(all);
}

}  // namespace

void print_known_answers(const std::vector<Workload>& loads) {
  fmt::print("\nKnown answers: prefill and decode together, from empty caches, per cent\n\n");
  for (const Workload& load : loads) {
    const Workload flat = flattened(load);
    fmt::print("- {}: LRU over {} MiB {:.1f}, flattened {:.1f}; in our slots {:.1f}, {:.1f}\n",
               load.name, kBytes >> 20, byte_lru(load), byte_lru(flat), slot_lru(load),
               slot_lru(flat));
    const int32_t n = load.shape.n_experts;
    for (const std::string policy : {"lru", "lfu"}) {
      fmt::print("  - {} of", policy);
      for (const int32_t slots : {n / 8, n / 4, n * 3 / 8, n / 2, n * 3 / 4})
        fmt::print(" {}", slots);
      fmt::print(" slots a layer, anew each sequence, flattened:");
      for (const int32_t slots : {n / 8, n / 4, n * 3 / 8, n / 2, n * 3 / 4}) {
        fmt::print(" {:.1f}", by_sequence(flat, policy, slots));
      }
      fmt::print("\n");
    }
  }
}

}  // namespace tandem::bench
