#include "scheduler/sim_executor.h"

#include <algorithm>
#include <utility>

#include "cache/check.h"

namespace tandem {
namespace {

constexpr int32_t kOracleAhead = 3;

// Uniform numbers in [0, 1) that depend on nothing but what they are for (SplitMix64, Steele, Lea
// and Flood, OOPSLA 2014).
class SplitMix {
 public:
  SplitMix(uint64_t seed, int32_t row, int32_t layer, int32_t rank)
      : state_(seed * 0x9E3779B97F4A7C15U + (static_cast<uint64_t>(row) << 24U) +
               (static_cast<uint64_t>(layer) << 8U) + static_cast<uint64_t>(rank)) {
    next();
  }
  double next() {
    state_ += 0x9E3779B97F4A7C15U;
    uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return static_cast<double>((z ^ (z >> 31U)) >> 11U) * 0x1p-53;
  }

 private:
  uint64_t state_;
};

}  // namespace

std::vector<ExpertCost> expert_costs(const ModelShape& shape) {
  std::vector<ExpertCost> costs;
  for (const int64_t bytes : shape.expert_bytes) {
    costs.push_back({bytes, 2 * shape.expert_params, shape.split_pieces});
  }
  return costs;
}

SimExecutor::SimExecutor(const Trace& trace, const ModelShape& shape, const MachineProfile& machine,
                         const LookaheadSettings& lookahead, int32_t max_tokens)
    : trace_(trace),
      shape_(shape),
      model_(machine),
      lookahead_(lookahead),
      top_k_(trace.header.top_k),
      n_ahead_(lookahead.exact    ? shape.n_layers - 1
               : lookahead.oracle ? kOracleAhead
                                  : trace.header.n_ahead),
      slow_ratio_(machine.link.h2d_gbps / model_.link_gbps_beside_cpu()),
      lookahead_scores_(shape.n_layers, shape.n_experts, top_k_, n_ahead_) {
  TANDEM_CHECK(trace.header.n_layers == shape.n_layers && trace.header.n_experts == shape.n_experts,
               "a trace of %d x %d experts for a model of %d x %d", trace.header.n_layers,
               trace.header.n_experts, shape.n_layers, shape.n_experts);
  for (const ExpertCost& expert : expert_costs(shape)) {
    costs_.push_back(model_.layer(expert));
    piece_us_.push_back(costs_.back().copy / shape.split_pieces);
  }
  const auto n = static_cast<size_t>(max_tokens);
  const auto k = static_cast<size_t>(top_k_);
  ids_.reserve(n * k);
  weights_.reserve(n * k);
  ranked_.reserve(n * static_cast<size_t>(trace.header.n_ranks));
  scores_.reserve(n * static_cast<size_t>(trace.header.n_ranks));
  predicted_.reserve(n * k * static_cast<size_t>(n_ahead_));
  tokens_.reserve(n * k);
  loads_.reserve(static_cast<size_t>(shape.n_experts));
  counts_.resize(static_cast<size_t>(shape.n_experts));
  popularity_.assign(static_cast<size_t>(shape.n_layers) * counts_.size(), 1.0);
  if (lookahead.oracle) {
    for (int64_t t = 0; t < trace.n_tokens(); ++t) {
      for (int32_t l = 0; l < shape.n_layers; ++l) {
        const auto used = trace.ids_of(t, l).first(k);
        for (const int16_t id : used) {
          if (id >= 0) {
            popularity_[static_cast<size_t>(l) * counts_.size() + static_cast<size_t>(id)] += 1;
          }
        }
      }
    }
    for (int32_t l = 0; l < shape.n_layers; ++l) {
      for (size_t e = 1; e < counts_.size(); ++e) {
        popularity_[static_cast<size_t>(l) * counts_.size() + e] +=
            popularity_[static_cast<size_t>(l) * counts_.size() + e - 1];
      }
    }
  }
}

SimExecutor::~SimExecutor() = default;

void SimExecutor::set_future(const std::vector<std::vector<int32_t>>& steps) {
  future_ = std::make_unique<KnownFuture>(trace_, steps);
}

const Future& SimExecutor::future() const {
  TANDEM_CHECK(future_ != nullptr, "set_future() comes first");
  return *future_;
}

void SimExecutor::reset_totals() {
  totals_ = {};
  started_us_ = clocks_.cpu;
}

void SimExecutor::begin_step(const Batch& batch) {
  rows_.assign(batch.tokens.begin(), batch.tokens.end());
  first_pos_ = batch.first_pos;
  if (timeline_ != nullptr) ++timeline_->step;
}

double SimExecutor::between_us(double bytes, double params) const {
  const MachineProfile& m = model_.profile();
  const double n = static_cast<double>(rows_.size());
  return std::max(bytes / (m.gpu.read_gbps * 1e3), 2 * params * n / (m.gpu.gflops * 1e3));
}

const RoutingDecision& SimExecutor::route(LayerId layer) {
  end_experts();
  if (future_) future_->move_to(future_->now() + 1);
  const MachineProfile& m = model_.profile();
  const double n = static_cast<double>(rows_.size());
  const double context = static_cast<double>(first_pos_) + n / 2;
  const double kv =
      static_cast<double>(shape_.kv_bytes_per_token) * (static_cast<double>(first_pos_) + n);
  const double scores = 4 * static_cast<double>(shape_.attention_width) * n * context;
  const double attention = between_us(static_cast<double>(shape_.attention.bytes) + kv,
                                      static_cast<double>(shape_.attention.params)) +
                           scores / (m.gpu.gflops * 1e3);
  const double begin = std::max(clocks_.cpu, clocks_.gpu);
  const double routed = begin + m.layer_overhead_us + attention;
  double shared = 0;
  if (shape_.shared_expert.bytes > 0) {
    shared = m.gpu.launch_us + between_us(static_cast<double>(shape_.shared_expert.bytes),
                                          static_cast<double>(shape_.shared_expert.params));
  }
  clocks_ = {routed, routed + shared, std::max(routed, link_free_)};
  totals_.gpu_busy += (attention + shared) * 1e-6;
  if (timeline_ != nullptr) {
    timeline_->add(Resource::kGpu, "attention", {layer, {}}, begin, routed);
    timeline_->add(Resource::kGpu, "shared expert", {layer, {}}, routed, routed + shared);
  }
  gather(layer);
  look_ahead(layer);
  lookahead_scores_.observe(routing_);
  return routing_;
}

// The link's copies follow one another without a gap from the moment that the layer is routed.
void SimExecutor::end_experts() {
  if (!std::exchange(in_experts_, false)) return;
  totals_.link_waits += std::max(0.0, std::max(clocks_.cpu, clocks_.gpu) - link_free_) * 1e-6;
}

void SimExecutor::gather(LayerId layer) {
  const auto ranks = static_cast<size_t>(trace_.header.n_ranks);
  const auto k = static_cast<size_t>(top_k_);
  ids_.clear();
  weights_.clear();
  ranked_.clear();
  scores_.clear();
  loads_.clear();
  std::fill(counts_.begin(), counts_.end(), 0);
  for (const int32_t row : rows_) {
    const auto ids = trace_.ids_of(row, layer.value);
    const auto weights = trace_.weights_of(row, layer.value);
    for (size_t r = 0; r < ranks; ++r) {
      const ExpertId expert{ids[r]};
      ranked_.push_back(expert);
      scores_.push_back(weights[r]);
      if (r >= k) continue;
      ids_.push_back(expert);
      weights_.push_back(weights[r]);
      if (expert.valid()) ++counts_[static_cast<size_t>(expert.value)];
    }
  }
  int32_t first = 0;
  for (size_t e = 0; e < counts_.size(); ++e) {
    if (counts_[e] == 0) continue;
    loads_.push_back({ExpertId{static_cast<int32_t>(e)}, first, counts_[e]});
    first += counts_[e];
  }
  routing_ = {};
  routing_.layer = layer;
  routing_.n_tokens = static_cast<int32_t>(rows_.size());
  routing_.top_k = top_k_;
  routing_.ids = ids_;
  routing_.weights = weights_;
  routing_.loads = loads_;
  routing_.n_ranks = trace_.header.n_ranks;
  routing_.ranked = ranked_;
  routing_.scores = scores_;
}

// One row's guess of a later layer. The same draw decides at every distance, so that who is missed
// near by is missed farther away as well, and the same wrong expert stands in its place: errors of
// a lookahead that reads a slowly changing state are not independent.
void SimExecutor::guess(int32_t row, int32_t target, double recall) {
  const auto truth = trace_.ids_of(row, target);
  const double* popular = &popularity_[static_cast<size_t>(target) * counts_.size()];
  for (int32_t rank = 0; rank < top_k_; ++rank) {
    const int16_t right = truth[static_cast<size_t>(rank)];
    SplitMix draw(lookahead_.seed, row, target, rank);
    if (draw.next() < recall || right < 0) {
      predicted_.push_back(ExpertId{right});
      continue;
    }
    // A wrong guess leans to the popular, and is not one of the right ones.
    ExpertId wrong;
    for (int attempt = 0; attempt < 16 && !wrong.valid(); ++attempt) {
      const double at = draw.next() * popular[counts_.size() - 1];
      const auto e =
          static_cast<int16_t>(std::upper_bound(popular, popular + counts_.size(), at) - popular);
      const auto selected = truth.first(static_cast<size_t>(top_k_));
      const bool used = std::find(selected.begin(), selected.end(), e) != selected.end();
      if (!used && e < shape_.n_experts) wrong = ExpertId{e};
    }
    predicted_.push_back(wrong);
  }
}

void SimExecutor::look_ahead(LayerId layer) {
  predicted_.clear();
  for (int32_t ahead = 1; ahead <= n_ahead_; ++ahead) {
    for (const int32_t row : rows_) {
      if (lookahead_.oracle || lookahead_.exact) {
        ask_oracle(row, layer, ahead);
        continue;
      }
      // Within this token only: what was recorded for layers past the last one is not there.
      for (const int16_t id : trace_.predicted_of(row, layer.value, ahead)) {
        predicted_.push_back(ExpertId{id});
      }
    }
  }
  routing_.n_ahead = n_ahead_;
  routing_.predicted = predicted_;
  routing_.exact_ahead = lookahead_.exact;
}

void SimExecutor::ask_oracle(int32_t row, LayerId layer, int32_t ahead) {
  const int32_t target = layer.value + ahead;
  if (target < shape_.n_layers && lookahead_.exact) {
    for (const int16_t id : trace_.ids_of(row, target).first(static_cast<size_t>(top_k_))) {
      predicted_.push_back(ExpertId{id});
    }
  } else if (target < shape_.n_layers) {
    guess(row, target, lookahead_.recall - lookahead_.drop * (ahead - 1));
  } else {
    predicted_.insert(predicted_.end(), static_cast<size_t>(top_k_), ExpertId{});
  }
}

void SimExecutor::run(const LayerPlan& plan) {
  const LayerCosts& cost = costs_[static_cast<size_t>(plan.layer().value)];
  problem_.cost = cost;
  problem_.now = clocks_;
  if (clocks_.link > clocks_.cpu) problem_.cost.copy_latency = 0;
  problem_.items.clear();
  for (const PlannedExpert& e : plan.experts) {
    problem_.items.push_back({e.count, e.present, std::min(e.ready, clocks_.link), e.gpu});
    ++(e.gpu == 0             ? totals_.experts_cpu
       : e.gpu == plan.pieces ? totals_.experts_gpu
                              : totals_.experts_split);
    if (e.gpu > e.present) {
      totals_.bytes_demand += shape_.expert_bytes[static_cast<size_t>(plan.layer().value)] *
                              (e.gpu - e.present) / plan.pieces;
    }
  }
  const Clocks begin = clocks_;
  clocks_ = layer_end(&problem_);
  const double cpu = clocks_.cpu - begin.cpu;
  const double gpu = clocks_.gpu - begin.gpu;
  const double link = clocks_.link - begin.link;
  link_free_ = clocks_.link;
  in_experts_ = true;
  totals_.cpu_busy += cpu * 1e-6;
  totals_.gpu_busy += gpu * 1e-6;
  totals_.link_busy += link * 1e-6;
  totals_.cpu_waits += std::max(0.0, clocks_.gpu - clocks_.cpu) * 1e-6;
  totals_.gpu_waits += std::max(0.0, clocks_.cpu - clocks_.gpu) * 1e-6;
  // Each part of an expert is read from memory once, by the CPU or by the link.
  double experts = 0;
  for (const PlannedExpert& e : plan.experts) {
    experts += static_cast<double>(plan.pieces - e.gpu + std::max(0, e.gpu - e.present));
  }
  const double bytes =
      experts / plan.pieces *
      static_cast<double>(shape_.expert_bytes[static_cast<size_t>(plan.layer().value)]);
  totals_.dram_busy += bytes / (model_.profile().dram_gbps * 1e9);
  if (timeline_ != nullptr) {
    timeline_->add(Resource::kCpu, "experts", {plan.layer(), {}}, begin.cpu, clocks_.cpu);
    timeline_->add(Resource::kGpu, "experts", {plan.layer(), {}}, begin.gpu, clocks_.gpu);
    timeline_->add(Resource::kLink, "fetch", {plan.layer(), {}}, begin.link, clocks_.link);
  }
}

void SimExecutor::prefetch(std::span<const CopySlice> slices, std::span<ModelTime> landed) {
  for (size_t i = 0; i < slices.size(); ++i) {
    const CopySlice& slice = slices[i];
    const auto layer = static_cast<size_t>(slice.key.layer.value);
    const double alone = piece_us_[layer] * slice.n_pieces;
    const double begin = link_free_;
    double end = begin + alone;
    if (begin < clocks_.cpu) {
      const double slow = alone * slow_ratio_;
      end = begin + slow <= clocks_.cpu ? begin + slow
                                        : clocks_.cpu + alone * (1 - (clocks_.cpu - begin) / slow);
    }
    link_free_ = end;
    landed[i] = end;
    totals_.link_busy += alone * 1e-6;
    const int64_t bytes = shape_.expert_bytes[layer] * slice.n_pieces / shape_.split_pieces;
    totals_.bytes_prefetched += bytes;
    totals_.dram_busy += static_cast<double>(bytes) / (model_.profile().dram_gbps * 1e9);
    if (timeline_ != nullptr) {
      timeline_->add(Resource::kLink, "prefetch", slice.key, begin, end);
    }
  }
  clocks_.link = std::max(clocks_.link, link_free_);
}

std::span<const float> SimExecutor::end_step() {
  end_experts();
  const double begin = std::max(clocks_.cpu, clocks_.gpu);
  const double other =
      between_us(static_cast<double>(shape_.other.bytes),
                 static_cast<double>(shape_.other.params) / static_cast<double>(rows_.size()));
  clocks_.cpu = begin + other;
  clocks_.gpu = clocks_.cpu;
  totals_.gpu_busy += other * 1e-6;
  totals_.seconds = (clocks_.cpu - started_us_) * 1e-6;
  if (timeline_ != nullptr) {
    timeline_->add(Resource::kGpu, "output", {LayerId{shape_.n_layers}, {}}, begin, clocks_.cpu);
  }
  return {};
}

}  // namespace tandem
