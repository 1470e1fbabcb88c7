#include "runtime/device/side_thread.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "kernels/check.h"
#include "runtime/device/short_wait.h"
#include "runtime/error.h"

namespace tandem {

SideThread::SideThread() {
  try {
    thread_ = std::thread([this] { work(); });
  } catch (const std::system_error& error) {
    throw MemoryError(
        fmt::format("cannot start a thread for CPU experts: {}", error.code().message()));
  }
}

SideThread::~SideThread() {
  try {
    wait();
  } catch (...) {
    // Nobody is left to be told.
  }
  stop_.store(true, std::memory_order_relaxed);
  store_and_wake(begun_, started_ + 1);
  thread_.join();
}

void SideThread::start(std::function<void()> job) {
  TANDEM_CHECK(!busy(), "job %u has not been waited for", started_);
  job_ = std::move(job);
  ++started_;
  store_and_wake(begun_, started_);
}

void SideThread::wait() {
  if (!busy()) return;
  while (look_while(ended_, started_, false) != started_) {
    const uint32_t ended = ended_.load(std::memory_order_acquire);
    if (ended != started_) ended_.wait(ended, std::memory_order_acquire);
  }
  waited_ = started_;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void SideThread::work() {
  uint32_t done = 0;
  WorkWait next;
  while (true) {
    next.wait(begun_, done);
    if (stop_.load(std::memory_order_relaxed)) return;
    ++done;
    try {
      job_();
    } catch (...) {
      error_ = std::current_exception();
    }
    store_and_wake(ended_, done);
  }
}

}  // namespace tandem
