#include "tests/engine/fake_cuda.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

namespace tandem::test {
namespace {

FakeCuda* fake = nullptr;

// What nobody has written yet is NaN, whatever type it is read as.
void* take(int64_t bytes) {
  const size_t size = static_cast<size_t>(bytes + 255) / 256 * 256;
  return std::memset(std::aligned_alloc(256, size), 0xFF, size);
}

}  // namespace

FakeCuda::FakeCuda() { fake = this; }
FakeCuda::~FakeCuda() {
  for (void* at : device_memory_) std::free(at);
  for (const auto& [at, bytes] : host_memory_) std::free(const_cast<void*>(at));
  fake = nullptr;
}

size_t FakeCuda::alive() const {
  return streams_.count() + events_.size() + graphs_.size() + device_memory_.size() +
         host_memory_.size() + pinned_.size();
}

CudaDeviceFacts FakeCuda::facts() {
  CudaDeviceFacts facts{};
  std::snprintf(facts.name, sizeof facts.name, "Fake");
  facts.sm = 89;
  return facts;
}

int FakeCuda::begin(const char* /*what*/) {
  const bool now = calls++ == fail_call;
  if (now && sticky) {
    failed_ = true;
    streams_.drop();
  }
  if (!failed_) streams_.advance();
  return now || failed_ ? error : 0;
}

bool FakeCuda::locked(const void* at, int64_t bytes) const {
  const auto holds = [&](const std::map<const void*, int64_t>& ranges) {
    const auto after = ranges.upper_bound(at);
    if (after == ranges.begin()) return false;
    const auto& [from, size] = *std::prev(after);
    return static_cast<const char*>(at) + bytes <= static_cast<const char*>(from) + size;
  };
  return holds(host_memory_) || holds(pinned_);
}

struct FakeCalls {
  using Stream = FakeStreams::Stream;
  static Stream* stream(void* at, const char* what) {
    Stream* found = fake->streams_.find(at);
    if (found == nullptr) fake->misuse.push_back(std::string(what) + " of no stream");
    return found;
  }
  static FakeCuda::Event* event(void* at, const char* what) {
    const auto it = fake->events_.find(at);
    if (it != fake->events_.end()) return &it->second;
    fake->misuse.push_back(std::string(what) + " of no event");
    return nullptr;
  }
  // What is freed is gone, also where an earlier call has failed.
  template <typename Set, typename Key>
  static int erase(Set* set, Key key, const char* what) {
    const int error = fake->begin(what);
    if (set->erase(key) == 0) fake->misuse.push_back(std::string(what) + " of what is not there");
    return error;
  }
  static constexpr int kNotReady = 600;
  // Enqueued, and done as far as the schedule has it.
  static int enqueue(Stream* s, std::function<void()> work) {
    fake->streams_.enqueue(s, std::move(work));
    fake->streams_.advance();
    return 0;
  }
  static int copy_to_device(void* to, const void* from, int64_t bytes, void* on) {
    const int error = fake->begin("copy");
    Stream* s = stream(on, "copy");
    if (error != 0 || s == nullptr) return error != 0 ? error : 1;
    ++s->n;
    fake->bytes_to_device[s->index] += bytes;
    const auto size = static_cast<size_t>(bytes);
    if (fake->locked(from, bytes)) return enqueue(s, [=] { std::memcpy(to, from, size); });
    if (s->captures) fake->misuse.emplace_back("a graph that copies from pageable memory");
    const auto* first = static_cast<const char*>(from);
    return enqueue(s, [to, staged = std::vector<char>(first, first + bytes)] {
      std::memcpy(to, staged.data(), staged.size());
    });
  }
  static int copy_to_host(void* to, const void* from, int64_t bytes, void* on) {
    const int error = fake->begin("copy");
    Stream* s = stream(on, "copy");
    if (error != 0 || s == nullptr) return error != 0 ? error : 1;
    ++s->n;
    enqueue(s, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
    if (fake->locked(to, bytes)) return 0;
    if (s->captures) {
      fake->misuse.emplace_back("a graph that copies to pageable memory");
      return 1;
    }
    while (!fake->streams_.finish(s->index, s->taken)) std::this_thread::yield();
    return 0;
  }
  static int copy_rows_to_device(void* to, int64_t to_stride, const void* from, int64_t from_stride,
                                 int64_t row_bytes, int64_t rows, void* on) {
    if (row_bytes > to_stride || row_bytes > from_stride) {
      fake->misuse.emplace_back("rows that overlap");  // cudaErrorInvalidPitchValue
    }
    const int error = fake->begin("copy");
    Stream* s = stream(on, "copy");
    if (error != 0 || s == nullptr) return error != 0 ? error : 1;
    ++s->n;
    fake->bytes_to_device[s->index] += rows * row_bytes;
    const auto row = [=](int64_t r) { return static_cast<const char*>(from) + r * from_stride; };
    const auto write = [=](int64_t r, const char* at) {
      std::memcpy(static_cast<char*>(to) + r * to_stride, at, static_cast<size_t>(row_bytes));
    };
    if (rows == 0 || fake->locked(from, (rows - 1) * from_stride + row_bytes)) {
      return enqueue(s, [=] {
        for (int64_t r = 0; r < rows; ++r) write(r, row(r));
      });
    }
    std::vector<char> staged;
    for (int64_t r = 0; r < rows; ++r) staged.insert(staged.end(), row(r), row(r) + row_bytes);
    return enqueue(s, [=] {
      for (int64_t r = 0; r < rows; ++r) write(r, staged.data() + r * row_bytes);
    });
  }
  // What a stream that is captured may not do.
  static bool captures(const Stream* s, const char* what) {
    if (!s->captures) return false;
    fake->misuse.push_back(std::string(what) + " while a graph is captured");
    return true;
  }
  static int begin_capture(void* on) {
    if (const int error = fake->begin("begin capture")) return error;
    Stream* s = stream(on, "capture");
    if (s == nullptr || captures(s, "a capture")) return 1;
    fake->streams_.begin_capture(s);
    return 0;
  }
  static int end_capture(void* on, void** graph) {
    const int error = fake->begin("end capture");
    Stream* s = stream(on, "end capture");
    if (s == nullptr) return 1;
    if (!s->captures) fake->misuse.emplace_back("the end of no capture");
    vgpu::Emulation::Captured captured = fake->streams_.end_capture(s);
    if (error != 0) return error;
    constexpr int kNoMemory = 2;
    if (fake->graphs_captured == fake->most_graphs) return kNoMemory;
    *graph = reinterpret_cast<void*>(fake->next_graph_++);
    fake->graphs_[*graph] = std::move(captured);
    ++fake->graphs_captured;
    return 0;
  }
  static int launch_graph(void* graph, void* on) {
    if (const int error = fake->begin("launch graph")) return error;
    const auto it = fake->graphs_.find(graph);
    Stream* s = stream(on, "launch graph");
    if (s == nullptr || it == fake->graphs_.end()) {
      fake->misuse.emplace_back("a launch of no graph");
      return 1;
    }
    ++fake->graph_launches;
    for (const auto& work : it->second) fake->streams_.enqueue(s, work);
    fake->streams_.advance();
    return 0;
  }
  static int destroy_graph(void* graph) { return erase(&fake->graphs_, graph, "destroy graph"); }
  static int wait(void* on, void* at) {
    if (const int error = fake->begin("wait")) return error;
    const FakeCuda::Event* e = event(at, "wait");
    Stream* s = stream(on, "wait");
    if (e == nullptr || s == nullptr) return 1;
    if (!e->recorded) fake->misuse.emplace_back("wait for an event that was not recorded");
    if (captures(s, "wait")) return 1;
    fake->waits.push_back({s->index, e->stream, e->n});
    fake->streams_.wait(s, e->stream, e->taken);
    return 0;
  }
  static int record(void* at, void* on) {
    if (const int error = fake->begin("record")) return error;
    FakeCuda::Event* e = event(at, "record");
    const Stream* s = stream(on, "record");
    if (e == nullptr || s == nullptr || captures(s, "record")) return 1;
    *e = {true, s->index, s->taken, s->n};
    return 0;
  }
  static int query(void* at) {
    if (const int error = fake->begin("query")) return error;
    const FakeCuda::Event* e = event(at, "query");
    if (e == nullptr) return 1;
    if (!e->recorded) fake->misuse.emplace_back("query of an event that was not recorded");
    if (!fake->streams_.finish(e->stream, e->taken)) return kNotReady;
    fake->syncs.push_back({-1, e->stream, e->n});
    return 0;
  }
  static int wait_value(void* on, const uint32_t* counter, uint32_t value) {
    if (const int error = fake->begin("wait value")) return error;
    Stream* s = stream(on, "wait value");
    if (s == nullptr) return 1;
    constexpr int kNotSupported = 801;
    std::this_thread::sleep_for(fake->slow_wait_value);
    switch (fake->wait_value) {
      case FakeCuda::WaitValue::kMissing:
        return kNotSupported;
      case FakeCuda::WaitValue::kDoesNotWait:
        return 0;
      case FakeCuda::WaitValue::kNeverEnds:
        fake->streams_.wait_for_host(s, [] { return false; });
        return 0;
      case FakeCuda::WaitValue::kWaits:
        break;
    }
    ++fake->memory_waits;
    fake->streams_.wait_for_host(s, [=] {
      return static_cast<int32_t>(__atomic_load_n(counter, __ATOMIC_ACQUIRE) - value) >= 0;
    });
    return 0;
  }
  static int host_function(void* on, void (*f)(void*), void* data) {
    if (const int error = fake->begin("host function")) return error;
    Stream* s = stream(on, "host function");
    if (s == nullptr || !fake->host_functions) return 1;
    ++fake->function_waits;
    return enqueue(s, [=] { f(data); });
  }
  static int create_stream(void** at) {
    if (const int error = fake->begin("create stream")) return error;
    *at = &fake->streams_.create()->emulation;
    return 0;
  }
  static int destroy_stream(void* at) {
    const int error = fake->begin("destroy stream");
    Stream* s = stream(at, "destroy stream");
    if (s != nullptr) fake->streams_.destroy(s);
    return error;
  }
  static int create_event(void** at) {
    if (const int error = fake->begin("create event")) return error;
    *at = reinterpret_cast<void*>(fake->next_event_++);
    fake->events_[*at] = {};
    ++fake->events_created;
    return 0;
  }
  static int destroy_event(void* at) { return erase(&fake->events_, at, "destroy event"); }
  static int memory(int64_t* free_bytes, int64_t* total_bytes) {
    if (const int error = fake->begin("memory")) return error;
    *free_bytes = fake->free_bytes;
    *total_bytes = fake->free_bytes;
    return 0;
  }
  static int alloc(void** at, int64_t bytes) {
    if (const int error = fake->begin("alloc")) return error;
    *at = take(bytes);
    fake->device_memory_.insert(*at);
    return 0;
  }
  static int free_device(void* at) {
    fake->streams_.finish_all();  // as CUDA does
    const int error = erase(&fake->device_memory_, at, "free");
    std::free(at);
    return error;
  }
  static int alloc_host(void** at, int64_t bytes) {
    if (const int error = fake->begin("alloc host")) return error;
    *at = take(bytes);
    fake->host_memory_[*at] = bytes;
    return 0;
  }
  static int free_host(void* at) {
    fake->streams_.finish_all();  // likewise
    const int error = erase(&fake->host_memory_, at, "free host");
    std::free(at);
    return error;
  }
  static int pin(const void* at, int64_t bytes) {
    if (const int error = fake->begin("pin")) return error;
    fake->pinned_[at] = bytes;
    return 0;
  }
  static int unpin(const void* at) {
    fake->streams_.finish_all();
    return erase(&fake->pinned_, at, "unpin");
  }
  static int sync() {
    if (const int error = fake->begin("sync")) return error;
    fake->streams_.finish_all();
    return 0;
  }
};

void FakeCuda::launch(void* stream) {
  if (auto* s = FakeCalls::stream(stream, "launch")) ++s->n;
}

const CudaRuntime& FakeCuda::table() {
  static constexpr CudaRuntime kTable = {
      .error_text = [](int) -> const char* { return "what CUDA calls it"; },
      .set_device = [](int) { return fake->begin("set device"); },
      .memory = &FakeCalls::memory,
      .alloc = &FakeCalls::alloc,
      .free = &FakeCalls::free_device,
      .alloc_host = &FakeCalls::alloc_host,
      .free_host = &FakeCalls::free_host,
      .pin = &FakeCalls::pin,
      .unpin = &FakeCalls::unpin,
      .create_stream = &FakeCalls::create_stream,
      .destroy_stream = &FakeCalls::destroy_stream,
      .stream_wait = &FakeCalls::wait,
      .create_event = &FakeCalls::create_event,
      .destroy_event = &FakeCalls::destroy_event,
      .record = &FakeCalls::record,
      .event_query = &FakeCalls::query,
      .sync = &FakeCalls::sync,
      .copy_to_device = &FakeCalls::copy_to_device,
      .copy_to_host = &FakeCalls::copy_to_host,
      .copy_rows_to_device = &FakeCalls::copy_rows_to_device,
      .begin_capture = &FakeCalls::begin_capture,
      .end_capture = &FakeCalls::end_capture,
      .launch_graph = &FakeCalls::launch_graph,
      .destroy_graph = &FakeCalls::destroy_graph,
      .wait_value = &FakeCalls::wait_value,
      .host_function = &FakeCalls::host_function,
      .last_error = []() { return fake->begin("launch"); },
  };
  return kTable;
}

}  // namespace tandem::test
