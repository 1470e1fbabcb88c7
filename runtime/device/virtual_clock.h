// Modelled time of one host, its work beside it, and its device streams.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "runtime/device/device.h"

namespace tandem {

class VirtualClock {
 public:
  // An operation of `us` is enqueued now: it starts when the host has got here, the stream is
  // free, and everything the stream waits for has ended.
  Timepoint run(Stream stream, double us) {
    Lane& lane = lanes_[static_cast<size_t>(stream)];
    lane.end_us = std::max(lane.end_us, host_us_) + us;
    ++lane.n;
    lane.ends[lane.n % kHistory] = lane.end_us;
    return {stream, lane.n};
  }
  void wait(Stream stream, Timepoint point) {
    Lane& lane = lanes_[static_cast<size_t>(stream)];
    lane.end_us = std::max(lane.end_us, end_of(point));
  }
  void host_wait(Timepoint point) { host_us_ = std::max(host_us_, end_of(point)); }
  void host_wait_all() {
    for (const Lane& lane : lanes_) host_us_ = std::max(host_us_, lane.end_us);
  }
  double host_us() const { return host_us_; }
  double end_us(Stream stream) const { return lanes_[static_cast<size_t>(stream)].end_us; }

 private:
  // Ends of the last operations. An older one is taken to have ended with the oldest kept: later
  // than it did, and still long past, as the host catches up with every layer.
  static constexpr uint64_t kHistory = 1024;
  struct Lane {
    double end_us = 0;
    uint64_t n = 0;
    std::array<double, kHistory> ends{};
  };
  double end_of(Timepoint point) const {
    if (point.n == 0) return 0;
    const Lane& lane = lanes_[static_cast<size_t>(point.stream)];
    const uint64_t oldest = lane.n >= kHistory ? lane.n - kHistory + 1 : 1;
    return lane.ends[std::max(point.n, oldest) % kHistory];
  }

  double host_us_ = 0;
  std::array<Lane, kLaneCount> lanes_{};
};

}  // namespace tandem
