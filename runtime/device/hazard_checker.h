// Finds work on a device that is not ordered with other work on the same memory: a kernel that does
// not wait for a copy, a slot that is overwritten while a kernel that was enqueued may still read
// it, host memory that is filled again while a copy may still read it. Whether two accesses are
// ordered follows from streams and waits alone (vector clocks), so one run finds what any schedule
// could do to it; what counts is what launches and copies declare.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/device/device.h"

namespace tandem {

// A bug of the caller's: two accesses, at least one of them a write, in no order.
class HazardError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

class HazardChecker {
 public:
  struct Access {
    const void* at;  // device or host memory
    int64_t bytes;
    bool write;
  };

  // An operation is enqueued on a stream, or host work begins. name: must live as long as this.
  void enqueued(Stream stream, const char* name, std::span<const Access> accesses);
  void wait(Stream stream, Timepoint point);
  void host_wait(Timepoint point);
  void host_wait_all();
  // The host itself reads or writes.
  void host_access(const char* name, const Access& access);
  // Memory ends here: a write of the host that nothing follows.
  void freed(const void* at, int64_t bytes);

 private:
  using Clock = std::array<uint64_t, kLaneCount>;  // operations of each stream that came before
  struct Operation {
    Clock clock;
    const char* name;
  };
  // Of neighbouring bytes: operations that read or wrote them last.
  struct Segment {
    const char* end;
    Timepoint written{};
    Clock read{};
  };
  static size_t index(Stream stream) { return static_cast<size_t>(stream); }
  const Operation& operation(Timepoint point) const;
  static void join(Clock* into, const Clock& other);
  // HazardError where `by`, which comes after `clock`, is not ordered with earlier operations.
  void check(const Segment& segment, const Clock& clock, const char* by, const char* at,
             bool write) const;
  // The segments of a range, cut at its ends; bytes nobody has touched yet are new segments.
  template <typename F>
  void each_segment(const Access& access, const F& f);
  void cut(const char* at);

  std::array<std::vector<Operation>, kLaneCount> operations_;
  std::array<Clock, kLaneCount> stream_clock_{};
  Clock host_clock_{};
  std::map<const char*, Segment> segments_;
};

}  // namespace tandem
