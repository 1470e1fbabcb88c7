#include "runtime/device/hazard_checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "kernels/check.h"

namespace tandem {
namespace {

const char* stream_name(size_t stream) {
  switch (static_cast<Stream>(stream)) {
    case Stream::kCompute:
      return "the compute stream";
    case Stream::kCopy:
      return "the copy stream";
    case Stream::kHost:
      return "the host";
  }
  return "?";
}

}  // namespace

const HazardChecker::Operation& HazardChecker::operation(Timepoint point) const {
  const auto& all = operations_[index(point.stream)];
  TANDEM_CHECK(point.n <= all.size(), "operation %llu of %zu",
               static_cast<unsigned long long>(point.n), all.size());
  return all[point.n - 1];
}

void HazardChecker::join(Clock* into, const Clock& other) {
  for (size_t i = 0; i < other.size(); ++i) (*into)[i] = std::max((*into)[i], other[i]);
}

void HazardChecker::enqueued(Stream stream, const char* name, std::span<const Access> accesses) {
  const size_t s = index(stream);
  Clock& clock = stream_clock_[s];
  join(&clock, host_clock_);
  clock[s] = operations_[s].size() + 1;
  operations_[s].push_back({clock, name});
  for (const Access& access : accesses) {
    each_segment(access, [&](const char* at, Segment& segment) {
      check(segment, clock, name, at, access.write);
      if (access.write) {
        segment.written = {stream, clock[s]};
        segment.read = {};
      } else {
        segment.read[s] = clock[s];
      }
    });
  }
}

void HazardChecker::wait(Stream stream, Timepoint point) {
  if (point.n > 0) join(&stream_clock_[index(stream)], operation(point).clock);
}

void HazardChecker::host_wait(Timepoint point) {
  if (point.n > 0) join(&host_clock_, operation(point).clock);
}

void HazardChecker::host_wait_all() {
  for (size_t s = 0; s < operations_.size(); ++s) {
    host_wait({static_cast<Stream>(s), operations_[s].size()});
  }
}

void HazardChecker::host_access(const char* name, const Access& access) {
  each_segment(access, [&](const char* at, Segment& segment) {
    check(segment, host_clock_, name, at, access.write);
  });
}

void HazardChecker::freed(const void* at, int64_t bytes) {
  const Access access{at, bytes, true};
  host_access("free", access);
  if (bytes == 0) return;
  const auto* begin = static_cast<const char*>(at);
  cut(begin);
  cut(begin + bytes);
  segments_.erase(segments_.lower_bound(begin), segments_.lower_bound(begin + bytes));
}

void HazardChecker::check(const Segment& segment, const Clock& clock, const char* by,
                          const char* at, bool write) const {
  const auto unordered = [&](size_t stream, uint64_t n, const char* did) {
    if (n <= clock[stream]) return;
    const char* earlier = operations_[stream][n - 1].name;
    throw HazardError(fmt::format("{} {} {} while {} of {} may still {} it", by,
                                  write ? "writes" : "reads", static_cast<const void*>(at), earlier,
                                  stream_name(stream), did));
  };
  if (segment.written.n > 0) unordered(index(segment.written.stream), segment.written.n, "write");
  if (!write) return;
  for (size_t s = 0; s < segment.read.size(); ++s) {
    if (segment.read[s] > 0) unordered(s, segment.read[s], "read");
  }
}

void HazardChecker::cut(const char* at) {
  auto it = segments_.upper_bound(at);
  if (it == segments_.begin()) return;
  it = std::prev(it);
  if (it->first == at || it->second.end <= at) return;
  Segment behind = it->second;
  it->second.end = at;
  segments_.emplace(at, behind);
}

template <typename F>
void HazardChecker::each_segment(const Access& access, const F& f) {
  if (access.bytes == 0) return;
  const auto* begin = static_cast<const char*>(access.at);
  const char* end = begin + access.bytes;
  cut(begin);
  cut(end);
  auto it = segments_.lower_bound(begin);
  for (const char* at = begin; at < end;) {
    if (it == segments_.end() || it->first > at) {  // a gap
      const char* stop = it == segments_.end() ? end : std::min(end, it->first);
      it = segments_.emplace_hint(it, at, Segment{stop});
    }
    f(at, it->second);
    at = it->second.end;
    ++it;
  }
}

}  // namespace tandem
