// Round numbers for scheduler tests: a machine on which costs can be worked out in one's head.
#pragma once

#include <vector>

#include "scheduler/executor.h"
#include "scheduler/machine_profile.h"
#include "scheduler/routing.h"

namespace tandem::test {

// CPU 40 GB/s, 100 GFLOP/s; GPU 400 GB/s, 10 TFLOP/s; link 20 GB/s to the device, 10 GB/s back.
inline MachineProfile round_machine() {
  MachineProfile m;
  m.name = "round";
  m.cpu = {40, 100, 8};
  m.gpu = {int64_t{1} << 30, 400, 10000, 4};
  m.link = {20, 10, 5};
  m.dram_gbps = 50;
  return m;
}

// A routing decision with so many tokens for each expert of a layer; 0: not activated. Weights and
// ids by token are left out: planning doesn't look at them.
struct Loads {
  std::vector<ExpertLoad> loads;
  RoutingDecision decision;

  Loads(int layer, const std::vector<int>& counts) {
    int32_t first = 0;
    for (size_t e = 0; e < counts.size(); ++e) {
      if (counts[e] > 0) loads.push_back({ExpertId{static_cast<int32_t>(e)}, first, counts[e]});
      first += counts[e];
    }
    decision.layer = LayerId{layer};
    decision.loads = loads;
  }
  Loads(const Loads&) = delete;
  Loads& operator=(const Loads&) = delete;
};

// Remembers what it was to copy, and copies in no time.
class CopyingExecutor final : public Executor {
 public:
  explicit CopyingExecutor(Clocks clocks = {}) : clocks_(clocks) {}
  int32_t n_layers() const override { return 2; }
  Clocks clocks() const override { return clocks_; }
  void begin_step(const Batch& /*batch*/) override {}
  const RoutingDecision& route(LayerId /*layer*/) override { return routing_.decision; }
  void run(const LayerPlan& /*plan*/) override {}
  void prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) override {
    copied.assign(slices.begin(), slices.end());
    for (ModelTime& t : landed) t = 1;
  }
  std::span<const float> end_step() override { return {}; }

  std::vector<CopySlice> copied;

 private:
  Clocks clocks_;
  Loads routing_{0, {1, 0, 0, 0}};
};

}  // namespace tandem::test
