#include "runtime/engine/gpu_kernel_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr const char* kTag = "activations";

const uint8_t* bytes_of(const KernelScope& scope, DeviceAddr at, int64_t bytes) {
  return reinterpret_cast<const uint8_t*>(scope.read(at, bytes));
}

const float* values(const KernelScope& scope, const DeviceVector& v) {
  return v ? scope.read_as<float>(v.at, v.n) : nullptr;
}

gpu::PackedWeights packed_weights(const std::byte* data, const WeightView& w) {
  return {reinterpret_cast<const uint8_t*>(data), w.run_stride(), static_cast<int>(w.rows),
          static_cast<int>(w.cols)};
}

// Of every matrix that kernels multiply with.
template <typename F>
void each_matrix(const Model& model, const F& f) {
  const ModelWeights& w = model.weights();
  f(w.output);
  for (const LayerWeights& layer : w.layers) {
    for (const WeightView& m : {layer.wq, layer.wk, layer.wv, layer.wo, layer.router}) f(m);
    const ExpertWeights& expert = layer.experts.front();
    for (const WeightView& m : {expert.gate, expert.up, expert.down}) f(m);
    if (!layer.shared) continue;
    const SharedExpert& shared = *layer.shared;
    for (const WeightView& m : {shared.ffn.gate, shared.ffn.up, shared.ffn.down}) f(m);
    if (shared.gate_in) f(shared.gate_in);
  }
}

int64_t product_flops(const WeightView& w, int64_t n) { return 2 * w.rows * w.cols * n; }

// Kernels count rows, columns and bytes of a batch's rows in int.
void check_batch(const ModelConfig& c, int64_t n) {
  const int64_t uses = n * c.routing.top_k;
  const int64_t bytes = std::max(n * std::max({c.d_model, c.q_width(), c.shared_ff}),
                                 uses * std::max(c.expert_ff, c.d_model)) *
                        kFloat;
  if (bytes <= INT32_MAX) return;
  throw ConfigError(fmt::format("-b is {}; GPU kernels take at most {} tokens of this model", n,
                                n * INT32_MAX / bytes));
}

int64_t scratch_bytes(const ModelConfig& c, const EngineShape& shape) {
  int64_t floats = 0;
  for (int64_t n = 1; n <= std::min<int64_t>(shape.n_batch, 128); ++n) {
    floats = std::max(floats, gpu::attention_scratch_floats(
                                  static_cast<int>(shape.n_ctx - n), static_cast<int>(n),
                                  static_cast<int>(c.n_heads), static_cast<int>(c.v_head_dim)));
  }
  return floats * kFloat;
}

}  // namespace

gpu::PackedX GpuKernelOps::Rows::view(const KernelScope& scope) const {
  return {bytes_of(scope, at, bytes()), static_cast<int>(stride()), static_cast<int>(cols)};
}

GpuKernelOps::GpuKernelOps(const Model& model, Device& device, const EngineShape& shape)
    : config_(model.config()),
      device_(device),
      kernels_(*device.kernels()),
      kv_shape_(kv_shape(model.config(), shape)),
      kv_bytes_k_(kv_shape_.k_bytes(shape.n_ctx)),
      kv_bytes_v_(kv_shape_.v_bytes(shape.n_ctx)),
      scratch_bytes_(scratch_bytes(model.config(), shape)) {
  const ModelConfig& c = config_;
  const int64_t n = shape.n_batch;
  check_batch(c, n);
  const int64_t uses = n * c.routing.top_k;
  const auto n_experts = static_cast<size_t>(c.routing.n_experts);
  rope_ = device.alloc(n * c.rope.n_rot * kFloat, kTag);
  rope_host_ = {device, n * c.rope.n_rot, kTag};
  scratch_ = device.alloc(scratch_bytes_, kTag);
  if (shape.lookahead.count > 0) reuse_normed_ = device.alloc(n * c.d_model * kFloat, kTag);
  if (c.shared_ff > 0) shared_scale_ = device.alloc(n * kFloat, kTag);
  room_ = make_room(model, n, std::max(c.d_model, c.n_heads * c.v_head_dim));
  hidden_room_ = make_room(model, uses, std::max(c.expert_ff, c.shared_ff));
  hidden_bytes_ = std::max(uses * c.expert_ff, n * c.shared_ff) * kFloat;
  hidden_ = device.alloc(hidden_bytes_, kTag);
  out_bytes_ = uses * c.d_model * kFloat;
  out_ = device.alloc(out_bytes_, kTag);
  const Table most{c.routing.n_experts, uses, n};
  table_at_ = device.alloc(most.bytes(), kTag);
  table_host_ = {device, most.bytes(), kTag};
  first_use_.reserve(n_experts);
  touches_.reserve(3 * n_experts + 4);
}

GpuKernelOps::Room GpuKernelOps::make_room(const Model& model, int64_t n, int64_t cols) {
  Room room;
  const int64_t whole =
      (cols + x_block(XKind::kQ8K) - 1) / x_block(XKind::kQ8K) * x_block(XKind::kQ8K);
  each_matrix(model, [&](const WeightView& w) {
    const XKind kind = rounded_x_kind(w.type);
    DeviceAddr& at = of(room, kind);
    if (kind != XKind::kFloat && !at) at = device_.alloc(n * x_bytes(kind, whole), kTag);
  });
  return room;
}

Touch GpuKernelOps::all(DeviceAddr at, int64_t floats_per_token, bool write) const {
  return {at, n_ * floats_per_token * kFloat, write};
}

void GpuKernelOps::begin_step(int64_t first_pos, int64_t n) {
  first_pos_ = first_pos;
  n_ = n;
  const int64_t bytes = n * config_.rope.n_rot * kFloat;
  device_.host_access("rope table", rope_host_.data(), bytes, true);
  rope_table(config_.rope, first_pos, n, rope_host_.data());
  device_.copy_to_device(Stream::kCompute, rope_, rope_host_.data(), bytes);
}

void GpuKernelOps::changed(DeviceAddr x) {
  for (DeviceAddr& from : packed_from_) {
    if (from.at == x.at) from = {};
  }
}

GpuKernelOps::Rows GpuKernelOps::pack(DType type, DeviceAddr from, int64_t n, int64_t cols,
                                      DeviceAddr to) {
  const XKind kind = rounded_x_kind(type);
  if (kind == XKind::kFloat) return {from, n, cols, kind};
  const Rows rows{to, n, cols, kind};
  const std::array touches{Touch{from, n * cols * kFloat, false}, Touch{to, rows.bytes(), true}};
  device_.launch(Stream::kCompute, {"pack_x", touches, n * cols * kFloat + rows.bytes(), 0,
                                    [&kernels = kernels_, from, rows](const KernelScope& scope) {
                                      kernels.pack_x(scope.stream(), rows.kind,
                                                     scope.read_as<float>(from, rows.n * rows.cols),
                                                     static_cast<int>(rows.n),
                                                     static_cast<int>(rows.cols),
                                                     scope.write_as<uint8_t>(rows.at, rows.bytes()),
                                                     static_cast<int>(rows.stride()));
                                    }});
  return rows;
}

GpuKernelOps::Rows GpuKernelOps::packed(DType type, DeviceAddr x, int64_t n, int64_t cols) {
  const XKind kind = rounded_x_kind(type);
  if (kind == XKind::kFloat) return {x, n, cols, kind};
  DeviceAddr& from = of(packed_from_, kind);
  const DeviceAddr to = of(room_, kind);
  if (from.at == x.at) return {to, n, cols, kind};
  from = x;
  return pack(type, x, n, cols, to);
}

void GpuKernelOps::normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) {
  const int64_t d = gain.n;
  const std::array touches{Touch{from, n * d * kFloat, false}, Touch{to, n * d * kFloat, true},
                           read_of(gain)};
  device_.launch(
      Stream::kCompute,
      {"rms_norm", touches, 2 * n * d * kFloat, 4 * n * d,
       [&kernels = kernels_, gain, from, to, n, eps = config_.rms_eps](const KernelScope& scope) {
         kernels.rms_norm(scope.stream(), scope.read_as<float>(from, n * gain.n),
                          values(scope, gain), eps, static_cast<int>(n), static_cast<int>(gain.n),
                          scope.write_as<float>(to, n * gain.n));
       }});
  changed(to);
}

void GpuKernelOps::products(const char* name, std::span<const DeviceProduct> products, DeviceAddr x,
                            int64_t n) {
  for (const DeviceProduct& p : products) product(name, p, packed(p.w.type, x, n, p.w.cols));
}

void GpuKernelOps::product(const char* name, const DeviceProduct& p, const Rows& x) {
  const std::array touches{Touch{x.at, x.bytes(), false}, read_of(p.w), read_of(p.bias),
                           Touch{p.y, x.n * p.w.rows * kFloat, true}};
  const int64_t bytes = p.w.bytes() + x.bytes() + x.n * p.w.rows * kFloat;
  device_.launch(Stream::kCompute, {name, touches, bytes, product_flops(p.w, x.n),
                                    [&kernels = kernels_, p, x](const KernelScope& scope) {
                                      kernels.product(
                                          scope.stream(), p.w.type,
                                          packed_weights(scope.read(p.w).data, p.w), x.view(scope),
                                          {nullptr, static_cast<int>(x.n)}, values(scope, p.bias),
                                          scope.write_as<float>(p.y, x.n * p.w.rows));
                                    }});
  changed(p.y);
}

void GpuKernelOps::add(const char* name, DeviceAddr x, DeviceAddr y) {
  const int64_t d = config_.d_model;
  const std::array touches{all(y, d, true), all(x, d, false)};
  device_.launch(Stream::kCompute,
                 {name, touches, 3 * n_ * d * kFloat, n_ * d,
                  [&kernels = kernels_, x, y, n = n_, d](const KernelScope& scope) {
                    kernels.add(scope.stream(), scope.read_as<float>(x, n * d), nullptr,
                                static_cast<int>(n), static_cast<int>(d),
                                scope.write_as<float>(y, n * d));
                  }});
}

void GpuKernelOps::norm_rope(const DeviceLayer& layer, DeviceAddr q, DeviceAddr k) {
  const ModelConfig& c = config_;
  const std::array touches{all(q, c.q_width(), true), all(k, c.k_width(), true),
                           all(rope_, c.rope.n_rot, false), read_of(layer.q_norm),
                           read_of(layer.k_norm)};
  const auto turn = [&kernels = kernels_, &c, n = n_, rope = rope_](
                        const KernelScope& scope, DeviceAddr at, const DeviceVector& gain,
                        int64_t n_heads) {
    const int64_t width = n_heads * c.head_dim;
    float* x = scope.write_as<float>(at, n * width);
    // gain.n is a head for per-head norms and the whole row otherwise.
    if (gain) {
      kernels.rms_norm(scope.stream(), x, values(scope, gain), c.rms_eps,
                       static_cast<int>(n * width / gain.n), static_cast<int>(gain.n), x);
    }
    // OLMoE limits what its norm gives, before RoPE.
    if (c.clamp_qkv > 0) kernels.clamp(scope.stream(), c.clamp_qkv, n * width, x);
    kernels.rope(scope.stream(), scope.read_as<float>(rope, n * c.rope.n_rot),
                 c.rope.style == RopeStyle::kHalves, static_cast<int>(c.rope.n_rot),
                 static_cast<int>(n), static_cast<int>(n_heads), static_cast<int>(c.head_dim), x);
  };
  device_.launch(Stream::kCompute,
                 {"qk_norm_rope", touches, 2 * n_ * (c.q_width() + c.k_width()) * kFloat, 0,
                  [turn, q, k, q_norm = layer.q_norm, k_norm = layer.k_norm, n_heads = c.n_heads,
                   n_kv_heads = c.n_kv_heads](const KernelScope& scope) {
                    turn(scope, q, q_norm, n_heads);
                    turn(scope, k, k_norm, n_kv_heads);
                  }});
}

void GpuKernelOps::attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q,
                          DeviceAddr k, DeviceAddr v, DeviceAddr out) {
  norm_rope(layer, q, k);
  const ModelConfig& c = config_;
  const int64_t out_width = c.n_heads * c.v_head_dim;
  const std::array touches{all(q, c.q_width(), false),        all(k, c.k_width(), false),
                           all(v, c.v_width(), true),         Touch{cache.k, kv_bytes_k_, true},
                           Touch{cache.v, kv_bytes_v_, true}, Touch{scratch_, scratch_bytes_, true},
                           all(out, out_width, true)};
  const int64_t n_positions = first_pos_ + n_;
  const int64_t kv_read = kv_shape_.k_bytes(n_positions) + kv_shape_.v_bytes(n_positions);
  const int64_t flops = 2 * n_ * n_positions * c.n_heads * (c.head_dim + c.v_head_dim);
  device_.launch(Stream::kCompute,
                 {"attention", touches, kv_read, flops,
                  [this, cache, q, k, v, out, out_width, n = n_,
                   first_pos = static_cast<int>(first_pos_)](const KernelScope& scope) {
                    const ModelConfig& c = config_;
                    const auto tokens = static_cast<int>(n);
                    const gpu::KvCache kv{kv_shape_.type_k == KvType::kF16,
                                          kv_shape_.type_v == KvType::kF16,
                                          static_cast<int>(c.n_kv_heads),
                                          static_cast<int>(c.head_dim),
                                          static_cast<int>(c.v_head_dim),
                                          scope.write_as<uint8_t>(cache.k, kv_bytes_k_),
                                          scope.write_as<uint8_t>(cache.v, kv_bytes_v_)};
                    float* values = scope.write_as<float>(v, n * c.v_width());
                    if (c.clamp_qkv > 0)
                      kernels_.clamp(scope.stream(), c.clamp_qkv, n * c.v_width(), values);
                    kernels_.kv_append(scope.stream(), kv, scope.read_as<float>(k, n * c.k_width()),
                                       values, first_pos, tokens);
                    kernels_.attention(scope.stream(), kv, scope.read_as<float>(q, n * c.q_width()),
                                       first_pos, tokens, static_cast<int>(c.n_heads),
                                       1.0F / std::sqrt(static_cast<float>(c.head_dim)),
                                       scope.write_as<float>(scratch_, scratch_bytes_ / kFloat),
                                       scope.write_as<float>(out, n * out_width));
                  }});
  changed(out);
}

void GpuKernelOps::gate_reuse(std::span<const DeviceLayer> layers, DeviceAddr residual,
                              DeviceAddr logits) {
  for (const DeviceLayer& to : layers) {
    normalize(to.ffn_norm, residual, n_, reuse_normed_);
    const DeviceProduct gate{to.router, {}, logits};
    products("gate_reuse", {&gate, 1}, reuse_normed_, n_);
    logits = logits + n_ * config_.routing.n_experts * kFloat;
  }
}

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
  const int64_t d = config_.d_model;
  const std::array touches{all(out_, d, false), Touch{scale, scale ? n_ * kFloat : 0, false},
                           all(y, d, true)};
  device_.launch(Stream::kCompute, {"shared_combine", touches, 3 * n_ * d * kFloat, n_ * d,
                                    [this, scale, y, n = n_, d](const KernelScope& scope) {
                                      kernels_.add(scope.stream(),
                                                   scope.read_as<float>(out_, n * d),
                                                   scale ? scope.read_as<float>(scale, n) : nullptr,
                                                   static_cast<int>(n), static_cast<int>(d),
                                                   scope.write_as<float>(y, n * d));
                                    }});
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
  table_ = {static_cast<int64_t>(experts.size()), uses, n_};
  std::byte* host = table_host_.data();
  device_.host_access("experts' table", host, table_.bytes(), true);
  auto* tokens = reinterpret_cast<int*>(host + table_.tokens_at());
  auto* weights = reinterpret_cast<float*>(host + table_.weights_at());
  auto* begin = reinterpret_cast<int*>(host + table_.begin_at());
  auto* order = reinterpret_cast<int*>(host + table_.order_at());
  std::fill(begin, begin + n_ + 1, 0);
  for (size_t e = 0; e < experts.size(); ++e) {
    const gpu::ExpertUses entry = uses_of(experts[e], first_use_[e]);
    std::memcpy(host + e * sizeof entry, &entry, sizeof entry);
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
  for (const DeviceExpert& expert : group.experts) {
    const WeightView& w = expert.weights.*matrix;
    touches_.push_back(read_of(w));
    *bytes += w.bytes();
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
        scope.read(table_at_ + group.first * kEntry, n * kEntry));
  }
  return calls;
}

void GpuKernelOps::hidden(const ExpertGroup& group, gpu::HiddenPart part, DeviceAddr x) {
  const ExpertWeights& types = group.experts.front().weights;
  const DType type = part == gpu::HiddenPart::kUp ? types.up.type : types.gate.type;
  const Rows in = packed(type, x, n_, config_.d_model);
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
  Rows in{of(hidden_room_, kind), group.first_use + group.n_uses, group.ff, kind};
  if (kind == XKind::kFloat) in.at = hidden_;
  pack(type, hidden_ + group.first_use * group.ff * kFloat, group.n_uses, group.ff,
       in.at + group.first_use * in.stride());
  touches_.assign({Touch{table_at_, group.from_table ? table_.bytes() : 0, false},
                   Touch{in.at, in.bytes(), false}, Touch{out_, out_bytes_, true}});
  int64_t bytes = group.n_uses * (in.stride() + d * kFloat);
  int64_t flops = 0;
  declare_experts(group, &ExpertWeights::down, &bytes, &flops);
  return device_.launch(Stream::kCompute, {"expert_output", touches_, bytes, flops,
                                           [this, group, type, in, d](const KernelScope& scope) {
                                             kernels_.expert_output(
                                                 scope.stream(), type, calls(scope, group),
                                                 in.view(scope), static_cast<int>(d),
                                                 scope.write_as<float>(out_, out_bytes_ / kFloat));
                                           },
                                           true});
}

void GpuKernelOps::end_experts(DeviceAddr y) {
  const int64_t d = config_.d_model;
  const std::array touches{Touch{out_, out_bytes_, false}, Touch{table_at_, table_.bytes(), false},
                           all(y, d, true)};
  device_.launch(
      Stream::kCompute,
      {"combine", touches, (table_.n_uses + 2 * n_) * d * kFloat, table_.n_uses * d,
       [this, y, d, n = n_, t = table_](const KernelScope& scope) {
         const auto at = [&](int64_t offset, int64_t count) {
           return scope.read(table_at_ + offset, count * 4);
         };
         const gpu::TokenUses uses{reinterpret_cast<const int*>(at(t.begin_at(), n + 1)),
                                   reinterpret_cast<const int*>(at(t.order_at(), t.n_uses)),
                                   reinterpret_cast<const float*>(at(t.weights_at(), t.n_uses))};
         kernels_.combine(scope.stream(), scope.read_as<float>(out_, out_bytes_ / kFloat), uses,
                          static_cast<int>(n), static_cast<int>(d),
                          scope.write_as<float>(y, n * d));
       }});
}

}  // namespace tandem
