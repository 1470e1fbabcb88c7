// The residual's part of GpuKernelOps: what is added to it, its norms, and the products that follow
// at once.
#include <algorithm>
#include <array>

#include "kernels/check.h"
#include "runtime/engine/gpu_kernel_ops.h"

namespace tandem {
namespace {

constexpr std::array kCopies{XKind::kBf16, XKind::kQ8, XKind::kQ8K};

int64_t row_stride(XKind kind, int64_t cols) {
  return kind == XKind::kFloat ? cols * kFloat : x_bytes(kind, cols);
}

}  // namespace

void GpuKernelOps::add(const char* /*name*/, DeviceAddr x, DeviceAddr y) {
  // Behind what the experts give, if they have given it.
  const bool nothing = !pending_.first && !pending_.shared && !pending_.uses;
  DeviceAddr& to = nothing ? pending_.first : pending_.last;
  TANDEM_CHECK(!to, "%s: nothing more can be added", "residual");
  to = x;
  pending_.y = y;
}

// What was added to the residual since it was last normalised is added first, in the same kernel.
void GpuKernelOps::normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) {
  if (pending_.y && pending_.y.at != from.at) residual_norm({}, pending_.y, n_, {}, false);
  residual_norm(gain, from, n, to, true);
}

GpuKernelOps::Norm GpuKernelOps::make_norm(const DeviceVector& gain, DeviceAddr y, int64_t n,
                                           DeviceAddr to, bool packs) {
  Norm norm{gain, y, n, to, pending_, table_, {}};
  for (const XKind kind : kCopies) {
    const DeviceAddr at = of(room_, kind);
    if (!packs || !at || config_.d_model % x_block(kind) != 0) continue;
    of(norm.copies, kind) = at;
    of(packed_from_, kind) = to;
  }
  if (!packs) changed(to);
  return norm;
}

int64_t GpuKernelOps::declare_norm(const Norm& norm, bool sums) {
  const int64_t d = config_.d_model;
  const int64_t all = norm.n * d;
  int64_t bytes = 0;
  const auto touch = [&](DeviceAddr at, int64_t n, bool write) {
    if (!at) return;
    touches_.push_back({at, n, write});
    bytes += n;
  };
  const auto floats = [&](DeviceAddr at, int64_t n) { touch(at, n * kFloat, false); };
  touch(norm.y, all * kFloat, sums);
  if (sums) bytes += all * kFloat;  // read and written
  floats(norm.gain.at, norm.gain.n);
  floats(norm.add.first, all);
  floats(norm.add.shared, all);
  floats(norm.add.shared_gate, norm.n);
  floats(norm.add.last, all);
  touch(norm.to, norm.to ? all * kFloat : 0, true);
  for (const XKind kind : kCopies) {
    const DeviceAddr at = norm.copies[static_cast<size_t>(kind)];
    touch(at, Rows{at, norm.n, d, kind}.bytes(), true);
  }
  if (norm.add.uses) {
    // All of these, and of them as many bytes as there are uses.
    touches_.push_back({out_, out_bytes_, false});
    touches_.push_back({table_at_, norm.uses.experts_at(), false});
    bytes += norm.uses.n_uses * (d + 2) * kFloat;
  }
  return bytes;
}

gpu::ResidualNorm GpuKernelOps::norm_call(const KernelScope& scope, const Norm& norm,
                                          bool sums) const {
  const int64_t d = config_.d_model;
  const int64_t all = norm.n * d;
  const auto read = [&](DeviceAddr at, int64_t n) {
    return at ? scope.read_as<float>(at, n) : nullptr;
  };
  const auto copy = [&](XKind kind) -> uint8_t* {
    const DeviceAddr at = norm.copies[static_cast<size_t>(kind)];
    return at ? scope.write_as<uint8_t>(at, Rows{at, norm.n, d, kind}.bytes()) : nullptr;
  };
  const auto stride = [&](XKind kind) {
    return d % x_block(kind) == 0 ? static_cast<int>(x_bytes(kind, d)) : 0;
  };
  const Pending& add = norm.add;
  return {sums ? scope.write_as<float>(norm.y, all)
               : const_cast<float*>(scope.read_as<float>(norm.y, all)),  // read only, then
          {{read(add.first, all), nullptr},
           {read(add.shared, all), read(add.shared_gate, norm.n)},
           {read(add.last, all), nullptr}},
          add.uses ? scope.read_as<float>(out_, out_bytes_ / kFloat) : nullptr,
          add.uses ? token_uses(scope, norm.uses) : gpu::TokenUses{},
          read(norm.gain.at, norm.gain.n),
          config_.rms_eps,
          norm.to ? scope.write_as<float>(norm.to, all) : nullptr,
          {copy(XKind::kBf16), copy(XKind::kQ8), copy(XKind::kQ8K), stride(XKind::kBf16),
           stride(XKind::kQ8), stride(XKind::kQ8K)}};
}

void GpuKernelOps::residual_norm(const DeviceVector& gain, DeviceAddr y, int64_t n, DeviceAddr to,
                                 bool packs) {
  const Norm norm = make_norm(gain, y, n, to, packs);
  const bool sums = static_cast<bool>(pending_.y);
  pending_ = {};
  touches_.clear();
  const int64_t bytes = declare_norm(norm, sums);
  device_.launch(Stream::kCompute, {"residual_norm", touches_, bytes, 4 * n * config_.d_model,
                                    [this, norm, sums](const KernelScope& scope) {
                                      kernels_.residual_norm(scope.stream(),
                                                             norm_call(scope, norm, sums),
                                                             static_cast<int>(norm.n),
                                                             static_cast<int>(config_.d_model));
                                    }});
}

void GpuKernelOps::norm_products(const char* name, const DeviceVector& gain, DeviceAddr y,
                                 int64_t n, DeviceAddr to, const DeviceProduct& product) {
  const Norm norm = make_norm(gain, y, n, to, true);
  touches_.clear();
  const int64_t y_bytes = n * product.w.rows * kFloat;
  const int64_t bytes = declare_norm(norm, false) + product.w.bytes() + y_bytes;
  touches_.push_back(read_of(product.w));
  touches_.push_back({product.y, y_bytes, true});
  changed(product.y);
  device_.launch(
      Stream::kCompute,
      {name, touches_, bytes, product_flops(product.w, n),
       [this, norm, product](const KernelScope& scope) {
         const int64_t d = config_.d_model;
         const DType type = product.w.type;
         const gpu::ProductPart part{packed_weights(scope.read(product.w).data, product.w), nullptr,
                                     scope.write_as<float>(product.y, norm.n * product.w.rows)};
         kernels_.norm_product(scope.stream(), type, norm_call(scope, norm, false), {part, {}, {}},
                               static_cast<int>(norm.n), static_cast<int>(d),
                               static_cast<int>(row_stride(rounded_x_kind(type), d)));
       }});
}

bool GpuKernelOps::can_norm_with(const DeviceProduct& product, DeviceAddr y, int64_t n) const {
  const XKind kind = rounded_x_kind(product.w.type);
  // Experts' uses are too much to be added up by every block.
  return !pending_.uses && (!pending_.y || pending_.y.at == y.at) && !product.bias &&
         gpu::can_norm_here(kind, n, config_.d_model, row_stride(kind, config_.d_model));
}

void GpuKernelOps::normalize_products(const DeviceVector& gain, DeviceAddr from, int64_t n,
                                      DeviceAddr to, const char* name,
                                      std::span<const DeviceProduct> some) {
  if (some.size() == 1 && can_norm_with(some.front(), from, n)) {
    norm_products(name, gain, from, n, to, some.front());
  } else {
    normalize(gain, from, n, to);
    products(name, some, to, n);
  }
}

// A few tokens' logits are ranked by the host in less time than a launch takes.
bool GpuKernelOps::ranks(int64_t n) const {
  return n > gpu::kFewTokens && config_.routing.bias.empty() &&
         config_.routing.n_experts <= gpu::kMostExperts;
}

void GpuKernelOps::top_experts(DeviceAddr logits, int64_t n, int64_t count, DeviceAddr ids,
                               DeviceAddr scores) {
  const int64_t n_experts = config_.routing.n_experts;
  const int64_t in_bytes = n * n_experts * kFloat;
  const int64_t out_bytes = n * count * kFloat;
  touches_.clear();
  touches_.push_back({logits, in_bytes, false});
  touches_.push_back({ids, out_bytes, true});
  if (scores) touches_.push_back({scores, out_bytes, true});
  device_.launch(
      Stream::kCompute,
      {"top_experts", touches_, in_bytes + (scores ? 2 : 1) * out_bytes, n * n_experts * count,
       [this, logits, n, count, ids, scores, n_experts](const KernelScope& scope) {
         kernels_.top_experts(
             scope.stream(),
             {scope.read_as<float>(logits, n * n_experts), static_cast<int>(n_experts),
              config_.routing.score == ScoreFunction::kSigmoid, static_cast<int>(count),
              scope.write_as<int>(ids, n * count),
              scores ? scope.write_as<float>(scores, n * count) : nullptr},
             static_cast<int>(n));
       }});
}

}  // namespace tandem
