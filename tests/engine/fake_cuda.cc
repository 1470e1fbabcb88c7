#include "tests/engine/fake_cuda.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

namespace tandem::test {
namespace {

FakeCuda* fake = nullptr;

void* take(int64_t bytes) {
  return std::aligned_alloc(256, static_cast<size_t>(bytes + 255) / 256 * 256);
}

}  // namespace

FakeCuda::FakeCuda() { fake = this; }
FakeCuda::~FakeCuda() {
  for (const auto& [at, state] : streams_) delete static_cast<vgpu::Emulation*>(at);
  for (void* at : device_memory_) std::free(at);
  for (void* at : host_memory_) std::free(at);
  fake = nullptr;
}

size_t FakeCuda::alive() const {
  return streams_.size() + events_.size() + graphs_.size() + device_memory_.size() +
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
  failed_ = failed_ || (now && sticky);
  return now || failed_ ? error : 0;
}

struct FakeCalls {
  static FakeCuda::StreamState* stream(void* at, const char* what) {
    const auto it = fake->streams_.find(at);
    if (it != fake->streams_.end()) return &it->second;
    fake->misuse.push_back(std::string(what) + " of no stream");
    return nullptr;
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
  static int copy(void* to, const void* from, int64_t bytes, void* on) {
    if (const int error = fake->begin("copy")) return error;
    auto* s = stream(on, "copy");
    if (s == nullptr) return 1;
    static_cast<vgpu::Emulation*>(on)->enqueue([=] {
      ++s->n;
      std::memcpy(to, from, static_cast<size_t>(bytes));
    });
    return 0;
  }
  // What a stream that is captured may not do.
  static bool captures(void* on, const char* what) {
    if (!static_cast<vgpu::Emulation*>(on)->capturing()) return false;
    fake->misuse.push_back(std::string(what) + " while a graph is captured");
    return true;
  }
  static int begin_capture(void* on) {
    if (const int error = fake->begin("begin capture")) return error;
    if (stream(on, "capture") == nullptr || captures(on, "a capture")) return 1;
    static_cast<vgpu::Emulation*>(on)->begin_capture();
    return 0;
  }
  static int end_capture(void* on, void** graph) {
    const int error = fake->begin("end capture");
    auto* emulation = static_cast<vgpu::Emulation*>(on);
    if (!emulation->capturing()) fake->misuse.emplace_back("the end of no capture");
    vgpu::Emulation::Captured captured = emulation->end_capture();
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
    if (stream(on, "launch graph") == nullptr || it == fake->graphs_.end()) {
      fake->misuse.emplace_back("a launch of no graph");
      return 1;
    }
    ++fake->graph_launches;
    for (const auto& work : it->second) work();
    return 0;
  }
  static int destroy_graph(void* graph) { return erase(&fake->graphs_, graph, "destroy graph"); }
  static int wait(void* on, void* at) {
    if (const int error = fake->begin("wait")) return error;
    const FakeCuda::Event* e = event(at, "wait");
    const FakeCuda::StreamState* s = stream(on, "wait");
    if (e == nullptr || s == nullptr) return 1;
    if (!e->recorded) fake->misuse.emplace_back("wait for an event that was not recorded");
    if (captures(on, "wait")) return 1;
    fake->waits.push_back({s->index, e->stream, e->n});
    return 0;
  }
  static int record(void* at, void* on) {
    if (const int error = fake->begin("record")) return error;
    FakeCuda::Event* e = event(at, "record");
    const FakeCuda::StreamState* s = stream(on, "record");
    if (e == nullptr || s == nullptr || captures(on, "record")) return 1;
    *e = {true, s->index, s->n, s->stuck};
    return 0;
  }
  static int query(void* at) {
    if (const int error = fake->begin("query")) return error;
    const FakeCuda::Event* e = event(at, "query");
    if (e == nullptr) return 1;
    if (!e->recorded) fake->misuse.emplace_back("query of an event that was not recorded");
    constexpr int kNotReady = 600;
    if (e->stuck) return kNotReady;
    fake->syncs.push_back({-1, e->stream, e->n});
    return 0;
  }
  // Streams are never behind, so the host is.
  static int wait_value(void* on, const uint32_t* counter, uint32_t value) {
    if (const int error = fake->begin("wait value")) return error;
    FakeCuda::StreamState* s = stream(on, "wait value");
    constexpr int kNotSupported = 801;
    switch (fake->wait_value) {
      case FakeCuda::WaitValue::kMissing:
        return kNotSupported;
      case FakeCuda::WaitValue::kDoesNotWait:
        return 0;
      case FakeCuda::WaitValue::kNeverEnds:
        if (s != nullptr) s->stuck = true;
        return 0;
      case FakeCuda::WaitValue::kWaits:
        break;
    }
    ++fake->memory_waits;
    while (static_cast<int32_t>(__atomic_load_n(counter, __ATOMIC_ACQUIRE) - value) < 0) {
      std::this_thread::yield();
    }
    return 0;
  }
  static int host_function(void* on, void (*f)(void*), void* data) {
    if (const int error = fake->begin("host function")) return error;
    stream(on, "host function");
    if (!fake->host_functions) return 1;
    ++fake->function_waits;
    f(data);
    return 0;
  }
  static int create_stream(void** at) {
    if (const int error = fake->begin("create stream")) return error;
    *at = new vgpu::Emulation;
    fake->streams_[*at] = {fake->next_stream_++, 0};
    return 0;
  }
  static int destroy_stream(void* at) {
    const int error = erase(&fake->streams_, at, "destroy stream");
    delete static_cast<vgpu::Emulation*>(at);
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
    const int error = erase(&fake->device_memory_, at, "free");
    std::free(at);
    return error;
  }
  static int alloc_host(void** at, int64_t bytes) {
    if (const int error = fake->begin("alloc host")) return error;
    *at = take(bytes);
    fake->host_memory_.insert(*at);
    return 0;
  }
  static int free_host(void* at) {
    const int error = erase(&fake->host_memory_, at, "free host");
    std::free(at);
    return error;
  }
  static int pin(const void* at, int64_t /*bytes*/) {
    if (const int error = fake->begin("pin")) return error;
    fake->pinned_.insert(at);
    return 0;
  }
  static int unpin(const void* at) { return erase(&fake->pinned_, at, "unpin"); }
  static int to_device(void* to, const void* from, int64_t bytes, void* on) {
    if (const auto* s = stream(on, "copy")) fake->bytes_to_device[s->index] += bytes;
    return copy(to, from, bytes, on);
  }
  static int rows_to_device(void* to, int64_t to_stride, const void* from, int64_t from_stride,
                            int64_t row_bytes, int64_t rows, void* on) {
    if (const int error = fake->begin("copy")) return error;
    if (row_bytes > to_stride || row_bytes > from_stride) {
      fake->misuse.emplace_back("rows that overlap");  // cudaErrorInvalidPitchValue
    }
    if (auto* s = stream(on, "copy")) {
      ++s->n;
      fake->bytes_to_device[s->index] += rows * row_bytes;
    }
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * to_stride,
                  static_cast<const char*>(from) + r * from_stride, static_cast<size_t>(row_bytes));
    }
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
      .sync = []() { return fake->begin("sync"); },
      .copy_to_device = &FakeCalls::to_device,
      .copy_to_host = &FakeCalls::to_device,
      .copy_rows_to_device = &FakeCalls::rows_to_device,
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
