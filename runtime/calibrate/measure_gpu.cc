#include "runtime/calibrate/measure_gpu.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace tandem {
namespace {

constexpr const char* kTag = "calibrate";
constexpr int64_t kSmallBytes = 4 << 10;

class Measurement {
 public:
  Measurement(Device& device, const OnMeasuring& measuring, GpuRates* rates)
      : device_(device), settings_(rates->settings), measuring_(measuring), rates_(*rates) {}

  void link() {
    measuring_("link: warming it up");
    rates_.link_warm_up = warm_up_link(device_, settings_.warm_up_seconds, kTag);
    measuring_("link: large copies");
    PinnedCopy large(device_, settings_.copy_bytes, kTag);
    const std::vector<double> there = times([&] { return large.start_to_device(); });
    const std::vector<double> back = times([&] { return large.start_to_host(); });
    rates_.h2d_gbps = rate(there, large.bytes(), 0);
    measuring_("link: small copies");
    rates_.latency_us = latency();
    rates_.h2d_gbps = rate(there, large.bytes(), rates_.latency_us.median);
    rates_.d2h_gbps = rate(back, large.bytes(), rates_.latency_us.median);
  }

  void launches() {
    measuring_("GPU: launches");
    TinyKernel kernel(device_, kTag);
    const int n = settings_.n_kernels;
    const std::vector<double> one = times([&] { return kernel.launch(); });
    std::vector<double> many = times([&] {
      for (int i = 1; i < n; ++i) kernel.launch(false);
      return kernel.launch();
    });
    const double first = spread_of(one).median;
    for (double& us : many) us = std::max(us - first, 0.0) / (n - 1);
    rates_.launch_us = spread_of(std::move(many));
    wait_us_ = std::max(first - rates_.launch_us.median, 0.0);
  }

  // What a simulated device has no time for.
  void hand_overs() {
    measuring_("GPU: hand-overs");
    RoundTrip round_trip(device_, kTag);
    const int n = settings_.n_layers;
    std::vector<double> us = times([&] {
      for (int i = 1; i < n; ++i) round_trip.layer();
      return round_trip.layer();
    });
    for (double& each : us) each = std::max(each / n - rates_.launch_us.median, 0.0);
    rates_.hand_over_us = spread_of(std::move(us));
  }

  void experts() {
    GpuExperts::Shape shape = settings_.experts;
    shape.n_groups = static_cast<int>(
        std::max<int64_t>(settings_.region_bytes / GpuExperts::group_weight_bytes(shape), 1));
    {
      GpuExperts experts(device_, shape, kTag);
      warm_up(&experts);
      measuring_("GPU: experts with one token");
      const std::vector<double> us = group_times(&experts, shape.n_groups);
      rates_.read_gbps = rate(us, experts.bytes(), launches_us());
    }
    shape.n_experts = settings_.many_experts;
    shape.n_tokens = settings_.many_tokens;
    shape.n_groups = settings_.many_groups;
    GpuExperts experts(device_, shape, kTag);
    measuring_("GPU: experts with many tokens");
    const std::vector<double> us = group_times(&experts, shape.n_groups);
    rates_.gflops = rate(us, experts.flops(), launches_us());
    const double reading = static_cast<double>(experts.bytes()) / rates_.read_gbps.median / 1e3;
    rates_.many_read = spread_of(us).median - launches_us() < 1.1 * reading;
  }

  void product() {
    measuring_("GPU: a large product");
    ProductRead product(device_, DType::kBF16, settings_.region_bytes, 1, kTag);
    rates_.product_gbps = rate(times([&] { return product.launch(); }), product.weight_bytes(),
                               rates_.launch_us.median + wait_us_);
  }

 private:
  // Microseconds of each repeat, behind one that is not counted.
  std::vector<double> times(const std::function<Timepoint()>& once) {
    device_.host_wait(once());
    std::vector<double> us(static_cast<size_t>(settings_.repeats));
    for (double& each : us) each = us_of(once);
    return us;
  }
  double us_of(const std::function<Timepoint()>& once) {
    const double start = now_us(device_);
    device_.host_wait(once());
    return now_us(device_) - start;
  }

  // A thousand million a second. What is fixed in a time is taken off, but no more than nine tenths
  // of it: what is left would be noise.
  static Spread rate(const std::vector<double>& us, int64_t amount, double fixed_us) {
    std::vector<double> rates;
    rates.reserve(us.size());
    for (const double each : us) {
      rates.push_back(static_cast<double>(amount) / std::max({each - fixed_us, each / 10, 1e-3}) /
                      1e3);
    }
    return spread_of(std::move(rates));
  }

  // Each repeat beside one without a copy.
  Spread latency() {
    PinnedCopy copy(device_, kSmallBytes, kTag);
    TinyKernel kernel(device_, kTag);
    const auto behind_copy = [&] {
      device_.wait(Stream::kCompute, copy.start_to_device());
      return kernel.launch();
    };
    const auto alone = [&] { return kernel.launch(); };
    device_.host_wait(behind_copy());
    const double bytes_us = static_cast<double>(kSmallBytes) / rates_.h2d_gbps.median / 1e3;
    std::vector<double> us(static_cast<size_t>(settings_.repeats));
    for (double& each : us) {
      const double both = us_of(behind_copy);
      each = std::max(both - us_of(alone) - bytes_us, 0.0);
    }
    return spread_of(std::move(us));
  }

  // Microseconds of a group in a chain of n, without the wait at its end.
  std::vector<double> group_times(GpuExperts* experts, int n) {
    std::vector<double> us = times([&] { return experts->launch(n); });
    for (double& each : us) each = std::max(each - wait_us_, each / 2) / n;
    return us;
  }
  double launches_us() const { return GpuExperts::kLaunches * rates_.launch_us.median; }

  // An idle GPU's clocks are low.
  void warm_up(GpuExperts* experts) {
    if (rates_.modelled) return;
    measuring_("GPU: warming it up");
    const double start = now_us(device_);
    while (rates_.kernels_warm_up_seconds < settings_.warm_up_seconds) {
      device_.host_wait(experts->launch(1));
      rates_.kernels_warm_up_seconds = (now_us(device_) - start) / 1e6;
    }
  }

  Device& device_;
  const GpuSettings& settings_;
  const OnMeasuring& measuring_;
  GpuRates& rates_;
  double wait_us_ = 0;  // of the host, for the end of a chain
};

}  // namespace

GpuSettings simulated_gpu_settings() {
  GpuSettings settings;
  settings.repeats = 1;
  settings.copy_bytes = int64_t{16} << 20;
  settings.region_bytes = int64_t{8} << 20;
  settings.many_experts = 1;
  settings.many_tokens = 128;
  settings.many_groups = 1;
  return settings;
}

GpuRates measure_gpu(Device& device, GpuSettings settings, const OnMeasuring& measuring) {
  // One of them is there at a time, beside some activations.
  const int64_t most = (device.info().vram_bytes - device.used_bytes()) / 4;
  settings.copy_bytes = std::min(settings.copy_bytes, most);
  settings.region_bytes = std::min(settings.region_bytes, most);
  GpuRates rates;
  rates.gpu = device.info().description;
  rates.modelled = device.info().simulated;
  rates.settings = settings;
  Measurement measurement(device, measuring, &rates);
  measurement.link();
  measurement.launches();
  if (!rates.modelled) measurement.hand_overs();
  measurement.experts();
  measurement.product();
  device
      .host_wait_all();  // what has failed since the last wait, if only giving memory back, counts
  return rates;
}

}  // namespace tandem
