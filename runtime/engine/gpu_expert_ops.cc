// The experts' part of GpuKernelOps.
#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/engine/gpu_kernel_ops.h"

namespace tandem {

void GpuKernelOps::shared_expert(const SharedExpert& shared, DeviceAddr x, DeviceAddr y) {
  const DeviceAddr scale = shared.gate_in ? shared_scale_ : DeviceAddr{};
  if (shared.gate_in) {
    const DeviceProduct gate{shared.gate_in, {}, scale};
    products("shared_gate", {&gate, 1}, x, n_);
  }
  const DeviceExpert expert{shared.ffn, {}};
  gpu::ExpertUses single = uses_of(expert, 0);
  single.n_uses = static_cast<int>(n_);
  ffn({{&expert, 1}, false, single, 0, 0, n_, n_, config_.shared_ff}, x);
  pending_.y = y;
  pending_.shared = shared_out_;
  pending_.shared_gate = scale;
}

gpu::ExpertUses GpuKernelOps::uses_of(const DeviceExpert& expert, int64_t first_use) const {
  // The compiler knows no const device address; it is only shifted here.
  const auto matrix = [&](const WeightView& w) {
    return packed_weights(device_.seen_by_kernels({const_cast<std::byte*>(w.data)}), w);
  };
  const ExpertWeights& w = expert.weights;
  return {matrix(w.gate), matrix(w.up), matrix(w.down), static_cast<int>(first_use),
          static_cast<int>(expert.rows.size())};
}

void GpuKernelOps::begin_experts(std::span<const DeviceExpert> experts,
                                 std::span<const int32_t> by_id) {
  experts_ = experts;
  first_use_.clear();
  int64_t uses = 0;
  for (const DeviceExpert& expert : experts) {
    first_use_.push_back(uses);
    uses += static_cast<int64_t>(expert.rows.size());
  }
  table_ = {static_cast<int64_t>(experts.size()), uses, n_, n_ * config_.routing.top_k};
  std::byte* host = table_host_.data();
  device_.host_access("experts' table", host, table_.bytes(), true);
  auto* tokens = reinterpret_cast<int*>(host + table_.tokens_at());
  auto* weights = reinterpret_cast<float*>(host + table_.weights_at());
  auto* begin = reinterpret_cast<int*>(host);
  auto* order = reinterpret_cast<int*>(host + table_.order_at());
  std::fill(begin, begin + n_ + 1, 0);
  for (size_t e = 0; e < experts.size(); ++e) {
    const gpu::ExpertUses entry = uses_of(experts[e], first_use_[e]);
    std::memcpy(host + table_.experts_at() + e * sizeof entry, &entry, sizeof entry);
    int64_t use = first_use_[e];
    for (const ExpertRow& row : experts[e].rows) {
      tokens[use] = row.row;
      weights[use++] = row.weight;
      ++begin[row.row + 1];
    }
  }
  for (int64_t t = 0; t < n_; ++t) begin[t + 1] += begin[t];
  // begin[t] runs ahead while uses are placed, to where those of t end, and is then moved back.
  for (const int32_t e : by_id) {
    int64_t use = first_use_[static_cast<size_t>(e)];
    for (const ExpertRow& row : experts[static_cast<size_t>(e)].rows) {
      order[begin[row.row]++] = static_cast<int>(use++);
    }
  }
  for (int64_t t = n_; t > 0; --t) begin[t] = begin[t - 1];
  begin[0] = 0;
  device_.copy_to_device(Stream::kCompute, table_at_, host, table_.bytes());
}

Timepoint GpuKernelOps::experts(int64_t first, int64_t count, DeviceAddr x, DeviceAddr /*y*/) {
  const auto some = experts_.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  int64_t n_uses = 0;
  int64_t most = 0;
  for (const DeviceExpert& expert : some) {
    const auto uses = static_cast<int64_t>(expert.rows.size());
    n_uses += uses;
    most = std::max(most, uses);
  }
  return ffn({some,
              true,
              {},
              first,
              first_use_[static_cast<size_t>(first)],
              n_uses,
              most,
              config_.expert_ff},
             x);
}

Timepoint GpuKernelOps::ffn(const ExpertGroup& group, DeviceAddr x) {
  const ExpertWeights& types = group.experts.front().weights;
  if (types.gate.type == types.up.type) {
    hidden(group, gpu::HiddenPart::kBoth, x);
  } else {
    hidden(group, gpu::HiddenPart::kGate, x);
    hidden(group, gpu::HiddenPart::kUp, x);
  }
  return output(group);
}

void GpuKernelOps::declare_experts(const ExpertGroup& group, WeightView ExpertWeights::*matrix,
                                   int64_t* bytes, int64_t* flops) {
  // Most have the same shape, and sizes take divisions.
  const WeightView* like = nullptr;
  int64_t w_bytes = 0;
  int64_t span_bytes = 0;
  for (const DeviceExpert& expert : group.experts) {
    const WeightView& w = expert.weights.*matrix;
    if (like == nullptr || w.rows != like->rows || w.cols != like->cols ||
        w.stride_bytes != like->stride_bytes) {
      like = &w;
      w_bytes = w.bytes();
      span_bytes = w.span_bytes();
    }
    touches_.push_back({{const_cast<std::byte*>(w.data)}, span_bytes, false});
    *bytes += w_bytes;
    const int64_t uses = group.from_table ? static_cast<int64_t>(expert.rows.size()) : group.n_uses;
    *flops += product_flops(w, uses);
  }
}

gpu::ExpertCalls GpuKernelOps::calls(const KernelScope& scope, const ExpertGroup& group) const {
  const auto n = static_cast<int64_t>(group.experts.size());
  constexpr int64_t kEntry = sizeof(gpu::ExpertUses);
  gpu::ExpertCalls calls{nullptr, group.single, static_cast<int>(n),
                         static_cast<int>(group.most_uses)};
  if (group.from_table) {
    calls.experts = reinterpret_cast<const gpu::ExpertUses*>(
        scope.read(table_at_ + table_.experts_at() + group.first * kEntry, n * kEntry));
  }
  return calls;
}

void GpuKernelOps::hidden(const ExpertGroup& group, gpu::HiddenPart part, DeviceAddr x) {
  const ExpertWeights& types = group.experts.front().weights;
  const DType type = part == gpu::HiddenPart::kUp ? types.up.type : types.gate.type;
  const XKind kind = rounded_x_kind(type);
  const Rows in = kind == XKind::kFloat ? Rows{x, n_, config_.d_model, kind}
                                        : packed(kind, x, n_, config_.d_model);
  touches_.assign({Touch{table_at_, group.from_table ? table_.bytes() : 0, false},
                   Touch{in.at, in.bytes(), false}, Touch{hidden_, hidden_bytes_, true}});
  int64_t bytes = in.bytes() + group.n_uses * group.ff * kFloat;
  int64_t flops = 0;
  if (part != gpu::HiddenPart::kUp) declare_experts(group, &ExpertWeights::gate, &bytes, &flops);
  if (part != gpu::HiddenPart::kGate) declare_experts(group, &ExpertWeights::up, &bytes, &flops);
  device_.launch(Stream::kCompute,
                 {"expert_hidden", touches_, bytes, flops,
                  [this, group, type, part, in, t = table_](const KernelScope& scope) {
                    const int* tokens = group.from_table
                                            ? reinterpret_cast<const int*>(scope.read(
                                                  table_at_ + t.tokens_at(), t.n_uses * 4))
                                            : nullptr;
                    kernels_.expert_hidden(scope.stream(), type, part, calls(scope, group),
                                           in.view(scope), tokens, static_cast<int>(group.ff),
                                           scope.write_as<float>(hidden_, hidden_bytes_ / kFloat));
                  }});
}

Timepoint GpuKernelOps::output(const ExpertGroup& group) {
  const DType type = group.experts.front().weights.down.type;
  const XKind kind = rounded_x_kind(type);
  const int64_t d = config_.d_model;
  // Rows of all uses up to this group's: kernels count from the first.
  const int64_t n_rows = group.first_use + group.n_uses;
  Rows in{hidden_, n_rows, group.ff, XKind::kFloat};
  const Rows wanted{of(hidden_room_, kind), n_rows, group.ff, kind};
  const auto most = static_cast<int>(group.most_uses);
  const bool packs_here = kind != XKind::kFloat && gpu::can_pack_here(wanted.stride(), most);
  if (kind != XKind::kFloat && !packs_here) {
    in = wanted;
    pack(hidden_ + group.first_use * group.ff * kFloat,
         {in.at + group.first_use * in.stride(), group.n_uses, group.ff, kind});
  }
  const DeviceAddr out = group.from_table ? out_ : shared_out_;
  const int64_t out_bytes = group.from_table ? out_bytes_ : n_ * d * kFloat;
  touches_.assign({Touch{table_at_, group.from_table ? table_.bytes() : 0, false},
                   Touch{in.at, in.bytes(), false}, Touch{out, out_bytes, true}});
  int64_t bytes = group.n_uses * (in.stride() + d * kFloat);
  int64_t flops = 0;
  declare_experts(group, &ExpertWeights::down, &bytes, &flops);
  return device_.launch(
      Stream::kCompute,
      {"expert_output", touches_, bytes, flops,
       [this, group, type, in, kind, packs_here, d, out, out_bytes](const KernelScope& scope) {
         float* to = scope.write_as<float>(out, out_bytes / kFloat);
         if (packs_here) {
           kernels_.expert_output_few(
               scope.stream(), type, calls(scope, group),
               scope.read_as<float>(in.at, in.n * in.cols), static_cast<int>(in.cols),
               static_cast<int>(x_bytes(kind, in.cols)), static_cast<int>(d), to);
         } else {
           kernels_.expert_output(scope.stream(), type, calls(scope, group), in.view(scope),
                                  static_cast<int>(d), to);
         }
       },
       true});
}

void GpuKernelOps::end_experts(DeviceAddr y) {
  pending_.y = y;
  pending_.uses = true;
}

gpu::TokenUses GpuKernelOps::token_uses(const KernelScope& scope, const Table& t) const {
  const auto at = [&](int64_t offset, int64_t count) {
    return scope.read(table_at_ + offset, count * 4);
  };
  return {reinterpret_cast<const int*>(at(0, t.n_tokens + 1)),
          reinterpret_cast<const int*>(at(t.order_at(), t.most_uses)),
          reinterpret_cast<const float*>(at(t.weights_at(), t.most_uses))};
}

}  // namespace tandem
