#include "runtime/engine/hybrid_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>

#include "kernels/check.h"
#include "runtime/engine/gpu_kernel_ops.h"
#include "runtime/engine/host_kernel_ops.h"
#include "runtime/engine/host_vector.h"
#include "runtime/error.h"

namespace tandem {
namespace {

// After everything else has been allocated: what the device has left, at most what is wished.
// Experts without a slot pass through buffers, if slots enough are left beside those: as many as
// were wished for, else a token's in a layer.
SlotRoom room_for_experts(const Model& model, const Device& device, const CacheWish& wish) {
  const ModelConfig& c = model.config();
  SlotRoom room;
  CacheShape& shape = room.cache;
  shape.n_layers = static_cast<int32_t>(c.n_layers);
  shape.n_experts = c.routing.n_experts;
  shape.pieces = ExpertCuts(model).pieces();
  shape.expert_bytes = ExpertSlots::expert_bytes(model, device);
  shape.pool = wish.pool;
  if (device.info().host_memory) return room;
  const int64_t left = std::max<int64_t>(device.info().vram_bytes - device.used_bytes(), 0);
  const int64_t all = wished_bytes(shape.expert_bytes, shape.n_layers * shape.n_experts);
  const int64_t wished = wish.slots ? wished_bytes(shape.expert_bytes, *wish.slots) : all;
  const int64_t largest = *std::max_element(shape.expert_bytes.begin(), shape.expert_bytes.end());
  const int64_t behind_buffers = left - kExpertBuffers * largest;
  const int64_t least = wish.slots ? wished : c.routing.top_k * largest;
  const bool streams = wished > 0 && std::min(left, wished) < all && behind_buffers >= least;
  if (streams) room.n_buffers = kExpertBuffers;
  room.without_buffers = std::min(left, wished);
  shape.capacity_bytes = std::min(streams ? behind_buffers : left, wished);
  return room;
}

std::unique_ptr<DeviceOps> make_ops(const Model& model, Device& device, ThreadPool& pool,
                                    const EngineShape& shape) {
  if (device.kernels() != nullptr) return std::make_unique<GpuKernelOps>(model, device, shape);
  return std::make_unique<HostKernelOps>(model.config(), device, pool, shape);
}

constexpr size_t kMostSlices = 256;  // of a prefetcher between two layers

}  // namespace

int64_t wished_bytes(std::span<const int64_t> expert_bytes, int32_t slots) {
  const int64_t sum = std::accumulate(expert_bytes.begin(), expert_bytes.end(), int64_t{0});
  const auto n_layers = static_cast<int64_t>(expert_bytes.size());
  return (sum * slots + n_layers - 1) / n_layers;
}

std::vector<ExpertCost> expert_costs(const Model& model) {
  const int32_t pieces = ExpertCuts(model).pieces();
  std::vector<ExpertCost> costs;
  for (const LayerWeights& layer : model.weights().layers) {
    const ExpertWeights& expert = layer.experts.front();
    costs.push_back({expert.bytes(), 2 * 3 * expert.gate.rows * expert.gate.cols, pieces});
  }
  return costs;
}

HybridExecutor::HybridExecutor(const Model& model, Device& device, ThreadPool& pool,
                               const CostModel& costs, const EngineShape& shape,
                               const CacheWish& wish)
    : model_(model),
      device_(device),
      pool_(pool),
      costs_(costs),
      expert_costs_(expert_costs(model)),
      cuts_(model),
      ops_(make_ops(model, device, pool, device_part(shape))),
      dense_(model, device, *ops_, device_part(shape)),
      slots_(model, device, room_for_experts(model, device, wish)),
      router_(model.config().routing, static_cast<int32_t>(shape.n_batch),
              policy_ranks(model.config().routing)),
      guesses_(model.config(), shape, device) {
  const ModelConfig& c = model.config();
  const int64_t pairs = shape.n_batch * c.routing.top_k;
  resize_host(&cpu_hidden_, pairs * c.expert_ff, device, "activations");
  decoupled_ = make_decoupled_routes(c, shape, device);
  cpu_out_ = {device, shape.n_batch * c.d_model, "activations"};
  resize_host(&rows_, pairs, device, "activations");
  const auto n_experts = static_cast<size_t>(c.routing.n_experts);
  experts_.reserve(n_experts);
  by_id_.reserve(n_experts);
  on_gpu_.reserve(n_experts);
  device_experts_.reserve(n_experts);
  add_order_.reserve(n_experts);
  cpu_calls_.reserve(n_experts);
  copied_.reserve(n_experts + kMostSlices);
  if (!device.info().host_memory && !device.info().counts_only) cpu_.emplace();
}

HybridExecutor::~HybridExecutor() {
  // Copies may still use memory that goes with this; a device that has failed makes none.
  try {
    device_.host_wait_all();
  } catch (const DeviceError&) {
  }
}

Clocks HybridExecutor::clocks() const {
  // Nothing that is enqueued now can start before now, however long a stream has been idle.
  const double now = device_.host_now_us();
  const auto busy_until = [&](Stream stream) {
    return std::max(now, device_.stream_now_us(stream));
  };
  return {busy_until(Stream::kHost), busy_until(Stream::kCompute), busy_until(Stream::kCopy)};
}

void HybridExecutor::begin_step(const Batch& batch) {
  finish_cpu();  // of a step that was stopped
  batch_ = batch;
  dense_.embed(batch);
  guesses_.begin_step(batch);
}

const RoutingDecision& HybridExecutor::route(LayerId layer) {
  add_cpu();
  if (layer_hook_ && !layer_hook_(layer.value)) throw StepStopped{};
  dense_.attention_and_gate(layer.value);
  dense_.shared_expert(layer.value);
  finish_cpu();  // sleeps, while waiting for a device may keep a core busy
  dense_.wait_for_gate();
  if (!choose_experts(layer)) name_damage(layer.value);
  for (size_t i = 0; i < routing_.tokens.size(); ++i) {
    rows_[i] = {routing_.tokens[i].token, routing_.tokens[i].weight};
  }
  guesses_.look_ahead(dense_, layer.value, &router_, &routing_);
  if (routing_hook_) routing_hook_(routing_);
  if (tap_hook_ && !dense_.ranked() && !decoupled_) {
    tap_hook_({layer, batch_.first_pos, batch_.tokens, dense_.expert_input(), dense_.gate_logits(),
               dense_.before_attention()});
  }
  return routing_;
}

bool HybridExecutor::choose_experts(LayerId layer) {
  const auto n = static_cast<int32_t>(dense_.n_tokens());
  if (decoupled_) {
    decoupled_->visit(batch_, layer);
    return router_.route(layer, decoupled_->logits(batch_), n, &routing_);
  }
  if (!dense_.ranked()) return router_.route(layer, dense_.gate_logits(), n, &routing_);
  return router_.arrange(layer, dense_.ranked_ids(), dense_.ranked_scores(), n, &routing_);
}

void HybridExecutor::name_damage(int64_t layer) const {
  // Each throws with the tensor's name. A damaged expert shows at the next layer's router only.
  if (layer > 0) model_.check_finite(layer - 1);
  model_.check_finite(layer);
  model_.check_finite();
  throw FileError(model_.file().name(),
                  fmt::format("the router of layer {} gives values that are not finite, though "
                              "all weights are finite",
                              layer));
}

void HybridExecutor::run(const LayerPlan& plan) {
  take_experts(plan);
  order_gpu(plan);
  if (!on_gpu_.empty()) {
    // Before the copies: the experts' table goes over the same link.
    if (n_there_ > 0) launch_until(plan, n_there_);
    fetch(plan);
    launch_until(plan, on_gpu_.size());
    ops_->end_experts(dense_.residual());
  }
  for (const PlannedExpert& expert : plan.experts) {
    const bool touched = expert.gpu > expert.present || expert.gpu < plan.pieces;
    const bool whole = std::max(expert.gpu, expert.present) == plan.pieces;
    if (expert.slot.valid() && touched && whole) copied_.push_back({plan.layer(), expert.expert});
    ++(expert.gpu == 0             ? stats_.experts_cpu
       : expert.gpu == plan.pieces ? stats_.experts_gpu
                                   : stats_.experts_split);
  }
  start_cpu(plan);  // last: host kernels of launches compute in the same pool
}

// The plan's experts, those that have no slot and are fetched with a buffer for one.
void HybridExecutor::take_experts(const LayerPlan& plan) {
  experts_ = plan.experts;
  int32_t streamed = 0;
  for (const int32_t i : plan.fetches) {
    PlannedExpert& expert = experts_[static_cast<size_t>(i)];
    slots_.expect({plan.layer(), expert.expert});
    if (!expert.slot.valid()) expert.slot = slots_.buffer(streamed++ % kExpertBuffers);
  }
  // By id, not by load: a token's contributions are then added in the same order in every batch.
  by_id_.clear();
  for (const PlannedExpert& expert : experts_) by_id_.push_back(&expert);
  std::ranges::sort(by_id_, {}, &PlannedExpert::expert);
}

// Enqueues all copies, and before a buffer is filled again the launch that reads it.
void HybridExecutor::fetch(const LayerPlan& plan) {
  std::array<size_t, kExpertBuffers> holders{};  // in on_gpu_, of buffers
  holders.fill(on_gpu_.size());
  size_t at = n_there_ + lands_us_.size();
  for (const int32_t i : plan.fetches) {
    const PlannedExpert& expert = experts_[static_cast<size_t>(i)];
    if (const int32_t buffer = slots_.buffer_of(expert.slot); buffer >= 0) {
      size_t& holder = holders[static_cast<size_t>(buffer)];
      if (holder < at) launch_until(plan, holder + 1);
      holder = at;
    }
    slots_.fetch({plan.layer(), expert.expert}, expert.slot, cut(plan, expert.present),
                 cut(plan, expert.gpu));
    lands_us_.push_back(device_.stream_now_us(Stream::kCopy));
    ++at;
  }
}

// Experts that are there are one launch. Those that have yet to land follow in the order of
// landing, as many in one launch as do not make the last ones later (late_end()).
void HybridExecutor::launch_until(const LayerPlan& plan, size_t end) {
  if (n_launched_ == 0) {
    begin_gpu(plan);
    if (n_there_ > 0) launch_gpu(0, n_there_);
    n_launched_ = n_there_;
  }
  while (n_launched_ < end) {
    const size_t late = late_end(plan, n_launched_);
    launch_gpu(n_launched_, late - n_launched_);
    n_launched_ = late;
  }
}

void HybridExecutor::begin_gpu(const LayerPlan& plan) {
  device_experts_.clear();
  for (const PlannedExpert* expert : on_gpu_) {
    const ExpertWeights whole = slots_.weights({plan.layer(), expert->expert}, expert->slot);
    device_experts_.push_back({expert_part(whole, 0, cut(plan, expert->gpu)), rows_of(*expert)});
  }
  add_order_.resize(on_gpu_.size());
  std::iota(add_order_.begin(), add_order_.end(), 0);
  std::ranges::sort(add_order_, {},
                    [&](int32_t i) { return on_gpu_[static_cast<size_t>(i)]->expert; });
  ops_->begin_experts(device_experts_, add_order_);
}

void HybridExecutor::order_gpu(const LayerPlan& plan) {
  const double now = device_.stream_now_us(Stream::kCompute);
  const auto there = [&](const PlannedExpert& e) { return e.ready <= now; };
  const auto resident = [](const PlannedExpert& e) { return e.gpu > 0 && e.gpu <= e.present; };
  on_gpu_.clear();
  for (const PlannedExpert* expert : by_id_) {
    if (resident(*expert) && there(*expert)) on_gpu_.push_back(expert);
  }
  n_there_ = on_gpu_.size();
  n_launched_ = 0;
  for (const PlannedExpert* expert : by_id_) {
    if (resident(*expert) && !there(*expert)) on_gpu_.push_back(expert);
  }
  std::stable_sort(
      on_gpu_.begin() + static_cast<std::ptrdiff_t>(n_there_), on_gpu_.end(),
      [](const PlannedExpert* a, const PlannedExpert* b) { return a->ready < b->ready; });
  lands_us_.clear();
  for (size_t i = n_there_; i < on_gpu_.size(); ++i) lands_us_.push_back(on_gpu_[i]->ready);
  for (const int32_t i : plan.fetches) on_gpu_.push_back(&experts_[static_cast<size_t>(i)]);
}

// Waiting for one more expert costs nothing if all before it are still done when the one behind it
// lands: in decode an expert is computed in a fraction of the time of its copy, so all but the last
// are one launch; with a prompt's tokens each is one of its own.
size_t HybridExecutor::late_end(const LayerPlan& plan, size_t first) const {
  const LayerCosts cost = costs_.layer(expert_costs_[static_cast<size_t>(plan.layer().value)]);
  const auto us = [&](size_t i) {
    const PlannedExpert& e = *on_gpu_[i];
    return cost.gpu(e.count) * e.gpu / plan.pieces;
  };
  const size_t known = n_there_ + lands_us_.size();
  double work_us = us(first);
  size_t end = first + 1;
  while (end + 1 < known) {
    work_us += us(end);
    if (lands_us_[end - n_there_] + work_us > lands_us_[end + 1 - n_there_]) break;
    ++end;
  }
  return end;
}

void HybridExecutor::launch_gpu(size_t first, size_t count) {
  const auto some = std::span(on_gpu_).subspan(first, count);
  Timepoint landed;  // the last: copies are in order
  for (const PlannedExpert* expert : some) {
    const Timepoint ready = slots_.ready(expert->slot);
    if (ready.n > landed.n) landed = ready;
  }
  device_.wait(Stream::kCompute, landed);
  const Timepoint done = ops_->experts(static_cast<int64_t>(first), static_cast<int64_t>(count),
                                       dense_.normed(), dense_.residual());
  for (const PlannedExpert* expert : some) slots_.used(expert->slot, done);
}

std::span<const ExpertRow> HybridExecutor::rows_of(const PlannedExpert& expert) const {
  return std::span(rows_).subspan(static_cast<size_t>(expert.first),
                                  static_cast<size_t>(expert.count));
}

void HybridExecutor::start_cpu(const LayerPlan& plan) {
  const auto layer = static_cast<size_t>(plan.layer().value);
  const LayerCosts cost = costs_.layer(expert_costs_[layer]);
  cpu_calls_.clear();
  double alone_us = 0;
  double shared_us = 0;
  for (const PlannedExpert* expert : by_id_) {
    if (expert->gpu == plan.pieces) continue;
    const auto id = static_cast<size_t>(expert->expert.value);
    const ExpertWeights& whole = model_.weights().layers[layer].experts[id];
    cpu_calls_.push_back(
        {expert_part(whole, cut(plan, expert->gpu), cut(plan, plan.pieces)), rows_of(*expert)});
    const double part = static_cast<double>(plan.pieces - expert->gpu) / plan.pieces;
    alone_us += part * cost.cpu(expert->count);
    shared_us += part * cost.cpu_shared(expert->count);
  }
  cpu_started_ = true;
  cpu_added_ = cpu_calls_.empty();
  if (cpu_calls_.empty()) return;
  const double copying_us = device_.stream_now_us(Stream::kCopy) - device_.host_now_us();
  const int64_t bytes = dense_.n_tokens() * model_.config().d_model * kFloat;
  cpu_done_ =
      device_.begin_host_work("experts on the CPU",
                              std::array{HostTouch{dense_.expert_input(), bytes, false},
                                         HostTouch{cpu_out_.data(), bytes, true}},
                              cost.cpu_first + cpu_stretched(alone_us, shared_us, copying_us));
  if (cpu_) {
    cpu_->start([this] { compute_cpu(); });
  } else {
    compute_cpu();
  }
}

void HybridExecutor::compute_cpu() {
  // Whatever happens: the device may be waiting.
  const std::unique_ptr<HybridExecutor, void (*)(HybridExecutor*)> end(
      this, [](HybridExecutor* e) { e->device_.end_host_work(e->cpu_done_); });
  const int64_t n = dense_.n_tokens();
  const int64_t d = model_.config().d_model;
  std::fill(cpu_out_.data(), cpu_out_.data() + n * d, 0.0F);
  expert_ffn(cpu_calls_, dense_.expert_input(), n, d, cpu_out_.data(), cpu_hidden_.data(),
             pool_.workspace(), pool_);
}

void HybridExecutor::add_cpu() {
  if (!cpu_started_ || cpu_added_) return;
  cpu_added_ = true;
  device_.wait(Stream::kCompute, cpu_done_);
  dense_.add_from_host(cpu_out_.data());
}

void HybridExecutor::finish_cpu() {
  if (!cpu_started_) return;
  cpu_started_ = false;
  if (cpu_) {
    const auto start = std::chrono::steady_clock::now();
    cpu_->wait();
    const std::chrono::duration<double, std::micro> waited =
        std::chrono::steady_clock::now() - start;
    stats_.cpu_wait_us += waited.count();
  }
  drop_copied();
}

// Not while the CPU computes: it may compute an expert that has a slot, too.
void HybridExecutor::drop_copied() {
  for (const ExpertKey key : copied_) slots_.drop_host_pages(key);
  copied_.clear();
}

void HybridExecutor::prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) {
  for (const CopySlice& slice : slices) slots_.expect(slice.key);
  for (size_t i = 0; i < slices.size(); ++i) {
    const CopySlice& slice = slices[i];
    const int32_t end = slice.first_piece + slice.n_pieces;
    slots_.fetch(slice.key, slice.slot, cuts_.at(slice.first_piece, cuts_.pieces()),
                 cuts_.at(end, cuts_.pieces()));
    if (end == cuts_.pieces()) copied_.push_back(slice.key);
    landed[i] = device_.stream_now_us(Stream::kCopy);
  }
  if (!cpu_started_) drop_copied();
}

std::span<const float> HybridExecutor::end_step() {
  add_cpu();
  finish_cpu();
  return dense_.head(batch_.n_logits);
}

}  // namespace tandem
