// Work that was enqueued on the streams of a simulated GPU and has not been done yet. Each stream
// is in order; between streams, waits are the only order.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/device/sim_settings.h"

namespace tandem {

class WorkQueue {
 public:
  // kAtOnce: nothing ever waits here. await_host: sleeps until host work has ended.
  WorkQueue(SimSchedule schedule, uint64_t seed, std::function<void(Timepoint)> await_host)
      : schedule_(schedule), random_(seed), await_host_(std::move(await_host)) {}

  // The n-th work of its stream, which ends at end_us of the modelled time. What it throws comes
  // out of this or a later call.
  void enqueue(Stream stream, double end_us, std::function<void()> work);
  // What is enqueued on `stream` later is done after `point`.
  void wait(Stream stream, Timepoint point);
  // Does at least what is needed for `point` to have ended.
  void finish(Timepoint point);
  void finish_all();
  // Forgets what has not been done.
  void drop();

 private:
  struct Work {
    std::function<void()> run;
    double end_us;
    std::vector<Timepoint> after;
  };
  struct Lane {
    std::deque<Work> pending;
    std::vector<Timepoint> after;  // of the next work
    uint64_t done = 0;
  };
  Lane& lane(Stream stream) { return lanes_[static_cast<size_t>(stream)]; }
  // But for host work, which is waited for when its turn has come: so an order is the same each
  // time, however fast the host is.
  bool ready(const Lane& lane) const;
  void run_next(Lane* lane);
  // Does one of the works that are ready, by chance or the one that ends first; false when there is
  // none.
  bool run_any();

  SimSchedule schedule_;
  std::mt19937_64 random_;
  std::function<void(Timepoint)> await_host_;
  std::array<Lane, kStreamCount> lanes_;
};

}  // namespace tandem
