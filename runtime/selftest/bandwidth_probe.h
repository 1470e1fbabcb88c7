// How fast a GPU is, by the host's clock: copies, hand-overs, weights that kernels read. On a
// simulated GPU such times are modelled, and mean nothing here.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/device/device.h"

namespace tandem {

struct Figure {
  std::string name;
  int64_t bytes = 0;       // moved in a repeat; 0: a latency
  std::vector<double> us;  // of every repeat, in their order; empty: not measured
  std::string problem;     // why not

  double median_us() const;
  double least_us() const;
  double most_us() const;
  double gbps() const;  // 10^9 bytes a second at the median; 0 for latencies
};

struct ProbeSettings {
  int repeats = 9;  // behind one that is not counted
  std::vector<int64_t> copy_bytes{4 << 10, 256 << 10, 16 << 20, 256 << 20};
  int64_t pair_bytes = 1 << 20;      // of each of two copies at a time
  int64_t weight_bytes = 512 << 20;  // more than any cache holds
  double warm_up_seconds = 0.4;      // of copies before the first figure, on a real GPU
};

// on_figure: each, once it is there. What there is no memory for has a problem instead of times.
// DeviceError.
void probe_bandwidth(Device& device, const ProbeSettings& settings,
                     const std::function<void(const Figure&)>& on_figure);

// What the way from host work to the device takes that this device has; how: its name, for the
// figure. DeviceError.
void probe_hand_over(Device& device, const std::string& how, const ProbeSettings& settings,
                     const std::function<void(const Figure&)>& on_figure);

}  // namespace tandem
