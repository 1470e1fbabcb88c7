#include "runtime/calibrate/gpu_experts.h"

#include <array>
#include <random>
#include <vector>

#include "kernels/check.h"
#include "kernels/gpu/gpu_ops.h"
#include "kernels/packed.h"

namespace tandem {
namespace {

constexpr DType kType = DType::kQ4_K;
constexpr XKind kX = XKind::kQ8K;
constexpr int64_t kFloat = sizeof(float);

// Of gate or up, of down: all rows are in whole groups.
int64_t matrix_bytes(int64_t rows, int64_t cols) {
  return rows / kGroupRows * packed_bytes(kType, cols);
}

int64_t expert_bytes(const GpuExperts::Shape& s) {
  return 2 * matrix_bytes(s.ff, s.d) + matrix_bytes(s.d, s.ff);
}

DeviceActivations put_constant(DeviceMemory& memory, int64_t n, int64_t cols) {
  return memory.put(
      pack_activations(kX, std::vector<float>(static_cast<size_t>(n * cols), 0.25F), cols));
}

}  // namespace

int64_t GpuExperts::group_weight_bytes(const Shape& shape) {
  return shape.n_experts * expert_bytes(shape);
}

GpuExperts::GpuExperts(Device& device, const Shape& shape, const char* tag)
    : device_(device),
      shape_(shape),
      memory_(device, tag),
      few_(gpu::can_pack_here(x_bytes(kX, shape.ff), shape.n_tokens)) {
  TANDEM_CHECK(shape.d % 256 == 0 && shape.ff % 256 == 0, "experts of %lld x %lld",
               static_cast<long long>(shape.d), static_cast<long long>(shape.ff));
  weights_ = memory_.raw<uint8_t>(shape.n_groups * group_weight_bytes(shape));
  fill_weights();
  make_table();
  std::vector<int> tokens;
  for (int64_t use = 0; use < n_uses(); ++use) {
    tokens.push_back(static_cast<int>(use % shape.n_tokens));
  }
  tokens_ = memory_.put(tokens);
  x_ = put_constant(memory_, shape.n_tokens, shape.d);
  if (!few_) packed_hidden_ = put_constant(memory_, n_uses(), shape.ff);
  hidden_ = memory_.raw<float>(n_uses() * shape.ff);
  out_ = memory_.raw<float>(n_uses() * shape.d);
  // As GpuKernelOps counts.
  const int64_t product = 2 * shape.d * shape.ff * n_uses();
  const int64_t down = shape.n_experts * matrix_bytes(shape.d, shape.ff);
  const int64_t row = few_ ? shape.ff * kFloat : packed_hidden_.stride;
  hidden_cost_ = {group_weight_bytes(shape) - down + x_.bytes.n + n_uses() * shape.ff * kFloat,
                  2 * product};
  output_cost_ = {down + n_uses() * (row + shape.d * kFloat), product};
}

// Not zeros, which would cost a GPU less power and run at a higher clock than weights do. Without
// the highest bits, so that scales are finite.
void GpuExperts::fill_weights() {
  const int64_t bytes = expert_bytes(shape_);
  std::vector<uint8_t> some(static_cast<size_t>(bytes));
  std::minstd_rand random(1);
  for (uint8_t& byte : some) byte = static_cast<uint8_t>(random() >> 8 & 0x37U);
  Timepoint copied{};
  for (int64_t at = 0; at < weights_.n; at += bytes) {
    copied = device_.copy_to_device(Stream::kCompute, weights_.at + at, some.data(), bytes);
  }
  device_.host_wait(copied);
}

// Runs of gate and up in turn, as pack_model() places them.
void GpuExperts::make_table() {
  const auto d = static_cast<int>(shape_.d);
  const auto ff = static_cast<int>(shape_.ff);
  const int64_t run = packed_bytes(kType, d);
  const int64_t bytes = expert_bytes(shape_);
  const auto seen = [&](int64_t at) {
    return reinterpret_cast<const uint8_t*>(device_.seen_by_kernels(weights_.at + at));
  };
  std::vector<gpu::ExpertUses> table;
  for (int i = 0; i < shape_.n_groups * shape_.n_experts; ++i) {
    const int64_t at = i * bytes;
    table.push_back({{seen(at), 2 * run, ff, d},
                     {seen(at + run), 2 * run, ff, d},
                     {seen(at + 2 * matrix_bytes(ff, d)), packed_bytes(kType, ff), d, ff},
                     i % shape_.n_experts * shape_.n_tokens,
                     shape_.n_tokens});
  }
  table_ = memory_.put(table);
}

Timepoint GpuExperts::launch(int n) {
  Timepoint end{};
  for (int i = 0; i < n; ++i) {
    launch_hidden(next_);
    end = launch_output(next_, i + 1 == n);
    next_ = (next_ + 1) % shape_.n_groups;
  }
  return end;
}

gpu::ExpertCalls GpuExperts::calls(const KernelScope& scope, int group) const {
  return {table_.in(scope) + group * shape_.n_experts, {}, shape_.n_experts, shape_.n_tokens};
}

void GpuExperts::launch_hidden(int group) {
  const std::array touches{Touch{weights_.at, weights_.n, false},
                           Touch{table_.at, table_.n * int64_t{sizeof(gpu::ExpertUses)}, true},
                           Touch{tokens_.at, tokens_.n * int64_t{sizeof(int)}, true},
                           Touch{x_.bytes.at, x_.bytes.n, true},
                           Touch{hidden_.at, hidden_.n * kFloat, true}};
  device_.launch(Stream::kCompute, {"expert_hidden", touches, hidden_cost_.bytes,
                                    hidden_cost_.flops, [this, group](const KernelScope& scope) {
                                      const gpu::GpuOps* ops = device_.kernels();
                                      if (ops == nullptr) return;
                                      ops->expert_hidden(
                                          scope.stream(), kType, gpu::HiddenPart::kBoth,
                                          calls(scope, group), x_.in(scope), tokens_.in(scope),
                                          static_cast<int>(shape_.ff), hidden_.in(scope));
                                    }});
}

Timepoint GpuExperts::launch_output(int group, bool last) {
  const std::array touches{Touch{weights_.at, weights_.n, false},
                           Touch{table_.at, table_.n * int64_t{sizeof(gpu::ExpertUses)}, true},
                           Touch{few_ ? hidden_.at : packed_hidden_.bytes.at,
                                 few_ ? hidden_.n * kFloat : packed_hidden_.bytes.n, true},
                           Touch{out_.at, out_.n * kFloat, true}};
  return device_.launch(Stream::kCompute,
                        {"expert_output", touches, output_cost_.bytes, output_cost_.flops,
                         [this, group](const KernelScope& scope) {
                           const gpu::GpuOps* ops = device_.kernels();
                           if (ops == nullptr) return;
                           const auto d = static_cast<int>(shape_.d);
                           const auto ff = static_cast<int>(shape_.ff);
                           if (few_) {
                             ops->expert_output_few(
                                 scope.stream(), kType, calls(scope, group), hidden_.in(scope), ff,
                                 static_cast<int>(x_bytes(kX, ff)), d, out_.in(scope));
                           } else {
                             ops->expert_output(scope.stream(), kType, calls(scope, group),
                                                packed_hidden_.in(scope), d, out_.in(scope));
                           }
                         },
                         last});
}

}  // namespace tandem
