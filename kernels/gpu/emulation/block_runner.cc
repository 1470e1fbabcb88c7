#include "kernels/gpu/emulation/block_runner.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/gpu/emulation/sanitizers.h"
#include "kernels/gpu/emulation/traffic.h"

namespace tandem::vgpu {

constinit thread_local const ThreadIndex* self = nullptr;
constinit thread_local BlockRunner* runner = nullptr;

namespace {

constexpr size_t kMessage = 512;

__attribute__((format(printf, 1, 0))) std::string text(const char* format, va_list arguments) {
  char message[kMessage];
  std::vsnprintf(message, sizeof message, format, arguments);
  return message;
}

__attribute__((format(printf, 1, 2))) std::exception_ptr kernel_fault(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string message = text(format, arguments);
  va_end(arguments);
  return std::make_exception_ptr(KernelFault(message));
}

}  // namespace

BlockRunner::BlockRunner(const EmulationOptions& options)
    : options_(options), random_(options.seed * 0x9E3779B97F4A7C15ULL + 1) {}

void BlockRunner::run_grid(const char* name, Size3 grid, Size3 block, size_t dynamic_shared_bytes,
                           FunctionRef<void()> body) {
  name_ = name;
  grid_ = grid;
  block_ = block;
  dynamic_bytes_ = dynamic_shared_bytes;
  body_ = &body;
  launch_begins(name);
  const uint64_t blocks = grid.count();
  const auto n = static_cast<size_t>(block.count());
  waiting_.resize((n + kWarp - 1) / kWarp);
  const bool backwards = options_.order == Order::kReverse;
  for (uint64_t i = 0; i < blocks; ++i) run(backwards ? blocks - 1 - i : i);
  acquire(&launch_end_);
}

void BlockRunner::run(uint64_t index) {
  const uint64_t y = index / grid_.x;
  start_threads({static_cast<unsigned>(index % grid_.x), static_cast<unsigned>(y % grid_.y),
                 static_cast<unsigned>(y / grid_.y)});
  while (live_ > 0 && !error_) {
    bool progress = resume_ready();
    if (error_) break;
    if (live_ > 0 && at_barrier_ == live_) {
      release_barrier();
      progress = true;
    }
    if (!progress && live_ > 0) report_deadlock();
  }
  if (!error_) return;
  // Threads in the middle of something are forgotten.
  acquire(&launch_end_);
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void BlockRunner::start_threads(Index3 block) {
  const auto n = static_cast<unsigned>(block_.count());
  block_begins();
  if (kTsan) set_ = 1 - set_;
  std::vector<std::unique_ptr<Thread>>& set = sets_[set_];
  while (set.size() < n) set.push_back(std::make_unique<Thread>());
  threads_.resize(n);
  order_.resize(n);
  live_ = n;
  at_barrier_ = 0;
  phase_ = 0;
  error_ = nullptr;
  std::fill(waiting_.begin(), waiting_.end(), 0U);
  shared_.begin_block(options_.shared_bytes);
  constexpr size_t kDynamicAlign = 128;
  dynamic_ = dynamic_bytes_ > 0 ? shared_.array(this, dynamic_bytes_, kDynamicAlign) : nullptr;
  for (unsigned i = 0; i < n; ++i) {
    Thread& t = *set[i];
    t.index = {{i % block_.x, i / block_.x % block_.y, i / (block_.x * block_.y)},
               block,
               block_,
               grid_,
               i % kWarp,
               i / kWarp};
    t.state = State::kReady;
    t.copies.clear();
    t.groups.clear();
    t.open = 0;
    t.fiber.restart(&BlockRunner::run_thread, this, i);
    threads_[i] = &t;
    order_[i] = options_.order == Order::kReverse ? n - 1 - i : i;
  }
  release(&launch_begin_);  // behind the mapping of shared memory, too
}

void BlockRunner::run_thread(void* runner_object) {
  auto* me = static_cast<BlockRunner*>(runner_object);
  Thread* thread = me->current_;
  acquire(&me->launch_begin_);
  try {
    (*me->body_)();
  } catch (...) {
    if (!me->error_) me->error_ = std::current_exception();
  }
  thread->state = State::kEnded;
  --me->live_;
  release(&me->launch_end_);
  thread->fiber.end();
}

// Each thread that may run, once.
bool BlockRunner::resume_ready() {
  if (options_.order == Order::kRandom) {
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
  }
  bool any = false;
  for (const unsigned i : order_) {
    Thread& t = *threads_[i];
    if (t.state != State::kReady) continue;
    any = true;
    current_ = &t;
    self = &t.index;
    runner = this;
    t.fiber.resume();
    self = nullptr;
    runner = nullptr;
    if (error_) break;
  }
  return any;
}

uint64_t BlockRunner::random() {  // xorshift64, Marsaglia 2003
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_;
}

void BlockRunner::suspend(Thread& thread) {
  release(&launch_end_);  // it may never come back: another thread's fault ends the launch
  thread.fiber.suspend();
}

void BlockRunner::barrier(Place place) {
  Thread& t = *current_;
  t.place = place;
  t.state = State::kAtBarrier;
  ++at_barrier_;
  char* object = &barrier_objects_[phase_ % 2];
  release(object);
  suspend(t);
  acquire(object);
}

void BlockRunner::release_barrier() {
  const Thread& first = **std::find_if(threads_.begin(), threads_.end(), [](const Thread* t) {
    return t->state == State::kAtBarrier;
  });
  for (const Thread* t : threads_) {
    if (t->state != State::kAtBarrier) continue;
    if (t->place.file != first.place.file || t->place.line != first.place.line) {
      error_ =
          kernel_fault("%s: divergent __syncthreads: thread %u waits at %s:%d, thread %u at %s:%d",
                       name_, number(first), first.place.file, first.place.line, number(*t),
                       t->place.file, t->place.line);
      return;
    }
  }
  if (live_ != threads_.size()) {
    error_ = kernel_fault(
        "%s: __syncthreads at %s:%d reached by %u of %zu threads; the others have ended", name_,
        first.place.file, first.place.line, live_, threads_.size());
    return;
  }
  for (Thread* t : threads_) t->state = State::kReady;
  at_barrier_ = 0;
  ++phase_;
}

void BlockRunner::report_deadlock() {
  unsigned at_barrier = 0;
  unsigned for_lanes = 0;
  const Thread* barrier = nullptr;
  const Thread* lanes = nullptr;
  for (const Thread* t : threads_) {
    if (t->state == State::kAtBarrier && ++at_barrier > 0) barrier = t;
    if (t->state == State::kForLanes && ++for_lanes > 0) lanes = t;
  }
  const Place none;
  const Place a = barrier != nullptr ? barrier->place : none;
  const Place b = lanes != nullptr ? lanes->place : none;
  error_ = kernel_fault(
      "%s: deadlock: %u threads at __syncthreads (%s:%d), %u wait for lanes of their warp (%s:%d, "
      "mask %08x), %zu have ended",
      name_, at_barrier, a.file, a.line, for_lanes, b.file, b.line,
      lanes != nullptr ? lanes->mask : 0, threads_.size() - live_);
}

void BlockRunner::with_lanes(uint32_t mask, WarpFunction function, void* argument, Place place) {
  Thread& me = *current_;
  const unsigned warp = me.index.warp;
  const unsigned base = warp * kWarp;
  const auto in_warp = std::min<unsigned>(kWarp, static_cast<unsigned>(threads_.size()) - base);
  if (in_warp < kWarp) mask &= (1U << in_warp) - 1;
  const uint32_t bit = 1U << me.index.lane;
  if ((mask & bit) == 0) {
    fault("lane %u waits for lanes %08x, which it is none of (%s:%d)", me.index.lane, mask,
          place.file, place.line);
  }
  me.mask = mask;
  me.function = function;
  me.argument = argument;
  me.place = place;
  bool all = (waiting_[warp] & mask) == (mask & ~bit);
  void* arguments[kWarp] = {};
  for (unsigned i = 0; i < kWarp && all; ++i) {
    if ((mask >> i & 1U) == 0) continue;
    const Thread& other = *threads_[base + i];
    if (other.mask != mask || other.function != function) {
      all = false;
      break;
    }
    if (other.place.line != place.line) {
      fault("lane %u is at line %d with lanes %08x, lane %u of these at line %d", me.index.lane,
            place.line, mask, i, other.place.line);
    }
    arguments[i] = other.argument;
  }
  if (all) {
    {
      const UnseenAccesses unseen;
      function(arguments, mask);
    }
    waiting_[warp] &= ~mask;
    for (unsigned i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1U) != 0) threads_[base + i]->state = State::kReady;
    }
  } else {
    me.state = State::kForLanes;
    waiting_[warp] |= bit;
    suspend(me);
  }
}

void* BlockRunner::shared_array(const void* key, size_t bytes, size_t align) {
  void* at = shared_.array(key, bytes, align);
  if (at == nullptr) {
    fault("%zu bytes of shared memory beside %zu in use: more than the %zu of a block", bytes,
          shared_.used_bytes(), options_.shared_bytes);
  }
  return at;
}

void BlockRunner::copy_async(const AsyncCopy& copy) {
  const auto from = reinterpret_cast<uintptr_t>(copy.bytes > 0 ? copy.from : nullptr);
  if (((reinterpret_cast<uintptr_t>(copy.to) | from) & (copy.size - 1)) != 0) {
    fault("cp.async of %zu bytes: misaligned, from %p to %p", copy.size, copy.from, copy.to);
  }
  if (options_.early_copies) return land(copy);
  current_->copies.push_back(copy);
  ++current_->open;
}

void BlockRunner::commit_copies() {
  current_->groups.push_back(current_->open);
  current_->open = 0;
}

void BlockRunner::wait_copies(size_t most_pending) {
  Thread& t = *current_;
  size_t done = 0;
  while (t.groups.size() > most_pending) {
    for (size_t i = 0; i < t.groups.front(); ++i) land(t.copies[done++]);
    t.groups.erase(t.groups.begin());
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

void BlockRunner::land(const AsyncCopy& copy) const {
  if (copy.bytes > 0 && poisoned(copy.from, copy.bytes) != nullptr) {
    fault("cp.async reads outside of an allocation: %p", copy.from);
  }
  if (poisoned(copy.to, copy.size) != nullptr) {
    fault("cp.async writes outside of an array: %p", copy.to);
  }
  accessed(copy.from, copy.bytes, false);
  // TSan watches both calls.
  std::memcpy(copy.to, copy.from, copy.bytes);
  std::memset(static_cast<std::byte*>(copy.to) + copy.bytes, 0, copy.size - copy.bytes);
}

void BlockRunner::fault(const char* format, ...) const {
  va_list arguments;
  va_start(arguments, format);
  const std::string message = text(format, arguments);
  va_end(arguments);
  const Index3 b = current_->index.block;
  const Index3 t = current_->index.thread;
  char where[kMessage];
  std::snprintf(where, sizeof where, "%s: block %u,%u,%u thread %u,%u,%u: ", name_, b.x, b.y, b.z,
                t.x, t.y, t.z);
  throw KernelFault(where + message);
}

}  // namespace tandem::vgpu
