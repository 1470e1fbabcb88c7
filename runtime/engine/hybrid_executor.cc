#include "runtime/engine/hybrid_executor.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"
#include "runtime/engine/host_vector.h"
#include "runtime/error.h"

namespace tandem {

std::vector<ExpertCost> expert_costs(const Model& model) {
  std::vector<ExpertCost> costs;
  for (const LayerWeights& layer : model.weights().layers) {
    const ExpertWeights& expert = layer.experts.front();
    costs.push_back({expert.bytes(), 2 * 3 * expert.gate.rows * expert.gate.cols, 3});
  }
  return costs;
}

HybridExecutor::HybridExecutor(const Model& model, Device& device, ThreadPool& pool,
                               const CostModel& costs, const EngineShape& shape,
                               std::optional<int32_t> wanted_slots)
    : model_(model),
      device_(device),
      pool_(pool),
      costs_(costs),
      expert_costs_(expert_costs(model)),
      dense_(model, device, pool, shape),
      gpu_hidden_bytes_(shape.n_batch * model.config().routing.top_k * model.config().expert_ff *
                        kFloat),
      gpu_hidden_(device.info().host_memory ? DeviceAddr{}
                                            : device.alloc(gpu_hidden_bytes_, "activations")),
      slots_(model, device, wanted_slots),
      router_(model.config().routing, static_cast<int32_t>(shape.n_batch)) {
  const ModelConfig& c = model.config();
  const int64_t pairs = shape.n_batch * c.routing.top_k;
  resize_host(&cpu_hidden_, pairs * c.expert_ff, "activations");
  resize_host(&cpu_out_, shape.n_batch * c.d_model, "activations");
  resize_host(&rows_, pairs, "activations");
  const auto n_experts = static_cast<size_t>(c.routing.n_experts);
  assigned_.reserve(n_experts);
  calls_.reserve(n_experts);
  touches_.reserve(3 * n_experts + 3);
}

Clocks HybridExecutor::clocks() const {
  // Nothing that is enqueued now can start before now, however long a stream has been idle.
  const double now = device_.host_now_us();
  return {now, std::max(now, device_.stream_now_us(Stream::kCompute)),
          std::max(now, device_.stream_now_us(Stream::kCopy))};
}

void HybridExecutor::begin_step(const Batch& batch) {
  n_logits_ = batch.n_logits;
  dense_.embed(batch);
}

const RoutingDecision& HybridExecutor::route(LayerId layer) {
  if (layer_hook_ && !layer_hook_(layer.value)) throw StepStopped{};
  dense_.attention(layer.value);
  const Timepoint gate = dense_.gate(layer.value);
  dense_.shared_expert(layer.value);
  device_.host_wait(gate);
  const auto n = static_cast<int32_t>(dense_.n_tokens());
  if (!router_.route(layer, dense_.gate_logits(), n, &routing_)) {
    name_damage(layer.value);
  }
  for (size_t i = 0; i < routing_.tokens.size(); ++i) {
    rows_[i] = {routing_.tokens[i].token, routing_.tokens[i].weight};
  }
  return routing_;
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
  for (size_t i = 0; i < plan.incoming.size(); ++i) {
    slots_.fetch({plan.layer, plan.incoming[i]}, plan.slots[i]);
  }
  gather_calls(plan);
  run_gpu(plan);
  run_cpu(plan);
  // Not before: the CPU computes an expert that is admitted, too.
  for (const ExpertId expert : plan.incoming) slots_.drop_host_pages({plan.layer, expert});
}

void HybridExecutor::gather_calls(const LayerPlan& plan) {
  assigned_.clear();
  size_t fetched = 0;
  for (const PlannedExpert& expert : plan.experts) {
    SlotId slot;
    if (expert.placement == Placement::kGpu) slot = expert.slot;
    if (expert.placement == Placement::kFetch) slot = plan.slots[fetched++];
    assigned_.push_back({expert, slot});
  }
  // By id, not by load: a token's contributions are then added in the same order in every batch.
  std::sort(assigned_.begin(), assigned_.end(),
            [](const Assigned& a, const Assigned& b) { return a.expert.expert < b.expert.expert; });
}

void HybridExecutor::run_gpu(const LayerPlan& plan) {
  const int64_t n = dense_.n_tokens();
  const int64_t d = model_.config().d_model;
  touches_.assign({Touch{dense_.normed(), n * d * kFloat, false},
                   Touch{dense_.residual(), n * d * kFloat, true},
                   Touch{gpu_hidden_, gpu_hidden_bytes_, true}});
  int64_t bytes = 0;
  int64_t tokens = 0;
  for (const Assigned& a : assigned_) {
    if (!a.slot.valid()) continue;
    device_.wait(Stream::kCompute, slots_.ready(a.slot));
    const ExpertWeights at = slots_.weights({plan.layer, a.expert.expert}, a.slot);
    for (const WeightView& w : {at.gate, at.up, at.down}) touches_.push_back(read_of(w));
    bytes += at.bytes();
    tokens += a.expert.count;
    ++stats_.experts_gpu;
  }
  if (bytes == 0) return;
  const ExpertCost& cost = expert_costs_[static_cast<size_t>(plan.layer.value)];
  const Timepoint done = device_.launch(
      Stream::kCompute,
      {"experts", touches_, bytes, cost.flops_per_token * tokens, [&](const KernelScope& scope) {
         calls_.clear();
         for (const Assigned& a : assigned_) {
           if (!a.slot.valid()) continue;
           const ExpertWeights at = slots_.weights({plan.layer, a.expert.expert}, a.slot);
           calls_.push_back({{scope.read(at.gate), scope.read(at.up), scope.read(at.down)},
                             std::span(rows_).subspan(static_cast<size_t>(a.expert.first),
                                                      static_cast<size_t>(a.expert.count))});
         }
         expert_ffn(calls_, scope.read_as<float>(dense_.normed(), n * d), d,
                    scope.write_as<float>(dense_.residual(), n * d),
                    scope.write_as<float>(gpu_hidden_, gpu_hidden_bytes_ / kFloat), pool_);
       }});
  for (const Assigned& a : assigned_) {
    if (a.slot.valid()) slots_.used(a.slot, done);
  }
}

void HybridExecutor::run_cpu(const LayerPlan& plan) {
  const int64_t d = model_.config().d_model;
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(plan.layer.value)];
  const ExpertCost& cost = expert_costs_[static_cast<size_t>(plan.layer.value)];
  calls_.clear();
  double modelled_us = costs_.profile().cpu.first_expert_us;
  for (const Assigned& a : assigned_) {
    if (a.slot.valid()) continue;
    calls_.push_back({layer.experts[static_cast<size_t>(a.expert.expert.value)],
                      std::span(rows_).subspan(static_cast<size_t>(a.expert.first),
                                               static_cast<size_t>(a.expert.count))});
    modelled_us += costs_.cpu_expert_us(cost, a.expert.count);
    ++stats_.experts_cpu;
  }
  if (calls_.empty()) return;
  std::fill(cpu_out_.begin(), cpu_out_.begin() + dense_.n_tokens() * d, 0.0F);
  expert_ffn(calls_, dense_.expert_input(), d, cpu_out_.data(), cpu_hidden_.data(), pool_);
  device_.host_busy(modelled_us);
  dense_.add_from_host(cpu_out_.data());
}

void HybridExecutor::prefetch(std::span<const PrefetchRequest> requests) {
  for (const PrefetchRequest& request : requests) {
    slots_.fetch(request.key, request.slot);
    slots_.drop_host_pages(request.key);
  }
}

std::span<const float> HybridExecutor::end_step() { return dense_.head(n_logits_); }

}  // namespace tandem
