#include "runtime/device/thread_pool.h"

#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <vector>

#include "runtime/error.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

// How often each task ran.
std::vector<int> runs(ThreadPool& pool, int64_t n_tasks) {
  std::vector<std::atomic<int>> counts(static_cast<size_t>(n_tasks));
  pool.run(n_tasks, [&](int64_t i) { ++counts[static_cast<size_t>(i)]; });
  return {counts.begin(), counts.end()};
}

TEST_CASE("every task runs exactly once, for many numbers of tasks and threads") {
  for (const int n_threads : {1, 2, 3, 4, 8, 17}) {
    ThreadPool pool(n_threads);
    for (const int64_t n_tasks : {0, 1, 2, 3, 5, 8, 16, 17, 64, 1000}) {
      CAPTURE(n_threads, n_tasks);
      CHECK(runs(pool, n_tasks) == std::vector<int>(static_cast<size_t>(n_tasks), 1));
    }
  }
}

TEST_CASE("a pool that runs out of memory half-way joins the threads it has started") {
  if (!kCountsAllocations) return;
  const auto make = [] { const ThreadPool pool(8); };
  const int64_t before = allocation_count;
  make();
  const int64_t needed = allocation_count - before;
  REQUIRE(needed > 2);
  for (int64_t fails = 0; fails < needed; ++fails) {
    allocations_left = fails;
    bool failed = false;
    try {
      make();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocations_left = -1;
    CHECK(failed);
  }
}

TEST_CASE("thousands of regions back to back lose no task and run none twice") {
  ThreadPool pool(4);
  // Plain integers: run() returns after all tasks, and what they wrote is seen here.
  std::vector<int> counts(8, 0);
  for (int region = 1; region <= 5000; ++region) {
    const int64_t n_tasks = region % 9;
    pool.run(n_tasks, [&](int64_t i) { ++counts[static_cast<size_t>(i)]; });
  }
  for (size_t task = 0; task < counts.size(); ++task) {
    int want = 0;
    for (int region = 1; region <= 5000; ++region) {
      want += static_cast<int>(task) < region % 9 ? 1 : 0;
    }
    CHECK(counts[task] == want);
  }
}

TEST_CASE("tasks see what the caller wrote before the region") {
  ThreadPool pool(3);
  std::vector<int> data(64);
  std::vector<int> seen(64);
  for (int round = 0; round < 500; ++round) {
    for (int& x : data) x = round;
    pool.run(64, [&](int64_t i) { seen[static_cast<size_t>(i)] = data[static_cast<size_t>(i)]; });
    REQUIRE(seen == data);
  }
}

TEST_CASE("a region without tasks calls nothing") {
  ThreadPool pool(3);
  pool.run(0, [](int64_t) { FAIL("called"); });
}

TEST_CASE("a single task runs on the calling thread") {
  ThreadPool pool(3);
  std::thread::id ran_on;
  pool.run(1, [&](int64_t) { ran_on = std::this_thread::get_id(); });
  CHECK(ran_on == std::this_thread::get_id());
}

TEST_CASE("a pool of one thread runs tasks in order on the calling thread") {
  ThreadPool pool(1);
  CHECK(pool.size() == 1);
  std::vector<int64_t> order;
  pool.run(5, [&](int64_t i) { order.push_back(i); });
  CHECK(order == std::vector<int64_t>{0, 1, 2, 3, 4});
}

TEST_CASE("tasks run on no more threads than the pool has, and the caller takes part") {
  // Each task waits until as many have begun as there are threads, so every thread must take one.
  constexpr int kThreads = 4;
  ThreadPool pool(kThreads);
  CHECK(pool.size() == kThreads);
  std::atomic<int> begun{0};
  std::mutex mutex;
  std::set<std::thread::id> ids;
  pool.run(kThreads, [&](int64_t) {
    ++begun;
    while (begun < kThreads) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  CHECK(ids.size() == kThreads);
  CHECK(ids.count(std::this_thread::get_id()) == 1);
}

TEST_CASE("a pool that was never used can be destroyed") {
  for (const int n_threads : {1, 2, 8}) {
    for (int i = 0; i < 50; ++i) const ThreadPool pool(n_threads);
  }
}

TEST_CASE("a pool can be destroyed right after a region") {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(4);
    CHECK(runs(pool, 5) == std::vector<int>(5, 1));
  }
}

TEST_CASE("a pool asked for fewer than one thread has the caller's") {
  for (const int n_threads : {0, -3}) {
    ThreadPool pool(n_threads);
    CHECK(pool.size() == 1);
    CHECK(runs(pool, 3) == std::vector<int>(3, 1));
  }
}

// Sanitizers reserve terabytes of addresses, so the limit cannot be set under them.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
TEST_CASE("threads that the system does not give are an error that says how many came") {
  const Death death = death_of([] {
    const rlimit addresses{256 << 20, 256 << 20};  // room for some stacks of 8 MiB
    setrlimit(RLIMIT_AS, &addresses);
    try {
      const ThreadPool pool(512);
    } catch (const MemoryError& error) {
      std::fprintf(stderr, "%s", error.what());
    }
  });
  CHECK(death.by_signal == 0);
  CHECK_THAT(death.words, contains("of 512") && contains("lower -t"));
}
#endif

}  // namespace
}  // namespace tandem::test
