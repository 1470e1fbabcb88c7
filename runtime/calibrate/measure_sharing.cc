#include "runtime/calibrate/measure_sharing.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "runtime/probe/device_work.h"

namespace tandem {
namespace {

constexpr const char* kTag = "calibrate";

struct Window {
  double cpu_gbps = 0;
  double link_gbps = 0;
};

// Copies are enqueued that the link, alone, would need longer for than the CPU computes. What the
// last of them take once the CPU has ended, they take at the link's own rate.
Window one_window(Device& device, CpuWork& work, PinnedCopy* copy, double h2d_gbps,
                  double seconds) {
  const double copy_seconds = static_cast<double>(copy->bytes()) / h2d_gbps / 1e9;
  const auto n = static_cast<int64_t>(1.2 * seconds / copy_seconds) + 1;
  const double start = now_us(device);
  const auto passed = [&] { return (now_us(device) - start) / 1e6; };
  Timepoint copied{};
  for (int64_t i = 0; i < n; ++i) copied = copy->start_to_device();
  double cpu_bytes = 0;
  do {
    work.experts(1);
    cpu_bytes += static_cast<double>(CpuWork::expert_bytes());
  } while (passed() < seconds);
  const double window = passed();
  device.host_wait(copied);
  const double alone_bytes = (passed() - window) * h2d_gbps * 1e9;
  const double all_bytes = static_cast<double>(n * copy->bytes());
  return {cpu_bytes / window / 1e9, std::max(all_bytes - alone_bytes, 0.0) / window / 1e9};
}

}  // namespace

SharedRates measure_sharing(Device& device, CpuWork& work, double h2d_gbps,
                            SharingSettings settings, const OnMeasuring& measuring) {
  measuring("link: warming it up");
  warm_up_link(device, settings.warm_up_seconds, kTag);
  measuring("memory that CPU and link share");
  const int64_t most = (device.info().vram_bytes - device.used_bytes()) / 4;
  PinnedCopy copy(device, std::min(settings.copy_bytes, most), kTag);
  std::vector<double> both;
  std::vector<double> cpu;
  std::vector<double> link;
  for (int i = 0; i < settings.repeats; ++i) {
    const Window window = one_window(device, work, &copy, h2d_gbps, settings.seconds);
    cpu.push_back(window.cpu_gbps);
    link.push_back(window.link_gbps);
    both.push_back(window.cpu_gbps + window.link_gbps);
  }
  return {spread_of(std::move(both)), spread_of(std::move(cpu)), spread_of(std::move(link))};
}

}  // namespace tandem
