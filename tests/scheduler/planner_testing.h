// A planning problem, and what a choice of fetched experts costs, worked out independently of the
// planner: residents first, then the fetched ones behind their copies, heaviest first; the CPU
// takes the rest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "cache/expert_cache.h"
#include "scheduler/planner.h"
#include "tests/scheduler/scheduler_testing.h"

namespace tandem::test {

struct Problem {
  struct Expert {
    int count = 0;  // tokens; 0: not activated
    bool resident = false;
    ModelTime ready = 0;  // of a resident
  };
  MachineProfile machine = round_machine();
  ExpertCost cost{4'000'000, 2'000'000, 3};
  std::vector<Expert> experts;
  int32_t n_slots = 8;  // at least the residents
  Clocks now;
  PlannerSettings settings;

  std::vector<int> counts() const {
    std::vector<int> out;
    for (const Expert& e : experts) out.push_back(e.count);
    return out;
  }
  ExpertCache cache() const {
    const CacheShape shape{1, static_cast<int32_t>(experts.size()), n_slots};
    ExpertCache cache(shape, make_eviction_policy("lru", shape));
    for (size_t e = 0; e < experts.size(); ++e) {
      if (!experts[e].resident) continue;
      const ExpertId id{static_cast<int32_t>(e)};
      SlotId slot;
      cache.commit({LayerId{0}, {}, {&id, 1}, {&slot, 1}, {&experts[e].ready, 1}});
    }
    return cache;
  }
};

inline LayerPlan plan_of(const Problem& p) {
  const Loads loads(0, p.counts());
  const ExpertCache cache = p.cache();
  Planner planner(CostModel(p.machine), {p.cost}, p.settings);
  LayerPlan plan;
  planner.plan(loads.decision, cache, p.now, &plan);
  return plan;
}

// Activated experts that are resident or absent, heaviest first, ties by id.
inline std::vector<size_t> heaviest_first(const Problem& p, bool resident) {
  std::vector<size_t> out;
  for (size_t e = 0; e < p.experts.size(); ++e) {
    if (p.experts[e].count > 0 && p.experts[e].resident == resident) out.push_back(e);
  }
  std::stable_sort(out.begin(), out.end(),
                   [&](size_t a, size_t b) { return p.experts[a].count > p.experts[b].count; });
  return out;
}

// fetch: bit i stands for the i-th heaviest absent expert.
inline ModelTime makespan(const Problem& p, uint32_t fetch) {
  const MachineProfile& m = p.machine;
  const auto bytes = static_cast<double>(p.cost.bytes);
  const auto on = [&](double gbps, double gflops, size_t e) {
    const double flops = static_cast<double>(p.cost.flops_per_token) * p.experts[e].count;
    return std::max(bytes / (gbps * 1e3), flops / (gflops * 1e3));
  };
  double gpu = p.now.gpu;
  for (const size_t e : heaviest_first(p, true)) {
    gpu =
        std::max(gpu, p.experts[e].ready) + m.gpu.launch_us + on(m.gpu.read_gbps, m.gpu.gflops, e);
  }
  double cpu = p.now.cpu;
  double link = p.now.link;
  bool first_on_cpu = true;
  const auto absent = heaviest_first(p, false);
  for (size_t i = 0; i < absent.size(); ++i) {
    if ((fetch >> i & 1U) != 0) {
      link += p.cost.copies * m.link.latency_us + bytes / (m.link.h2d_gbps * 1e3);
      gpu = std::max(gpu, link) + m.gpu.launch_us + on(m.gpu.read_gbps, m.gpu.gflops, absent[i]);
    } else {
      cpu +=
          (first_on_cpu ? m.cpu.first_expert_us : 0) + on(m.cpu.read_gbps, m.cpu.gflops, absent[i]);
      first_on_cpu = false;
    }
  }
  return std::max(cpu, gpu);
}

// The room beside the residents that this layer uses.
inline int room(const Problem& p) {
  return p.settings.use_gpu ? p.n_slots - static_cast<int>(heaviest_first(p, true).size()) : 0;
}

// A problem with up to 10 experts. `most_tokens`: of one expert; 1 is decoding.
inline Problem random_problem(std::mt19937& random, const MachineProfile& machine,
                              int most_tokens) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  Problem p;
  p.machine = machine;
  p.cost.bytes = 200'000 + int64_t{below(200)} * 50'000;
  p.cost.flops_per_token = p.cost.bytes * 7 / 2;  // 2 per weight of 4.5 bits
  p.now = {1000.0 + below(500), 1000.0 + below(1500), 1000.0 + below(1500)};
  p.experts.resize(1 + static_cast<size_t>(below(10)));
  int residents = 0;
  for (Problem::Expert& e : p.experts) {
    e.count = below(5) == 0 ? 0 : 1 + below(most_tokens);
    e.resident = below(3) == 0;
    e.ready = below(2) == 0 ? 0 : 1000.0 + below(2000);
    residents += e.resident ? 1 : 0;
  }
  p.n_slots = residents + below(8);
  return p;
}

}  // namespace tandem::test
