#include "runtime/selftest/bandwidth_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/gpu/gpu_ops.h"
#include "kernels/packed.h"
#include "runtime/device/host_array.h"
#include "runtime/device/side_thread.h"
#include "runtime/error.h"
#include "runtime/selftest/device_memory.h"
#include "runtime/words.h"

namespace tandem {
namespace {

constexpr const char* kTag = "selftest";

// From its beginning, or from the time that it returns.
template <typename F>
double us_of(const F& once) {
  auto start = std::chrono::steady_clock::now();
  if constexpr (std::is_void_v<std::invoke_result_t<F>>) {
    once();
  } else {
    start = once();
  }
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

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

  template <typename F>
  void time(Figure* figure, const F& once) {
    once();
    for (int i = 0; i < settings_.repeats; ++i) figure->us.push_back(us_of(once));
  }

  void copies() {
    for (const int64_t bytes : settings_.copy_bytes) {
      figure("copy to device, page-locked, " + bytes_text(bytes), bytes, [&](Figure* f) {
        DeviceMemory memory(device_);
        HostArray<uint8_t> host(device_, bytes, kTag);
        std::fill_n(host.data(), bytes, uint8_t{1});
        to_device(f, &memory, host.data(), bytes);
      });
      figure("copy to host, page-locked, " + bytes_text(bytes), bytes, [&](Figure* f) {
        DeviceMemory memory(device_);
        HostArray<uint8_t> host(device_, bytes, kTag);
        const auto at = memory.raw<uint8_t>(bytes);
        time(f, [&] {
          device_.host_wait(device_.copy_to_host(Stream::kCopy, host.data(), at.at, bytes));
        });
      });
      figure("copy to device, pageable, " + bytes_text(bytes), bytes, [&](Figure* f) {
        DeviceMemory memory(device_);
        const std::vector<uint8_t> host(static_cast<size_t>(bytes), 1);
        to_device(f, &memory, host.data(), bytes);
      });
    }
  }

  void two_copies() {
    const int64_t bytes = settings_.pair_bytes;
    figure(fmt::format("two copies to device at a time, a stream each, of {}", bytes_text(bytes)),
           2 * bytes, [&](Figure* f) {
             DeviceMemory memory(device_);
             HostArray<uint8_t> host(device_, 2 * bytes, kTag);
             std::fill_n(host.data(), 2 * bytes, uint8_t{1});
             const auto at = memory.raw<uint8_t>(2 * bytes);
             time(f, [&] {
               const Timepoint a = device_.copy_to_device(Stream::kCopy, at.at, host.data(), bytes);
               const Timepoint b = device_.copy_to_device(Stream::kCompute, at.at + bytes,
                                                          host.data() + bytes, bytes);
               device_.host_wait(a);
               device_.host_wait(b);
             });
           });
  }

  // What a layer costs beside its work: the smallest kernel, and the host's turn between two.
  void latencies() {
    figure("launch of a tiny kernel, host waits", 0, [&](Figure* f) {
      DeviceMemory memory(device_);
      const auto x = memory.put(std::vector<float>{0});
      const auto y = memory.put(std::vector<float>{0});
      time(f, [&] { device_.host_wait(tiny_kernel(x, y)); });
    });
    figure("hand-over of a layer: 8 KiB to host, wait, 8 KiB back, tiny kernel, wait", 0,
           [&](Figure* f) {
             constexpr int64_t kBytes = 8 << 10;
             DeviceMemory memory(device_);
             const auto x = memory.put(std::vector<float>(kBytes / 4, 0.0F));
             const auto y = memory.put(std::vector<float>{0});
             HostArray<uint8_t> host(device_, kBytes, kTag);
             time(f, [&] {
               device_.host_wait(device_.copy_to_host(Stream::kCompute, host.data(), x.at, kBytes));
               device_.copy_to_device(Stream::kCompute, x.at, host.data(), kBytes);
               device_.host_wait(tiny_kernel({x.at, 1}, y));
             });
           });
  }

  // A layer whose experts another thread computes: what is enqueued behind their end begins.
  void host_work(const std::string& how) {
    figure("hand-over of host work by " + how + ": end of 20 us of work, 8 KiB to device, tiny " +
               "kernel, 8 KiB to host, wait",
           0, [&](Figure* f) {
             constexpr int64_t kBytes = 8 << 10;
             DeviceMemory memory(device_);
             const auto x = memory.put(std::vector<float>(kBytes / 4, 0.0F));
             const auto y = memory.put(std::vector<float>{0});
             HostArray<uint8_t> host(device_, kBytes, kTag);
             SideThread side;
             time(f, [&] {
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
               tiny_kernel({x.at, 1}, y);
               const Timepoint back =
                   device_.copy_to_host(Stream::kCompute, host.data(), x.at, kBytes);
               side.wait();
               device_.host_wait(back);
               return ended;
             });
           });
  }

  void weights(DType type, int n_tokens) {
    constexpr int kCols = 4096;
    const int64_t group = packed_bytes(type, kCols);
    const int64_t groups = std::max<int64_t>(settings_.weight_bytes / group, 1);
    const auto rows = static_cast<int>(groups * kGroupRows);
    figure(fmt::format("product reads {} of {} with {} token{}", bytes_text(groups * group),
                       dtype_info(type).name, n_tokens, n_tokens == 1 ? "" : "s"),
           groups * group, [&](Figure* f) {
             DeviceMemory memory(device_);
             const DeviceMatrix w{memory.raw<uint8_t>(groups * group), group, rows, kCols};
             const DeviceActivations x = memory.put(pack_activations(
                 rounded_x_kind(type), std::vector<float>(size_t{kCols} * n_tokens, 0.25F), kCols));
             const auto y = memory.raw<float>(int64_t{rows} * n_tokens);
             time(f, [&] {
               memory.run("product", [&](const KernelScope& scope) {
                 const gpu::ProductParts parts{{w.in(scope), nullptr, y.in(scope)}, {}, {}};
                 device_.kernels()->product(scope.stream(), type, parts, x.in(scope), n_tokens);
               });
             });
           });
  }

 private:
  void to_device(Figure* f, DeviceMemory* memory, const uint8_t* host, int64_t bytes) {
    const auto at = memory->raw<uint8_t>(bytes);
    time(f, [&] { device_.host_wait(device_.copy_to_device(Stream::kCopy, at.at, host, bytes)); });
  }

  Timepoint tiny_kernel(DeviceArray<float> x, DeviceArray<float> y) {
    const std::array touches{Touch{x.at, 4, true}, Touch{y.at, 4, true}};
    return device_.launch(Stream::kCompute,
                          {"add", touches, 12, 1,
                           [ops = device_.kernels(), x, y](const KernelScope& scope) {
                             gpu::ResidualNorm add{};
                             add.y = y.in(scope);
                             add.addends[0].x = x.in(scope);
                             ops->residual_norm(scope.stream(), add, 1, 1);
                           },
                           true});
  }

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
  probe.copies();
  probe.two_copies();
  probe.latencies();
  for (const DType type : {DType::kQ4_K, DType::kBF16}) {
    for (const int n_tokens : {1, 16}) probe.weights(type, n_tokens);
  }
}

}  // namespace tandem
