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

// Kernels count rows, columns and bytes of a batch's rows in int, and hold a row in shared memory.
void check_sizes(const ModelConfig& c, int64_t n) {
  if (c.d_model > gpu::kWidestResidual || c.head_dim > gpu::kWidestHead) {
    throw ConfigError(
        fmt::format("GPU kernels take a width of at most {} and heads of at most {}; this model "
                    "has {} and {}",
                    gpu::kWidestResidual, gpu::kWidestHead, c.d_model, c.head_dim));
  }
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
  check_sizes(c, n);
  const int64_t uses = n * c.routing.top_k;
  const auto n_experts = static_cast<size_t>(c.routing.n_experts);
  rope_ = device.alloc(n * c.rope.n_rot * kFloat, kTag);
  rope_host_ = {device, n * c.rope.n_rot, kTag};
  scratch_ = device.alloc(scratch_bytes_, kTag);
  if (shape.lookahead.count > 0) reuse_normed_ = device.alloc(n * c.d_model * kFloat, kTag);
  if (c.shared_ff > 0) shared_scale_ = device.alloc(n * kFloat, kTag);
  q_ready_ = device.alloc(n * c.q_width() * kFloat, kTag);
  if (c.shared_ff > 0) shared_out_ = device.alloc(n * c.d_model * kFloat, kTag);
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
  pending_ = {};  // of a step that was stopped
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

// What was added to the residual since it was last normalised is added first, in the same kernel.
void GpuKernelOps::normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) {
  if (pending_.y && pending_.y.at != from.at) residual_norm({}, pending_.y, n_, {}, false);
  residual_norm(gain, from, n, to, true);
}

void GpuKernelOps::residual_norm(const DeviceVector& gain, DeviceAddr y, int64_t n, DeviceAddr to,
                                 bool packs) {
  const int64_t d = config_.d_model;
  const Pending add = pending_;
  pending_ = {};
  const Table t = table_;
  const bool adds = static_cast<bool>(add.y);
  const auto floats = [&](DeviceAddr at, int64_t count) {
    return Touch{at, at ? count * kFloat : 0, false};
  };
  touches_.assign({Touch{y, n * d * kFloat, adds}, read_of(gain), floats(add.shared, n * d),
                   floats(add.shared_gate, n), floats(add.addend, n * d),
                   Touch{out_, add.uses ? out_bytes_ : 0, false},
                   Touch{table_at_, add.uses ? t.bytes() : 0, false},
                   Touch{to, to ? n * d * kFloat : 0, true}});
  Room rooms{};
  for (const XKind kind : {XKind::kBf16, XKind::kQ8, XKind::kQ8K}) {
    const DeviceAddr at = of(room_, kind);
    if (!packs || !at || d % x_block(kind) != 0) continue;
    of(rooms, kind) = at;
    of(packed_from_, kind) = to;
    touches_.push_back({at, Rows{at, n, d, kind}.bytes(), true});
  }
  if (!packs) changed(to);
  const int64_t rows =
      n * (2 + (add.shared ? 1 : 0) + (add.addend ? 1 : 0)) + (add.uses ? t.n_uses : 0);
  device_.launch(
      Stream::kCompute,
      {"residual_norm", touches_, rows * d * kFloat, 4 * n * d,
       [this, gain, y, n, to, d, add, t, rooms](const KernelScope& scope) {
         const auto read = [&](DeviceAddr at, int64_t count) {
           return at ? scope.read_as<float>(at, count) : nullptr;
         };
         const auto copy = [&](XKind kind) -> uint8_t* {
           const DeviceAddr at = rooms[static_cast<size_t>(kind)];
           return at ? scope.write_as<uint8_t>(at, Rows{at, n, d, kind}.bytes()) : nullptr;
         };
         const auto stride = [&](XKind kind) {
           return d % x_block(kind) == 0 ? static_cast<int>(x_bytes(kind, d)) : 0;
         };
         const bool sums = add.y || !gain;
         gpu::ResidualNorm call{
             sums ? scope.write_as<float>(y, n * d)
                  : const_cast<float*>(scope.read_as<float>(y, n * d)),  // read only, then
             {{read(add.shared, n * d), read(add.shared_gate, n)},
              {read(add.addend, n * d), nullptr}},
             add.uses ? scope.read_as<float>(out_, out_bytes_ / kFloat) : nullptr,
             add.uses ? token_uses(scope, t) : gpu::TokenUses{},
             values(scope, gain),
             config_.rms_eps,
             to ? scope.write_as<float>(to, n * d) : nullptr,
             {copy(XKind::kBf16), copy(XKind::kQ8), copy(XKind::kQ8K), stride(XKind::kBf16),
              stride(XKind::kQ8), stride(XKind::kQ8K)}};
         kernels_.residual_norm(scope.stream(), call, static_cast<int>(n), static_cast<int>(d));
       }});
}

void GpuKernelOps::products(const char* name, std::span<const DeviceProduct> products, DeviceAddr x,
                            int64_t n) {
  constexpr size_t kMost = 3;
  TANDEM_CHECK(products.size() <= kMost, "%zu products", products.size());
  std::array<bool, kMost> done{};
  for (size_t i = 0; i < products.size(); ++i) {
    if (done[i]) continue;
    // All of one type are a launch.
    Parts parts{};
    for (size_t j = i; j < products.size(); ++j) {
      if (products[j].w.type != products[i].w.type) continue;
      parts.of[parts.n++] = products[j];
      done[j] = true;
    }
    launch_products(name, parts, x, n);
  }
}

void GpuKernelOps::launch_products(const char* name, const Parts& parts, DeviceAddr x, int64_t n) {
  const DType type = parts.of[0].w.type;
  const int64_t cols = parts.of[0].w.cols;
  const XKind kind = rounded_x_kind(type);
  const Rows as_they_are{x, n, cols, XKind::kFloat};
  Rows rows = as_they_are;
  bool packs_here = false;
  if (kind != XKind::kFloat) {
    const Rows there{of(room_, kind), n, cols, kind};
    packs_here = of(packed_from_, kind).at != x.at &&
                 gpu::can_pack_here(there.stride(), static_cast<int>(std::min<int64_t>(n, 1024)));
    if (!packs_here) rows = packed(kind, x, n, cols);
  }
  std::array<Touch, 10> touches{Touch{rows.at, rows.bytes(), false}};
  int64_t bytes = rows.bytes();
  int64_t flops = 0;
  for (size_t i = 0; i < parts.n; ++i) {
    const DeviceProduct& p = parts.of[i];
    touches[3 * i + 1] = read_of(p.w);
    touches[3 * i + 2] = read_of(p.bias);
    touches[3 * i + 3] = {p.y, n * p.w.rows * kFloat, true};
    bytes += p.w.bytes() + n * p.w.rows * kFloat;
    flops += product_flops(p.w, n);
    changed(p.y);
  }
  device_.launch(
      Stream::kCompute,
      {name, std::span(touches).first(3 * parts.n + 1), bytes, flops,
       [&kernels = kernels_, parts, rows, type, kind, packs_here](const KernelScope& scope) {
         const auto part = [&](size_t i) {
           if (i >= parts.n) return gpu::ProductPart{};
           const DeviceProduct& p = parts.of[i];
           return gpu::ProductPart{packed_weights(scope.read(p.w).data, p.w), values(scope, p.bias),
                                   scope.write_as<float>(p.y, rows.n * p.w.rows)};
         };
         const gpu::ProductParts all{part(0), part(1), part(2)};
         const auto n = static_cast<int>(rows.n);
         if (packs_here) {
           kernels.product_few(
               scope.stream(), type, all, scope.read_as<float>(rows.at, rows.n * rows.cols), n,
               static_cast<int>(rows.cols), static_cast<int>(x_bytes(kind, rows.cols)));
         } else {
           kernels.product(scope.stream(), type, all, rows.view(scope), n);
         }
       }});
}

GpuKernelOps::Rows GpuKernelOps::packed(XKind kind, DeviceAddr x, int64_t n, int64_t cols) {
  DeviceAddr& from = of(packed_from_, kind);
  const Rows rows{of(room_, kind), n, cols, kind};
  if (from.at != x.at) pack(x, rows);
  from = x;
  return rows;
}

void GpuKernelOps::pack(DeviceAddr from, const Rows& to) {
  const std::array touches{Touch{from, to.n * to.cols * kFloat, false},
                           Touch{to.at, to.bytes(), true}};
  device_.launch(Stream::kCompute,
                 {"pack_x", touches, to.n * to.cols * kFloat + to.bytes(), 0,
                  [&kernels = kernels_, from, to](const KernelScope& scope) {
                    kernels.pack_x(
                        scope.stream(), to.kind, scope.read_as<float>(from, to.n * to.cols),
                        static_cast<int>(to.n), static_cast<int>(to.cols),
                        scope.write_as<uint8_t>(to.at, to.bytes()), static_cast<int>(to.stride()));
                  }});
}

void GpuKernelOps::add(const char* /*name*/, DeviceAddr x, DeviceAddr y) {
  pending_.y = y;
  pending_.addend = x;
}

void GpuKernelOps::attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q,
                          DeviceAddr k, DeviceAddr v, DeviceAddr out) {
  prepare_heads(layer, cache, q, k, v);
  const ModelConfig& c = config_;
  const int64_t out_width = c.n_heads * c.v_head_dim;
  const std::array touches{all(q_ready_, c.q_width(), false), Touch{cache.k, kv_bytes_k_, false},
                           Touch{cache.v, kv_bytes_v_, false},
                           Touch{scratch_, scratch_bytes_, true}, all(out, out_width, true)};
  const int64_t n_positions = first_pos_ + n_;
  const int64_t bytes = kv_shape_.k_bytes(n_positions) + kv_shape_.v_bytes(n_positions) +
                        n_ * (c.q_width() + out_width) * kFloat;
  const int64_t flops = 2 * n_ * n_positions * c.n_heads * (c.head_dim + c.v_head_dim);
  device_.launch(
      Stream::kCompute,
      {"attention", touches, bytes, flops,
       [this, cache, out, out_width, n = n_, first_pos = first_pos_](const KernelScope& scope) {
         const ModelConfig& c = config_;
         kernels_.attention(scope.stream(), kv_view(scope, cache, false),
                            scope.read_as<float>(q_ready_, n * c.q_width()),
                            static_cast<int>(first_pos), static_cast<int>(n),
                            static_cast<int>(c.n_heads),
                            1.0F / std::sqrt(static_cast<float>(c.head_dim)),
                            scope.write_as<float>(scratch_, scratch_bytes_ / kFloat),
                            scope.write_as<float>(out, n * out_width));
       }});
  changed(out);
}

void GpuKernelOps::prepare_heads(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q,
                                 DeviceAddr k, DeviceAddr v) {
  const ModelConfig& c = config_;
  const std::array touches{all(q, c.q_width(), false),
                           all(k, c.k_width(), false),
                           all(v, c.v_width(), false),
                           read_of(layer.q_norm),
                           read_of(layer.k_norm),
                           all(rope_, c.rope.n_rot, false),
                           Touch{cache.k, kv_bytes_k_, true},
                           Touch{cache.v, kv_bytes_v_, true},
                           all(q_ready_, c.q_width(), true)};
  const int64_t bytes = n_ * (2 * c.q_width() + c.k_width() + c.v_width()) * kFloat +
                        kv_shape_.k_bytes(n_) + kv_shape_.v_bytes(n_);
  device_.launch(Stream::kCompute,
                 {"prepare_heads", touches, bytes, 0,
                  [this, cache, q, k, v, q_norm = layer.q_norm, k_norm = layer.k_norm, n = n_,
                   first_pos = first_pos_](const KernelScope& scope) {
                    const ModelConfig& c = config_;
                    const gpu::PreparedHeads call{scope.read_as<float>(q, n * c.q_width()),
                                                  scope.read_as<float>(k, n * c.k_width()),
                                                  scope.read_as<float>(v, n * c.v_width()),
                                                  values(scope, q_norm),
                                                  values(scope, k_norm),
                                                  static_cast<int>(q_norm.n),
                                                  static_cast<int>(k_norm.n),
                                                  c.rms_eps,
                                                  c.clamp_qkv,
                                                  scope.read_as<float>(rope_, n * c.rope.n_rot),
                                                  static_cast<int>(c.rope.n_rot),
                                                  c.rope.style == RopeStyle::kHalves,
                                                  static_cast<int>(c.n_heads),
                                                  static_cast<int>(first_pos),
                                                  scope.write_as<float>(q_ready_, n * c.q_width())};
                    kernels_.prepare_heads(scope.stream(), call, kv_view(scope, cache, true),
                                           static_cast<int>(n));
                  }});
}

gpu::KvCache GpuKernelOps::kv_view(const KernelScope& scope, const KvLayer& cache,
                                   bool writes) const {
  const auto bytes = [&](DeviceAddr at, int64_t n) {
    // Kernels that only read get the same type.
    return reinterpret_cast<uint8_t*>(writes ? scope.write(at, n)
                                             : const_cast<std::byte*>(scope.read(at, n)));
  };
  return {kv_shape_.type_k == KvType::kF16,     kv_shape_.type_v == KvType::kF16,
          static_cast<int>(config_.n_kv_heads), static_cast<int>(config_.head_dim),
          static_cast<int>(config_.v_head_dim), bytes(cache.k, kv_bytes_k_),
          bytes(cache.v, kv_bytes_v_)};
}

void GpuKernelOps::gate_reuse(std::span<const DeviceLayer> layers, DeviceAddr residual,
                              DeviceAddr logits) {
  for (const DeviceLayer& to : layers) {
    // What the layer's own experts want packed stays where it is, unless a router needs the room.
    residual_norm(to.ffn_norm, residual, n_, reuse_normed_, false);
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
  return {reinterpret_cast<const int*>(at(t.begin_at(), t.n_tokens + 1)),
          reinterpret_cast<const int*>(at(t.order_at(), t.n_uses)),
          reinterpret_cast<const float*>(at(t.weights_at(), t.n_uses))};
}

}  // namespace tandem
