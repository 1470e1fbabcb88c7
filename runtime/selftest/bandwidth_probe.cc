#include "runtime/selftest/bandwidth_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "kernels/check.h"
#include "kernels/packed.h"
#include "runtime/device/host_array.h"
#include "runtime/device/side_thread.h"
#include "runtime/error.h"
#include "runtime/probe/device_work.h"
#include "runtime/words.h"

namespace tandem {
namespace {

constexpr const char* kTag = "selftest";

std::vector<double> sorted(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values;
}

class Probe {
 public:
  Probe(Device& device, const ProbeSettings& settings,
        const std::function<void(const Figure&)>& on_figure)
      : device_(device), settings_(settings), on_figure_(on_figure) {}

  // What lacks memory becomes the figure's problem.
  void figure(const std::string& name, int64_t bytes, const std::function<void(Figure*)>& measure) {
    Figure figure{name, bytes, {}, {}};
    try {
      measure(&figure);
    } catch (const MemoryError& error) {
      figure.us.clear();
      figure.problem = error.what();
    }
    on_figure_(figure);
  }

  // us: of one repeat.
  void each(Figure* figure, const std::function<double()>& us) {
    us();
    for (int i = 0; i < settings_.repeats; ++i) figure->us.push_back(us());
  }
  void time(Figure* figure, const std::function<Timepoint()>& once) {
    each(figure, [&] {
      const double start = now_us(device_);
      device_.host_wait(once());
      return now_us(device_) - start;
    });
  }

  // Not on a simulated device.
  void warm_up() {
    figure("copies to device to warm the link up", 0, [&](Figure* f) {
      const WarmUp done = warm_up_link(device_, settings_.warm_up_seconds, kTag);
      f->bytes = done.bytes;
      f->us = {done.seconds * 1e6};
    });
  }

  void copies() {
    for (const int64_t bytes : settings_.copy_bytes) {
      figure("copy to device, page-locked, " + bytes_text(bytes), bytes, [&](Figure* f) {
        PinnedCopy copy(device_, bytes, kTag);
        time(f, [&] { return copy.start_to_device(); });
      });
      figure("copy to host, page-locked, " + bytes_text(bytes), bytes, [&](Figure* f) {
        PinnedCopy copy(device_, bytes, kTag);
        time(f, [&] { return copy.start_to_host(); });
      });
      figure("copy to device, pageable, " + bytes_text(bytes), bytes, [&](Figure* f) {
        DeviceMemory memory(device_, kTag);
        const std::vector<uint8_t> host(static_cast<size_t>(bytes), 1);
        const auto at = memory.raw<uint8_t>(bytes);
        time(f, [&] { return device_.copy_to_device(Stream::kCopy, at.at, host.data(), bytes); });
      });
    }
  }

  void two_copies() {
    const int64_t bytes = settings_.pair_bytes;
    figure(fmt::format("two copies to device at a time, a stream each, of {}", bytes_text(bytes)),
           2 * bytes, [&](Figure* f) {
             PinnedCopy a(device_, bytes, kTag);
             PinnedCopy b(device_, bytes, kTag);
             time(f, [&] {
               const Timepoint first = a.start_to_device(Stream::kCopy);
               const Timepoint second = b.start_to_device(Stream::kCompute);
               device_.host_wait(first);
               return second;
             });
           });
  }

  // What a layer costs beside its work: the smallest kernel, and the host's turn between two.
  void latencies() {
    figure("launch of a tiny kernel, host waits", 0, [&](Figure* f) {
      TinyKernel kernel(device_, kTag);
      time(f, [&] { return kernel.launch(); });
    });
    figure("hand-over of a layer: 8 KiB to host, wait, 8 KiB back, tiny kernel, wait", 0,
           [&](Figure* f) {
             RoundTrip round_trip(device_, kTag);
             time(f, [&] { return round_trip.layer(); });
           });
  }

  // A layer whose experts another thread computes: what is enqueued behind their end begins.
  void host_work(const std::string& how) {
    figure("hand-over of host work by " + how + ": end of 20 us of work, 8 KiB to device, tiny " +
               "kernel, 8 KiB to host, wait",
           0, [&](Figure* f) {
             constexpr int64_t kBytes = 8 << 10;
             DeviceMemory memory(device_, kTag);
             const auto x = memory.put(std::vector<float>(kBytes / 4, 0.0F));
             TinyKernel kernel(device_, kTag);
             HostArray<uint8_t> host(device_, kBytes, kTag);
             SideThread side;
             each(f, [&] {
               const Timepoint done = device_.begin_host_work("host work", {}, 0);
               std::chrono::steady_clock::time_point ended;
               side.start([&] {
                 const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
                 while (std::chrono::steady_clock::now() < end) {
                 }
                 ended = std::chrono::steady_clock::now();
                 device_.end_host_work(done);
               });
               device_.wait(Stream::kCompute, done);
               device_.copy_to_device(Stream::kCompute, x.at, host.data(), kBytes);
               kernel.launch_on(x.at, false);
               const Timepoint back =
                   device_.copy_to_host(Stream::kCompute, host.data(), x.at, kBytes);
               side.wait();
               device_.host_wait(back);
               return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() -
                                                                ended)
                   .count();
             });
           });
  }

  void weights(DType type, int n_tokens) {
    const int64_t group = packed_bytes(type, ProductRead::kCols);
    const int64_t bytes = std::max<int64_t>(settings_.weight_bytes / group, 1) * group;
    figure(fmt::format("product reads {} of {} with {} token{}", bytes_text(bytes),
                       dtype_info(type).name, n_tokens, n_tokens == 1 ? "" : "s"),
           bytes, [&](Figure* f) {
             ProductRead product(device_, type, bytes, n_tokens, kTag);
             time(f, [&] { return product.launch(); });
           });
  }

 private:
  Device& device_;
  const ProbeSettings& settings_;
  const std::function<void(const Figure&)>& on_figure_;
};

}  // namespace

double Figure::median_us() const { return us.empty() ? 0 : sorted(us)[us.size() / 2]; }
double Figure::least_us() const { return us.empty() ? 0 : sorted(us).front(); }
double Figure::most_us() const { return us.empty() ? 0 : sorted(us).back(); }
double Figure::gbps() const {
  return us.empty() ? 0 : static_cast<double>(bytes) / median_us() / 1e3;
}

void probe_hand_over(Device& device, const std::string& how, const ProbeSettings& settings,
                     const std::function<void(const Figure&)>& on_figure) {
  Probe(device, settings, on_figure).host_work(how);
}

void probe_bandwidth(Device& device, const ProbeSettings& settings,
                     const std::function<void(const Figure&)>& on_figure) {
  TANDEM_CHECK(device.kernels() != nullptr, "%s has no kernels", device.info().name.c_str());
  Probe probe(device, settings, on_figure);
  if (!device.info().simulated) probe.warm_up();
  probe.copies();
  probe.two_copies();
  probe.latencies();
  for (const DType type : {DType::kQ4_K, DType::kBF16}) {
    for (const int n_tokens : {1, 16}) probe.weights(type, n_tokens);
  }
}

}  // namespace tandem
