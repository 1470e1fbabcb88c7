#include "runtime/device/side_thread.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a side thread does jobs in order, and what they did is seen after the wait") {
  SideThread side;
  std::vector<int> done;
  for (int i = 0; i < 2000; ++i) {
    side.start([&done, i] { done.push_back(i); });
    side.wait();
    REQUIRE(done.size() == static_cast<size_t>(i) + 1);
    REQUIRE(done.back() == i);
  }
}

TEST_CASE("a side thread works beside its owner") {
  SideThread side;
  std::atomic<int> turn{0};
  side.start([&] {
    turn = 1;
    turn.notify_all();
    turn.wait(1);  // ends only if the owner goes on meanwhile
  });
  CHECK(side.busy());
  turn.wait(0);
  turn = 2;
  turn.notify_all();
  side.wait();
  CHECK_FALSE(side.busy());
}

TEST_CASE("to wait for a side thread that has no job takes no time") {
  SideThread side;
  side.wait();
  side.start([] {});
  side.wait();
  side.wait();
  CHECK_FALSE(side.busy());
}

TEST_CASE("what a side thread's job throws comes out of the wait, and the next job runs") {
  SideThread side;
  side.start([] { throw std::runtime_error("no memory"); });
  CHECK_THROWS_AS(side.wait(), std::runtime_error);
  bool ran = false;
  side.start([&] { ran = true; });
  side.wait();
  CHECK(ran);
}

TEST_CASE("a side thread that is left waits for its job") {
  std::atomic<bool> ended{false};
  {
    SideThread side;
    side.start([&] {
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();
      ended = true;
    });
  }
  CHECK(ended);
}

}  // namespace tandem::test
