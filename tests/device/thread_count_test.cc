#include "runtime/device/thread_count.h"

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

CpuTopology eight_cores() { return CpuTopology::made_up("pack:1 core:8 pu:2"); }

TEST_CASE("by default there are as many threads as physical cores") {
  const ThreadCount count = thread_count(0, eight_cores(), std::nullopt);
  CHECK(count.n == 8);
  CHECK(count.reason == "8 physical cores, 1 NUMA node");
}

TEST_CASE("a quota lowers the default, rounded up, and is said") {
  CHECK(thread_count(0, eight_cores(), 1.5).n == 2);
  CHECK_THAT(thread_count(0, eight_cores(), 1.5).reason,
             contains("a cpu quota of 1.5 cores; 8 physical cores"));
  CHECK(thread_count(0, eight_cores(), 0.25).n == 1);
  CHECK(thread_count(0, eight_cores(), 7.01).n == 8);
}

TEST_CASE("a quota of more than the cores changes nothing") {
  const ThreadCount count = thread_count(0, eight_cores(), 16.0);
  CHECK(count.n == 8);
  CHECK(count.reason == "8 physical cores, 1 NUMA node");
}

TEST_CASE("what was asked for is taken, with a word where it is too much") {
  CHECK(thread_count(3, eight_cores(), std::nullopt).n == 3);
  CHECK(thread_count(3, eight_cores(), 1.5).n == 3);
  CHECK_THAT(thread_count(3, eight_cores(), 1.5).reason, contains("more than a cpu quota of 1.5"));
  CHECK(thread_count(16, eight_cores(), std::nullopt).n == 16);
  CHECK_THAT(thread_count(16, eight_cores(), std::nullopt).reason,
             contains("more than there are: 8 physical cores"));
}

}  // namespace
}  // namespace tandem::test
