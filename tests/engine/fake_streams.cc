#include "tests/engine/fake_streams.h"

#include <thread>
#include <utility>

#include "kernels/check.h"

namespace tandem::test {

FakeStreams::~FakeStreams() {
  for (const auto& [index, stream] : streams_) delete stream;
}

FakeStreams::Stream* FakeStreams::create() {
  auto* stream = new Stream;
  stream->index = next_++;
  stream->emulation.begin_capture();  // until its work is wanted
  streams_[stream->index] = stream;
  return stream;
}

void FakeStreams::destroy(Stream* stream) {
  while (!finish(stream, stream->taken)) std::this_thread::yield();
  streams_.erase(stream->index);
  delete stream;
}

FakeStreams::Stream* FakeStreams::find(void* emulation) const {
  for (const auto& [index, stream] : streams_) {
    if (&stream->emulation == emulation) return stream;
  }
  return nullptr;
}

FakeStreams::Stream* FakeStreams::at(int index) const {
  const auto it = streams_.find(index);
  return it != streams_.end() ? it->second : nullptr;
}

void FakeStreams::set_schedule(SimSchedule schedule, uint64_t seed) {
  schedule_ = schedule;
  random_.seed(seed);
}

void FakeStreams::take_kernels(Stream* stream) {
  if (stream->captures) return;
  for (Work& work : stream->emulation.end_capture()) {
    stream->pending.push_back({std::move(work)});
    ++stream->taken;
  }
  stream->emulation.begin_capture();
}

void FakeStreams::advance() {
  for (const auto& [index, stream] : streams_) take_kernels(stream);
  switch (schedule_) {
    case SimSchedule::kAtOnce:
      while (run_any()) {
      }
      break;
    case SimSchedule::kLate:
      break;
    case SimSchedule::kTimed:
      TANDEM_CHECK(false, "nothing here has a modelled time");
    case SimSchedule::kRandom:  // calls are many to a work, so that queues are never long
      if (random_() % 4 == 0) run_any();
      break;
  }
}

void FakeStreams::enqueue(Stream* stream, Work work) {
  stream->emulation.enqueue(std::move(work));
  take_kernels(stream);
}

void FakeStreams::wait(Stream* stream, int index, uint64_t taken) {
  take_kernels(stream);
  stream->pending.push_back({[] {}, index, taken});
  ++stream->taken;
}

void FakeStreams::wait_for_host(Stream* stream, std::function<bool()> host_is_ready) {
  take_kernels(stream);
  stream->pending.push_back({[] {}, -1, 0, std::move(host_is_ready)});
  ++stream->taken;
}

void FakeStreams::begin_capture(Stream* stream) {
  take_kernels(stream);
  stream->captures = true;
}

vgpu::Emulation::Captured FakeStreams::end_capture(Stream* stream) {
  stream->captures = false;
  vgpu::Emulation::Captured captured = stream->emulation.end_capture();
  stream->emulation.begin_capture();
  return captured;
}

bool FakeStreams::is_done(int index, uint64_t taken) const {
  const Stream* stream = at(index);
  return stream == nullptr || stream->done >= taken;
}

bool FakeStreams::runnable(const Stream& stream) const {
  if (stream.pending.empty()) return false;
  const PendingWork& next = stream.pending.front();
  return is_done(next.of, next.taken) && (!next.host_is_ready || next.host_is_ready());
}

void FakeStreams::run_next(Stream* stream) {
  // Gone before it runs: what throws is not tried again.
  const PendingWork work = std::move(stream->pending.front());
  stream->pending.pop_front();
  ++stream->done;
  try {
    work.run();
  } catch (...) {
    drop();
    throw;
  }
}

bool FakeStreams::run_any() {
  std::vector<Stream*> some;
  for (const auto& [index, stream] : streams_) {
    if (runnable(*stream)) some.push_back(stream);
  }
  if (some.empty()) return false;
  run_next(some[schedule_ == SimSchedule::kRandom ? random_() % some.size() : 0]);
  return true;
}

bool FakeStreams::finish(int index, uint64_t taken) {
  Stream* stream = at(index);
  return stream == nullptr || finish(stream, taken);
}

bool FakeStreams::finish(Stream* stream, uint64_t taken) {
  take_kernels(stream);
  while (stream->done < taken) {
    if (schedule_ == SimSchedule::kRandom) {
      if (!run_any()) return false;
      continue;
    }
    const PendingWork& next = stream->pending.front();
    if (!finish(next.of, next.taken) || !runnable(*stream)) return false;
    run_next(stream);
  }
  return true;
}

void FakeStreams::finish_all() {
  for (const auto& [index, stream] : streams_) {
    while (!finish(stream, stream->taken)) std::this_thread::yield();
  }
}

void FakeStreams::drop() {
  for (const auto& [index, stream] : streams_) {
    take_kernels(stream);
    stream->done = stream->taken;
    stream->pending.clear();
  }
}

}  // namespace tandem::test
