#include "runtime/device/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
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

// What each thread did, in its order; the caller's comes first.
std::vector<std::vector<int64_t>> order_by_thread(ThreadPool& pool, int64_t n_tasks) {
  std::mutex mutex;
  std::map<std::thread::id, std::vector<int64_t>> by_thread;
  std::atomic<int> begun{0};
  pool.run(n_tasks, [&](int64_t i) {
    bool first = false;
    {
      const std::lock_guard lock(mutex);
      std::vector<int64_t>& own = by_thread[std::this_thread::get_id()];
      first = own.empty();
      own.push_back(i);
    }
    // Nobody goes on before all take part.
    if (first) ++begun;
    while (first && begun < pool.size()) std::this_thread::yield();
  });
  std::vector<std::vector<int64_t>> all{by_thread[std::this_thread::get_id()]};
  by_thread.erase(std::this_thread::get_id());
  for (auto& [id, own] : by_thread) all.push_back(std::move(own));
  return all;
}

TEST_CASE("on several nodes every task runs exactly once, too") {
  for (const char* machine : {"numa:2 core:2 pu:1", "numa:3 core:1 pu:2", "numa:8 core:1 pu:1"}) {
    const CpuTopology cpu = CpuTopology::made_up(machine);
    for (const int n_threads : {1, 2, 4, 7}) {
      ThreadPool pool(n_threads, &cpu);
      for (const int64_t n_tasks : {0, 1, 2, 3, 5, 8, 17, 1000}) {
        CAPTURE(machine, n_threads, n_tasks);
        CHECK(runs(pool, n_tasks) == std::vector<int>(static_cast<size_t>(n_tasks), 1));
      }
    }
  }
}

TEST_CASE("a node's threads take their own share first, and then help") {
  const CpuTopology cpu = CpuTopology::made_up("numa:2 core:2 pu:1");
  ThreadPool pool(4, &cpu);
  const int64_t n_tasks = 1001;
  for (int round = 0; round < 20; ++round) {
    int first_in_share_0 = 0;
    const auto threads = order_by_thread(pool, n_tasks);
    REQUIRE(threads.size() == 4);
    CHECK(threads[0].front() < n_tasks / 2);
    for (const std::vector<int64_t>& own : threads) {
      const auto share = [&](int64_t task) { return task < n_tasks / 2 ? 0 : 1; };
      int changes = 0;
      for (size_t i = 1; i < own.size(); ++i) changes += share(own[i]) != share(own[i - 1]) ? 1 : 0;
      CHECK(changes <= 1);
      first_in_share_0 += share(own.front()) == 0 ? 1 : 0;
    }
    CHECK(first_in_share_0 == 2);
  }
}

TEST_CASE("what a thread was to do is done by the others while it is held up in a task") {
  constexpr int kThreads = 4;
  constexpr int64_t kTasks = 1000;
  // Whoever takes the first task has taken this many in one go.
  constexpr int64_t kFirstRun = kTasks / (2 * kThreads);
  ThreadPool pool(kThreads);
  std::atomic<int64_t> done{0};
  std::thread::id held;
  std::atomic<int64_t> done_by_held{0};
  pool.run(kTasks, [&](int64_t i) {
    if (i == 0) {
      held = std::this_thread::get_id();
      while (done < kTasks - kFirstRun) std::this_thread::yield();
      ++done_by_held;
    } else if (i < kFirstRun) {
      done_by_held += std::this_thread::get_id() == held ? 1 : 0;
    }
    ++done;
  });
  CHECK(done == kTasks);
  CHECK(done_by_held == kFirstRun);
}

TEST_CASE("the more has been taken, the less is taken at once") {
  ThreadPool pool(4);
  std::vector<int64_t> begins;
  // All hold their first task at the same time.
  for (const std::vector<int64_t>& own : order_by_thread(pool, 1000)) begins.push_back(own.front());
  std::sort(begins.begin(), begins.end());
  CHECK(begins == std::vector<int64_t>{0, 125, 235, 331});
}

// TSan hands signals to a thread when that calls something, which a sleeping one does not.
#if !defined(__SANITIZE_THREAD__) && !defined(__clang__)
std::atomic<bool> frozen{false};
std::atomic<bool> thaw{false};

void freeze(int) {
  frozen = true;
  while (!thaw) sched_yield();
}

TEST_CASE("a region ends without a worker that does not get to run") {
  frozen = false;
  thaw = false;
  ThreadPool pool(2);
  pthread_t worker{};
  std::atomic<int> begun{0};
  const pthread_t caller = pthread_self();
  pool.run(2, [&](int64_t) {
    if (pthread_equal(pthread_self(), caller) == 0) worker = pthread_self();
    ++begun;
    while (begun < 2) std::this_thread::yield();
  });
  signal(SIGUSR1, freeze);
  REQUIRE(pthread_kill(worker, SIGUSR1) == 0);
  while (!frozen) std::this_thread::yield();
  CHECK(runs(pool, 100) == std::vector<int>(100, 1));
  CHECK(runs(pool, 100) == std::vector<int>(100, 1));
  thaw = true;
  CHECK(runs(pool, 100) == std::vector<int>(100, 1));
  signal(SIGUSR1, SIG_DFL);
}
#endif

TEST_CASE("a region allocates nothing, on several nodes neither") {
  if (!kCountsAllocations) return;
  const CpuTopology cpu = CpuTopology::made_up("numa:2 core:2 pu:1");
  ThreadPool pool(4, &cpu);
  std::atomic<int64_t> sum{0};
  const int64_t before = allocation_count;
  for (int round = 0; round < 100; ++round) pool.run(64, [&](int64_t i) { sum += i; });
  CHECK(allocation_count == before);
  CHECK(sum == 100 * 63 * 64 / 2);
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
#ifndef TANDEM_SANITIZED
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
