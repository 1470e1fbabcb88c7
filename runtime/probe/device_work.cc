#include "runtime/probe/device_work.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "kernels/gpu/gpu_ops.h"
#include "kernels/packed.h"

namespace tandem {
namespace {

constexpr int64_t kRoundTripBytes = 8 << 10;
constexpr int64_t kWarmUpBytes = 16 << 20;
constexpr int64_t kFloat = sizeof(float);

}  // namespace

double now_us(const Device& device) {
  if (device.info().simulated) return device.host_now_us();
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

PinnedCopy::PinnedCopy(Device& device, int64_t bytes, const char* tag)
    : device_(device),
      memory_(device, tag),
      host_(device, bytes, tag),
      at_(memory_.raw<uint8_t>(bytes)) {
  std::fill_n(host_.data(), bytes, uint8_t{1});
}

Timepoint PinnedCopy::start_to_device(Stream stream) {
  return device_.copy_to_device(stream, at_.at, host_.data(), bytes());
}

Timepoint PinnedCopy::start_to_host(Stream stream) {
  return device_.copy_to_host(stream, host_.data(), at_.at, bytes());
}

TinyKernel::TinyKernel(Device& device, const char* tag)
    : device_(device),
      memory_(device, tag),
      x_(memory_.put(std::vector<float>{0})),
      y_(memory_.put(std::vector<float>{0})) {}

Timepoint TinyKernel::launch_on(DeviceAddr x, bool marked) {
  const std::array touches{Touch{x, kFloat, false}, Touch{y_.at, kFloat, true}};
  return device_.launch(Stream::kCompute,
                        {"add", touches, 3 * kFloat, 1,
                         [ops = device_.kernels(), x, y = y_](const KernelScope& scope) {
                           if (ops == nullptr) return;
                           gpu::ResidualNorm add{};
                           add.y = y.in(scope);
                           add.addends[0].x = scope.read_as<float>(x, 1);
                           ops->residual_norm(scope.stream(), add, 1, 1);
                         },
                         marked});
}

RoundTrip::RoundTrip(Device& device, const char* tag)
    : device_(device),
      memory_(device, tag),
      host_(device, kRoundTripBytes, tag),
      x_(memory_.put(std::vector<float>(kRoundTripBytes / kFloat, 0.0F))),
      kernel_(device, tag) {}

Timepoint RoundTrip::layer() {
  device_.host_wait(device_.copy_to_host(Stream::kCompute, host_.data(), x_.at, kRoundTripBytes));
  device_.copy_to_device(Stream::kCompute, x_.at, host_.data(), kRoundTripBytes);
  return kernel_.launch_on(x_.at, true);
}

ProductRead::ProductRead(Device& device, DType type, int64_t weight_bytes, int n_tokens,
                         const char* tag)
    : device_(device), type_(type), n_tokens_(n_tokens), memory_(device, tag) {
  const int64_t group = packed_bytes(type, kCols);
  const int64_t groups = std::max<int64_t>(weight_bytes / group, 1);
  const auto rows = static_cast<int>(groups * kGroupRows);
  w_ = {memory_.raw<uint8_t>(groups * group), group, rows, kCols};
  x_ = memory_.put(pack_activations(
      rounded_x_kind(type),
      std::vector<float>(size_t{kCols} * static_cast<size_t>(n_tokens), 0.25F), kCols));
  y_ = memory_.raw<float>(int64_t{rows} * n_tokens);
}

Timepoint ProductRead::launch() {
  const std::array touches{Touch{w_.bytes.at, w_.bytes.n, true},
                           Touch{x_.bytes.at, x_.bytes.n, true}, Touch{y_.at, y_.n * kFloat, true}};
  const int64_t bytes = w_.bytes.n + x_.bytes.n + y_.n * kFloat;
  const int64_t flops = 2 * int64_t{w_.rows} * w_.cols * n_tokens_;
  return device_.launch(
      Stream::kCompute,
      {"product", touches, bytes, flops,
       [ops = device_.kernels(), type = type_, n = n_tokens_, w = w_, x = x_,
        y = y_](const KernelScope& scope) {
         if (ops == nullptr) return;
         const gpu::ProductParts parts{{w.in(scope), nullptr, y.in(scope)}, {}, {}};
         ops->product(scope.stream(), type, parts, x.in(scope), n);
       },
       true});
}

WarmUp warm_up_link(Device& device, double seconds, const char* tag) {
  WarmUp done;
  if (device.info().simulated) return done;
  PinnedCopy copy(device, kWarmUpBytes, tag);
  const double start = now_us(device);
  while (done.seconds < seconds) {
    device.host_wait(copy.start_to_device());
    done.bytes += copy.bytes();
    done.seconds = (now_us(device) - start) / 1e6;
  }
  return done;
}

}  // namespace tandem
