#include "runtime/device/virtual_clock.h"

#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr Stream kA = Stream::kCompute;
constexpr Stream kB = Stream::kCopy;

TEST_CASE("a new clock stands at zero everywhere") {
  const VirtualClock clock;
  CHECK(clock.host_us() == 0);
  CHECK(clock.end_us(kA) == 0);
  CHECK(clock.end_us(kB) == 0);
}

TEST_CASE("operations of one stream add up, those of two streams overlap") {
  VirtualClock clock;
  clock.run(kA, 10);
  clock.run(kA, 5);
  clock.run(kB, 7);
  CHECK(clock.end_us(kA) == 15);
  CHECK(clock.end_us(kB) == 7);
}

TEST_CASE("a stream waits for the named operation and not for later ones") {
  VirtualClock clock;
  const Timepoint first = clock.run(kA, 10);
  clock.run(kA, 100);
  clock.wait(kB, first);
  clock.run(kB, 1);
  CHECK(clock.end_us(kB) == 11);
}

TEST_CASE("waiting for what has ended already costs nothing") {
  VirtualClock clock;
  const Timepoint first = clock.run(kA, 10);
  clock.run(kB, 50);
  clock.wait(kB, first);
  clock.run(kB, 1);
  CHECK(clock.end_us(kB) == 51);
}

TEST_CASE("the host's wait ends with the operation and never turns the clock back") {
  VirtualClock clock;
  const Timepoint first = clock.run(kA, 10);
  clock.host_wait(first);
  CHECK(clock.host_us() == 10);
  clock.host_wait(clock.run(Stream::kHost, 30));
  clock.host_wait(first);
  CHECK(clock.host_us() == 40);
}

TEST_CASE("an idle stream starts an operation when the host enqueues it") {
  VirtualClock clock;
  clock.host_wait(clock.run(Stream::kHost, 40));
  clock.run(kA, 2);
  CHECK(clock.end_us(kA) == 42);
}

TEST_CASE("the end of an operation is known exactly for a thousand operations") {
  VirtualClock clock;
  std::vector<Timepoint> points;
  for (int i = 0; i < 1000; ++i) points.push_back(clock.run(kA, 1));
  for (size_t i = 0; i < points.size(); i += 37) {
    VirtualClock copy = clock;
    copy.host_wait(points[i]);
    CHECK(copy.host_us() == static_cast<double>(i + 1));
  }
}

TEST_CASE("an operation long past is taken to have ended no earlier than it did") {
  VirtualClock clock;
  const Timepoint first = clock.run(kA, 1);
  for (int i = 0; i < 5000; ++i) clock.run(kA, 1);
  clock.host_wait(first);
  CHECK(clock.host_us() >= 1);
  CHECK(clock.host_us() <= 5001 - 1000);
}

}  // namespace
}  // namespace tandem::test
