// One list of short checks, past 400 lines because they share the helpers above them.
#include "runtime/selftest/device_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/gpu/gpu_ops.h"
#include "runtime/device/host_array.h"
#include "runtime/error.h"
#include "runtime/selftest/random_inputs.h"

namespace tandem {
namespace {

constexpr const char* kTag = "selftest";
constexpr int64_t kFloat = sizeof(float);

// An allocation that ends with its scope.
class Room {
 public:
  Room(Device& device, int64_t bytes) : device_(device), at_(device.alloc(bytes, kTag)) {}
  ~Room() {
    try {
      device_.free(at_);
    } catch (const Error&) {  // of a device that is lost, which was said before
    }
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  DeviceAddr at() const { return at_; }

 private:
  Device& device_;
  DeviceAddr at_;
};

// y[i] += x[i], i < n, f32: with a kernel of the device's, or as host code where it has none.
Timepoint add(Device& device, DeviceAddr x, DeviceAddr y, int64_t n) {
  const std::array touches{Touch{x, n * kFloat, false}, Touch{y, n * kFloat, true}};
  return device.launch(Stream::kCompute,
                       {"add", touches, 3 * n * kFloat, n,
                        [ops = device.kernels(), x, y, n](const KernelScope& scope) {
                          const auto* from = scope.read_as<float>(x, n);
                          auto* to = scope.write_as<float>(y, n);
                          if (ops != nullptr) {
                            // Many numbers are rows of a residual.
                            const int64_t d = n <= gpu::kWidestResidual ? n : 1024;
                            TANDEM_CHECK(n % d == 0, "%lld numbers", static_cast<long long>(n));
                            gpu::ResidualNorm add{};
                            add.y = to;
                            add.addends[0].x = from;
                            ops->residual_norm(scope.stream(), add, static_cast<int>(n / d),
                                               static_cast<int>(d));
                            return;
                          }
                          for (int64_t i = 0; i < n; ++i) to[i] += from[i];
                        },
                        true});
}

std::vector<uint8_t> random_bytes(uint32_t seed, int64_t n) {
  Random random(seed);
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random.below(256));
  return bytes;
}

// Every element counts its index, modulo what floats hold exactly in sums.
void fill(HostArray<float>* array, float first) {
  for (int64_t i = 0; i < array->size(); ++i) {
    array->data()[i] = first + static_cast<float>(i % 1000);
  }
}

void add_all(const HostArray<float>& got, float first, float step, Comparison* comparison) {
  for (int64_t i = 0; i < got.size(); ++i) {
    comparison->add_exact(0, i, got.data()[i], first + step * static_cast<float>(i % 1000));
  }
}

void check_copies(Device& device, CheckRun* run) {
  run->check("copies of odd sizes and offsets come back bit for bit", "", "", [&](Comparison& c) {
    constexpr int64_t kMost = 100'003;
    constexpr int64_t kMargin = 300;
    const Room room(device, kMost + 2 * kMargin);
    for (const int64_t bytes : {int64_t{1}, int64_t{3}, int64_t{255}, int64_t{4097}, kMost}) {
      for (const int64_t offset : {0, 1, 7, 257}) {
        // What lies around the copy must stay.
        std::vector<uint8_t> all(static_cast<size_t>(kMost + 2 * kMargin), 0x5A);
        const auto size = static_cast<int64_t>(all.size());
        const std::vector<uint8_t> from = random_bytes(static_cast<uint32_t>(bytes), bytes);
        std::vector<uint8_t> got(all.size());
        device.copy_to_device(Stream::kCopy, room.at(), all.data(), size);
        device.copy_to_device(Stream::kCopy, room.at() + offset, from.data(), bytes);
        device.host_wait(device.copy_to_host(Stream::kCopy, got.data(), room.at(), size));
        std::copy(from.begin(), from.end(), all.begin() + offset);
        c.add_bytes(got.data(), all.data(), size);
        // And a part of it.
        std::vector<uint8_t> part(from.size());
        device.host_wait(
            device.copy_to_host(Stream::kCompute, part.data(), room.at() + offset, bytes));
        c.add_bytes(part.data(), from.data(), bytes);
      }
    }
  });
}

void check_rows(Device& device, CheckRun* run) {
  run->check("rows are copied from one distance to another", "", "", [&](Comparison& c) {
    const Device::RowCopy copies[] = {{3, 8, 16, 40}, {17, 33, 40, 33}, {5, 4096, 4224, 12289}};
    for (const Device::RowCopy& copy : copies) {
      const int64_t size = copy.rows * copy.to_stride;
      const Room room(device, size);
      const std::vector<uint8_t> from = random_bytes(5, copy.rows * copy.from_stride);
      std::vector<uint8_t> expected(static_cast<size_t>(size), 0x5A);
      std::vector<uint8_t> got(expected.size());
      device.copy_to_device(Stream::kCopy, room.at(), expected.data(), size);
      device.copy_rows_to_device(Stream::kCopy, room.at(), from.data(), copy);
      device.host_wait(device.copy_to_host(Stream::kCopy, got.data(), room.at(), size));
      for (int64_t r = 0; r < copy.rows; ++r) {
        std::memcpy(expected.data() + r * copy.to_stride, from.data() + r * copy.from_stride,
                    static_cast<size_t>(copy.row_bytes));
      }
      c.add_bytes(got.data(), expected.data(), size);
    }
  });
}

// Host arrays and device memory for a long copy and a kernel behind it.
struct Relay {
  Device& device;
  int64_t n;
  HostArray<float> first;
  HostArray<float> second;
  HostArray<float> result;
  Room x;
  Room y;

  Relay(Device& d, int64_t n_floats)
      : device(d),
        n(n_floats),
        first(d, n, kTag),
        second(d, n, kTag),
        result(d, n, kTag),
        x(d, n * kFloat),
        y(d, n * kFloat) {
    fill(&first, 1);
    fill(&second, 5000);
    std::fill_n(result.data(), n, 0.0F);
    // x and y are zeros when a check begins.
    device.copy_to_device(Stream::kCopy, x.at(), result.data(), n * kFloat);
    device.copy_to_device(Stream::kCopy, y.at(), result.data(), n * kFloat);
    device.host_wait_all();
  }
  Timepoint send(const HostArray<float>& from) {
    return device.copy_to_device(Stream::kCopy, x.at(), from.data(), n * kFloat);
  }
  Timepoint add_up() { return add(device, x.at(), y.at(), n); }
  Timepoint fetch(Stream stream) {
    return device.copy_to_host(stream, result.data(), y.at(), n * kFloat);
  }
};

void check_order(Device& device, int64_t n, CheckRun* run) {
  run->check("a kernel waits for a copy of the other stream", "", "", [&](Comparison& c) {
    Relay relay(device, n);
    device.wait(Stream::kCompute, relay.send(relay.first));
    relay.add_up();
    device.host_wait(relay.fetch(Stream::kCompute));
    add_all(relay.result, 1, 1, &c);
  });
  run->check("a copy waits for a kernel of the other stream", "", "", [&](Comparison& c) {
    Relay relay(device, n);
    device.wait(Stream::kCompute, relay.send(relay.first));
    for (int i = 0; i < 4; ++i) relay.add_up();
    device.wait(Stream::kCopy, relay.add_up());
    relay.send(relay.second);  // not before the fifth has read x
    device.host_wait(relay.fetch(Stream::kCompute));
    add_all(relay.result, 5, 5, &c);
    device.host_wait_all();
  });
  run->check("two streams take turns without the host", "", "", [&](Comparison& c) {
    Relay relay(device, n);
    for (int i = 0; i < 4; ++i) {
      for (const HostArray<float>* from : {&relay.first, &relay.second}) {
        device.wait(Stream::kCompute, relay.send(*from));
        device.wait(Stream::kCopy, relay.add_up());
      }
    }
    device.host_wait(relay.fetch(Stream::kCopy));
    add_all(relay.result, 4 * 5001, 8, &c);
  });
  run->check("what the host has waited for is done", "", "", [&](Comparison& c) {
    Relay relay(device, n);
    device.wait(Stream::kCompute, relay.send(relay.first));
    relay.add_up();
    relay.fetch(Stream::kCompute);
    device.host_wait_all();
    add_all(relay.result, 1, 1, &c);
    const Timepoint done = relay.add_up();
    device.wait(Stream::kCopy, done);
    device.host_wait(relay.fetch(Stream::kCopy));
    add_all(relay.result, 2, 2, &c);
    device.host_wait(done);  // an earlier one
    device.host_wait({Stream::kCopy, 0});
  });
}

void check_host_work(Device& device, CheckRun* run) {
  run->check("what waits for host work comes after it", "", "50 times", [&](Comparison& c) {
    constexpr int kRounds = 50;
    constexpr int64_t kN = 2048;
    HostArray<float> written(device, kN, kTag);
    HostArray<float> got(device, kN, kTag);
    const Room room(device, kN * kFloat);
    const std::array touches{HostTouch{written.data(), kN * kFloat, true}};
    for (int r = 0; r < kRounds; ++r) {
      const Timepoint done = device.begin_host_work("host work", touches, 1);
      const std::jthread host([&, r] {
        if (r % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
        fill(&written, static_cast<float>(r));
        device.end_host_work(done);
      });
      device.wait(Stream::kCompute, done);
      device.copy_to_device(Stream::kCompute, room.at(), written.data(), kN * kFloat);
      device.host_wait(device.copy_to_host(Stream::kCompute, got.data(), room.at(), kN * kFloat));
      add_all(got, static_cast<float>(r), 1, &c);
    }
  });
}

void check_timepoints(Device& device, CheckRun* run) {
  constexpr int kKernels = 3000;
  run->check("thousands of timepoints can be waited for, old ones too", "",
             fmt::format("{} kernels", kKernels), [&](Comparison& c) {
               const Room one(device, kFloat);
               const Room sum(device, kFloat);
               const std::array<float, 2> values{1, 0};
               std::array<float, 2> got{};
               device.copy_to_device(Stream::kCompute, one.at(), &values[0], kFloat);
               device.copy_to_device(Stream::kCompute, sum.at(), &values[1], kFloat);
               std::vector<Timepoint> points;
               for (int i = 0; i < kKernels; ++i) {
                 points.push_back(add(device, one.at(), sum.at(), 1));
                 if (i % 100 == 99) device.wait(Stream::kCopy, points[points.size() / 2]);
               }
               device.host_wait(points.front());
               device.host_wait(points[kKernels / 3]);
               device.wait(Stream::kCopy, points.back());
               device.host_wait(device.copy_to_host(Stream::kCopy, got.data(), sum.at(), kFloat));
               c.add_exact(0, 0, got[0], kKernels);
             });
}

// Every decode token of a run is graphs.
void check_graphs(Device& device, CheckRun* run) {
  if (!device.keeps_graphs()) return;
  constexpr int64_t kN = 1000;
  run->check(
      "a graph does what was kept, with what memory holds when it is run", "", "",
      [&](Comparison& c) {
        const Room x(device, kN * kFloat);
        const Room y(device, kN * kFloat);
        HostArray<float> written(device, kN, kTag);
        HostArray<float> got(device, kN, kTag);
        const auto put = [&](const Room& room, float offset) {
          fill(&written, offset);
          device.host_wait(
              device.copy_to_device(Stream::kCompute, room.at(), written.data(), kN * kFloat));
        };
        put(x, 1);
        put(y, 0);
        device.begin_graph();
        add(device, x.at(), y.at(), kN);
        device.copy_to_host(Stream::kCompute, got.data(), y.at(), kN * kFloat);
        const Graph graph = device.end_graph();
        float sum = 0;
        float step = 1;
        for (const float offset : {1.0F, 5.0F, 5.0F}) {
          put(x, offset);
          device.host_wait(device.run_graph(graph, 0));
          sum += offset;
          step += 1;
          add_all(got, sum, step, &c);
        }
        device.free_graph(graph);
        device.begin_graph();
        add(device, x.at(), y.at(), kN);
        device.cancel_graph();
        device.host_wait(device.copy_to_host(Stream::kCompute, got.data(), y.at(), kN * kFloat));
        add_all(got, sum, step, &c);
      });
}

void check_host_memory(Device& device, std::span<std::byte> to_pin, CheckRun* run) {
  run->check("page-locked memory is used again once the host has waited", "", "200 copies",
             [&](Comparison& c) {
               constexpr int64_t kRounds = 200;
               constexpr int64_t kN = 2048;
               HostArray<float> staging(device, kN, kTag);
               HostArray<float> got(device, kRounds * kN, kTag);
               const Room room(device, kRounds * kN * kFloat);
               for (int64_t r = 0; r < kRounds; ++r) {
                 device.host_access("staging", staging.data(), kN * kFloat, true);
                 fill(&staging, static_cast<float>(r));
                 device.host_wait(device.copy_to_device(Stream::kCopy, room.at() + r * kN * kFloat,
                                                        staging.data(), kN * kFloat));
               }
               device.host_wait(device.copy_to_host(Stream::kCopy, got.data(), room.at(),
                                                    kRounds * kN * kFloat));
               for (int64_t i = 0; i < got.size(); ++i) {
                 const int64_t round = i / kN;
                 const int64_t place = i % kN;
                 c.add_exact(round, place, got.data()[i], static_cast<float>(round + place % 1000));
               }
             });
  run->check("memory whose pages are locked later is copied from", "", "", [&](Comparison& c) {
    const auto bytes = static_cast<int64_t>(to_pin.size());
    const std::vector<uint8_t> from = random_bytes(6, bytes);
    std::vector<uint8_t> got(from.size());
    std::memcpy(to_pin.data(), from.data(), from.size());
    const std::string refused = device.pin_host(to_pin.data(), bytes);
    c.require(refused.empty(), "locking pages was refused: " + refused);
    const Room room(device, bytes);
    device.copy_to_device(Stream::kCopy, room.at(), to_pin.data(), bytes);
    device.host_wait(device.copy_to_host(Stream::kCopy, got.data(), room.at(), bytes));
    c.add_bytes(got.data(), from.data(), bytes);
  });
}

void check_alloc(Device& device, CheckRun* run) {
  run->check(
      "allocations begin at multiples of 256 and do not overlap", "", "", [&](Comparison& c) {
        constexpr int64_t kSizes[] = {1, 255, 256, 257, 1000, 65537};
        std::vector<std::pair<uintptr_t, int64_t>> ranges;
        std::vector<std::unique_ptr<Room>> rooms;
        for (const int64_t bytes : kSizes) {
          rooms.push_back(std::make_unique<Room>(device, bytes));
          const auto at = reinterpret_cast<uintptr_t>(rooms.back()->at().at);
          c.require(at % 256 == 0, fmt::format("{} bytes begin {} behind one", bytes, at % 256));
          ranges.emplace_back(at, bytes);
        }
        std::sort(ranges.begin(), ranges.end());
        for (size_t i = 1; i < ranges.size(); ++i) {
          c.require(
              ranges[i - 1].first + static_cast<uintptr_t>(ranges[i - 1].second) <= ranges[i].first,
              "two allocations overlap");
        }
      });
  run->check("used bytes grow with an allocation and shrink when it is freed", "", "",
             [&](Comparison& c) {
               const int64_t before = device.used_bytes();
               const DeviceAddr a = device.alloc(1000, kTag);
               const int64_t with_a = device.used_bytes();
               c.require(with_a >= before + 1000, "1000 bytes are not counted");
               const DeviceAddr b = device.alloc(2000, kTag);
               c.require(device.used_bytes() >= with_a + 2000, "2000 bytes are not counted");
               device.free(b);
               c.require(device.used_bytes() == with_a, "freed bytes are counted");
               device.free(a);
               c.require(device.used_bytes() == before, "freed bytes are counted");
             });
  run->check("too large an allocation is refused, and the device goes on", "", "",
             [&](Comparison& c) {
               const int64_t vram = device.info().vram_bytes;
               const int64_t used = device.used_bytes();
               for (const int64_t bytes : {std::numeric_limits<int64_t>::max(), vram + 1}) {
                 if (bytes <= 1) continue;  // no memory of its own, and so no bound
                 try {
                   device.free(device.alloc(bytes, kTag));
                   c.require(false, fmt::format("{} bytes were given", bytes));
                 } catch (const MemoryError&) {
                 }
               }
               c.require(device.used_bytes() == used, "what was refused is counted");
               const Room room(device, 1 << 16);
               const std::vector<uint8_t> from = random_bytes(7, 1 << 16);
               std::vector<uint8_t> got(from.size());
               device.copy_to_device(Stream::kCopy, room.at(), from.data(), 1 << 16);
               device.host_wait(device.copy_to_host(Stream::kCopy, got.data(), room.at(), 1 << 16));
               c.add_bytes(got.data(), from.data(), 1 << 16);
             });
}

}  // namespace

void run_device_checks(Device& device, const DeviceCheckSettings& settings, CheckRun* run) {
  check_copies(device, run);
  check_rows(device, run);
  check_alloc(device, run);
  check_host_memory(device, settings.to_pin, run);
  check_order(device, settings.long_copy_bytes / kFloat, run);
  check_graphs(device, run);
  check_host_work(device, run);
  check_timepoints(device, run);
}

}  // namespace tandem
