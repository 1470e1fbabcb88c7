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

// Of every matrix that kernels multiply with.
template <typename F>
void each_matrix(const Model& model, const F& f) {
  const ModelWeights& w = model.weights();
  f(w.output);
  for (const LayerWeights& layer : w.layers) {
    for (const WeightView& m : {layer.wq, layer.wk, layer.wv, layer.wo}) f(m);
    if (layer.router) f(layer.router);
    const ExpertWeights& expert = layer.experts.front();
    for (const WeightView& m : {expert.gate, expert.up, expert.down}) f(m);
    if (!layer.shared) continue;
    const SharedExpert& shared = *layer.shared;
    for (const WeightView& m : {shared.ffn.gate, shared.ffn.up, shared.ffn.down}) f(m);
    if (shared.gate_in) f(shared.gate_in);
  }
}

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
  const int64_t step_bytes = kStepHeader + n * c.rope.n_rot * kFloat;
  step_ = device.alloc(step_bytes, kTag);
  rope_ = step_ + kStepHeader;
  step_host_ = {device, step_bytes, kTag};
  scratch_ = device.alloc(scratch_bytes_, kTag);
  if (c.shared_ff > 0) shared_scale_ = device.alloc(n * kFloat, kTag);
  q_ready_ = device.alloc(n * c.q_width() * kFloat, kTag);
  if (c.shared_ff > 0) shared_out_ = device.alloc(n * c.d_model * kFloat, kTag);
  room_ =
      make_room(model, n, std::max(c.d_model, c.n_heads * c.v_head_dim), shape.lookahead.count > 0);
  hidden_room_ = make_room(model, uses, std::max(c.expert_ff, c.shared_ff), false);
  hidden_bytes_ = std::max(uses * c.expert_ff, n * c.shared_ff) * kFloat;
  hidden_ = device.alloc(hidden_bytes_, kTag);
  out_bytes_ = uses * c.d_model * kFloat;
  out_ = device.alloc(out_bytes_, kTag);
  const Table most{c.routing.n_experts, uses, n, uses};
  table_at_ = device.alloc(most.bytes(), kTag);
  table_host_ = {device, most.bytes(), kTag};
  first_use_.reserve(n_experts);
  touches_.reserve(3 * n_experts + 4);
}

GpuKernelOps::Room GpuKernelOps::make_room(const Model& model, int64_t n, int64_t cols,
                                           bool guesses) {
  Room room;
  const int64_t whole =
      (cols + x_block(XKind::kQ8K) - 1) / x_block(XKind::kQ8K) * x_block(XKind::kQ8K);
  const auto make = [&](XKind kind) {
    DeviceAddr& at = of(room, kind);
    if (kind != XKind::kFloat && !at) at = device_.alloc(n * x_bytes(kind, whole), kTag);
  };
  each_matrix(model, [&](const WeightView& w) { make(rounded_x_kind(w.type)); });
  if (guesses) make(rounded_x_kind(kGuessType));
  return room;
}

Touch GpuKernelOps::all(DeviceAddr at, int64_t floats_per_token, bool write) const {
  return {at, n_ * floats_per_token * kFloat, write};
}

GpuKernelOps::~GpuKernelOps() { forget_kept(); }

void GpuKernelOps::begin_step(int64_t first_pos, int64_t n) {
  first_pos_ = first_pos;
  n_ = n;
  pending_ = {};  // of a step that was stopped
  const int64_t bytes = kStepHeader + n * config_.rope.n_rot * kFloat;
  device_.host_access("a step's position and rope table", step_host_.data(), bytes, true);
  const auto position = static_cast<int>(first_pos);
  std::memcpy(step_host_.data(), &position, sizeof position);
  rope_table(config_.rope, first_pos, n, reinterpret_cast<float*>(step_host_.data() + kStepHeader));
  device_.copy_to_device(Stream::kCompute, step_, step_host_.data(), bytes);
}

uint32_t GpuKernelOps::pending_kind() const {
  const Pending& p = pending_;
  uint32_t kind = 0;
  for (const bool there :
       {static_cast<bool>(p.first), static_cast<bool>(p.shared), static_cast<bool>(p.shared_gate),
        static_cast<bool>(p.uses), static_cast<bool>(p.last)}) {
    kind = 2 * kind + (there ? 1 : 0);
  }
  return kind;
}

void GpuKernelOps::forget_kept() noexcept {
  for (const std::vector<KeptPart>& part : kept_) {
    for (const KeptPart& known : part) device_.free_graph(known.graph);
  }
  kept_.clear();
}

// Only steps of one token are alike: what changes from one to the next is in device memory.
Timepoint GpuKernelOps::kept(int64_t part, FunctionRef<Timepoint()> enqueue) {
  if (n_ != 1 || !device_.keeps_graphs() || graphs_refused_) return enqueue();
  const int spans = gpu::attention_spans(static_cast<int>(first_pos_), 1);
  if (spans != kept_spans_) forget_kept();
  kept_spans_ = spans;
  const uint32_t pending = pending_kind();
  const auto at = static_cast<size_t>(part);
  if (at >= kept_.size()) kept_.resize(at + 1);
  std::vector<KeptPart>& known = kept_[at];
  auto it = std::find_if(known.begin(), known.end(),
                         [&](const KeptPart& one) { return one.pending == pending; });
  if (it == known.end()) {
    const Pending pending_before = pending_;
    const Room packed_before = packed_from_;
    try {
      known.push_back({pending, captured(enqueue), first_pos_, pending_, packed_from_});
    } catch (const MemoryError&) {  // as if nothing had been captured
      graphs_refused_ = true;
      forget_kept();
      pending_ = pending_before;
      packed_from_ = packed_before;
      return enqueue();
    }
    it = known.end() - 1;
  }
  pending_ = it->pending_after;
  packed_from_ = it->packed_after;
  return device_.run_graph(it->graph, kv_bytes(first_pos_ - it->first_pos));
}

Graph GpuKernelOps::captured(FunctionRef<Timepoint()> enqueue) {
  device_.begin_graph();
  try {
    enqueue();
  } catch (...) {
    device_.cancel_graph();
    throw;
  }
  return device_.end_graph();
}

void GpuKernelOps::changed(DeviceAddr x) {
  for (DeviceAddr& from : packed_from_) {
    if (from.at == x.at) from = {};
  }
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

void GpuKernelOps::attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q,
                          DeviceAddr k, DeviceAddr v, DeviceAddr out) {
  prepare_heads(layer, cache, q, k, v);
  const ModelConfig& c = config_;
  const int64_t out_width = c.n_heads * c.v_head_dim;
  const std::array touches{
      all(q_ready_, c.q_width(), false),  Touch{cache.k, kv_bytes_k_, false},
      Touch{cache.v, kv_bytes_v_, false}, Touch{scratch_, scratch_bytes_, true},
      Touch{step_, kStepHeader, false},   all(out, out_width, true)};
  const int64_t n_positions = first_pos_ + n_;
  const int64_t bytes = kv_bytes(n_positions) + n_ * (c.q_width() + out_width) * kFloat;
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
                           Touch{step_, kStepHeader + n_ * c.rope.n_rot * kFloat, false},
                           Touch{cache.k, kv_bytes_k_, true},
                           Touch{cache.v, kv_bytes_v_, true},
                           all(q_ready_, c.q_width(), true)};
  const int64_t bytes = n_ * (2 * c.q_width() + c.k_width() + c.v_width()) * kFloat + kv_bytes(n_);
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

// Of keys and values of n positions, wherever in their tiles these are.
int64_t GpuKernelOps::kv_bytes(int64_t n) const {
  return n * (kv_shape_.k_tile_bytes() + kv_shape_.v_tile_bytes()) * kv_shape_.n_kv_heads / kKvTile;
}

gpu::KvCache GpuKernelOps::kv_view(const KernelScope& scope, const KvLayer& cache,
                                   bool writes) const {
  const auto bytes = [&](DeviceAddr at, int64_t n) {
    // Kernels that only read get the same type.
    return reinterpret_cast<uint8_t*>(writes ? scope.write(at, n)
                                             : const_cast<std::byte*>(scope.read(at, n)));
  };
  return {kv_shape_.type_k,
          kv_shape_.type_v,
          static_cast<int>(config_.n_kv_heads),
          static_cast<int>(config_.head_dim),
          static_cast<int>(config_.v_head_dim),
          bytes(cache.k, kv_bytes_k_),
          bytes(cache.v, kv_bytes_v_),
          scope.read_as<int>(step_, 1)};
}

}  // namespace tandem
