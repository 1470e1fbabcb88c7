#include "runtime/device/work_queue.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace tandem {

void WorkQueue::enqueue(Stream stream, double end_us, std::function<void()> work) {
  Lane& to = lane(stream);
  to.pending.push_back({std::move(work), end_us, std::move(to.after)});
  to.after.clear();
  if (schedule_ != SimSchedule::kRandom) return;
  // Zero to three works of any stream; on average more than are enqueued, so that queues end.
  for (uint64_t n = random_() % 4; n > 0 && run_any(); --n) {
  }
}

void WorkQueue::wait(Stream stream, Timepoint point) {
  if (point.n > 0) lane(stream).after.push_back(point);
}

bool WorkQueue::ready(const Lane& lane) const {
  if (lane.pending.empty()) return false;
  for (const Timepoint point : lane.pending.front().after) {
    if (point.stream != Stream::kHost && lanes_[static_cast<size_t>(point.stream)].done < point.n)
      return false;
  }
  return true;
}

void WorkQueue::run_next(Lane* lane) {
  // Gone before it runs: what throws is not tried again.
  const Work work = std::move(lane->pending.front());
  lane->pending.pop_front();
  ++lane->done;
  for (const Timepoint before : work.after) {
    if (before.stream == Stream::kHost) await_host_(before);
  }
  work.run();
}

bool WorkQueue::run_any() {
  std::array<Lane*, kStreamCount> some{};
  size_t n = 0;
  for (Lane& lane : lanes_) {
    if (ready(lane)) some[n++] = &lane;
  }
  if (n == 0) return false;
  const auto sooner = [](const Lane* a, const Lane* b) {
    return a->pending.front().end_us < b->pending.front().end_us;
  };
  run_next(schedule_ == SimSchedule::kTimed
               ? *std::min_element(some.begin(), some.begin() + n, sooner)
               : some[random_() % n]);
  return true;
}

void WorkQueue::finish(Timepoint point) {
  if (point.stream == Stream::kHost) return await_host_(point);
  Lane& of = lane(point.stream);
  while (of.done < point.n) {
    if (schedule_ != SimSchedule::kLate) {
      TANDEM_CHECK(run_any(), "operation %llu was never enqueued",
                   static_cast<unsigned long long>(point.n));
      continue;
    }
    TANDEM_CHECK(!of.pending.empty(), "operation %llu was never enqueued",
                 static_cast<unsigned long long>(point.n));
    for (const Timepoint before : of.pending.front().after) {
      if (before.stream != Stream::kHost) finish(before);
    }
    run_next(&of);
  }
}

void WorkQueue::finish_all() {
  for (size_t s = 0; s < lanes_.size(); ++s) {
    finish({static_cast<Stream>(s), lanes_[s].done + lanes_[s].pending.size()});
  }
}

void WorkQueue::drop() {
  for (Lane& lane : lanes_) {
    lane.done += lane.pending.size();
    lane.pending.clear();
  }
}

}  // namespace tandem
