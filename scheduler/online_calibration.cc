#include "scheduler/online_calibration.h"

#include <algorithm>

#include "scheduler/layer_problem.h"

namespace tandem {
namespace {

// How cpu_stretched() grows when one of its first two arguments doubles, to first order.
struct Stretch {
  double us = 0;
  double by_alone = 0;
  double by_shared = 0;
};

Stretch stretch(double alone, double shared, double copying) {
  const double us = cpu_stretched(alone, shared, copying);
  if (copying <= 0) return {us, alone, 0};
  if (shared <= copying) return {us, 0, shared};
  return {us, alone * (1 - copying / shared), copying * alone / shared};
}

// Work that takes the longer of reading and arithmetic. Where both take nearly the same, either may
// be the longer one in truth, and both answer for the time; else a cost that fell too low would
// never be seen again.
struct Roofline {
  double read = 0;
  double compute = 0;

  void add(double part, double read_us, double compute_us) {
    const double us = part * std::max(read_us, compute_us);
    const double ratio = compute_us / read_us;
    const double share = 1 / (1 + ratio * ratio * ratio * ratio);
    read += us * share;
    compute += us * (1 - share);
  }
  double us() const { return read + compute; }
  double read_share() const { return us() > 0 ? read / us() : 0; }
};

}  // namespace

LayerCosts corrected(const LayerCosts& believed, const CostFactors& factors) {
  LayerCosts cost = believed;
  cost.cpu_read *= factors.cpu_read;
  cost.cpu_read_shared *= factors.cpu_read_shared;
  cost.cpu_token *= factors.cpu_token;
  cost.cpu_first *= factors.cpu_first;
  cost.gpu_read *= factors.gpu_read;
  cost.gpu_token *= factors.gpu_token;
  cost.gpu_launch *= factors.gpu_launch;
  cost.copy *= factors.copy;
  cost.copy_latency *= factors.copy_latency;
  return cost;
}

OnlineCalibration::OnlineCalibration(const CostModel& believed)
    : copy_us_per_byte_(1e-3 / believed.profile().link.h2d_gbps),
      slow_ratio_(believed.profile().link.h2d_gbps / believed.link_gbps_beside_cpu()) {}

void OnlineCalibration::learn(const LayerCosts& cost, const LayerPlan& plan, const Clocks& end) {
  learn_cpu(cost, plan, end);
  learn_gpu(cost, plan, end);
  learn_link(cost, plan, end);
  end_ = end;
}

void OnlineCalibration::learn_cpu(const LayerCosts& cost, const LayerPlan& plan,
                                  const Clocks& end) {
  const double piece = 1.0 / plan.pieces;
  Roofline alone;
  Roofline shared;
  for (const PlannedExpert& expert : plan.experts) {
    if (expert.gpu == plan.pieces) continue;
    const double part = (plan.pieces - expert.gpu) * piece;
    alone.add(part, cost.cpu_read, expert.count * cost.cpu_token);
    shared.add(part, cost.cpu_read_shared, expert.count * cost.cpu_token);
  }
  if (alone.us() <= 0) return;
  const bool copies = !plan.fetches.empty() || plan.start.link > plan.start.cpu;
  const Stretch work = stretch(alone.us(), shared.us(), copies ? end.link - plan.start.cpu : 0);
  const double of_alone = alone.read_share();
  const double of_shared = shared.read_share();
  cpu_.learn({work.by_alone * of_alone, work.by_shared * of_shared,
              work.by_alone * (1 - of_alone) + work.by_shared * (1 - of_shared), cost.cpu_first},
             cost.cpu_first + work.us, end.cpu - plan.start.cpu);
  factors_.cpu_read = cpu_.factors()[0];
  factors_.cpu_read_shared = cpu_.factors()[1];
  factors_.cpu_token = cpu_.factors()[2];
  factors_.cpu_first = cpu_.factors()[3];
}

// Of a GPU that waits for copies only its last wait would tell, and when that ended is known for
// the layer's last copy alone. So two kinds of layers teach: where it is expected never to wait,
// and where it is expected to wait for the last copy.
void OnlineCalibration::learn_gpu(const LayerCosts& cost, const LayerPlan& plan,
                                  const Clocks& end) {
  const double piece = 1.0 / plan.pieces;
  Roofline work;
  double launches = 0;
  bool any_there = false;
  for (const PlannedExpert& expert : plan.experts) {
    if (expert.gpu == 0) continue;
    work.add(expert.gpu * piece, cost.gpu_read, expert.count * cost.gpu_token);
    const bool later = expert.gpu > expert.present || expert.ready > plan.start.gpu;
    launches += later ? cost.gpu_launch : 0;
    any_there = any_there || !later;
  }
  if (any_there) launches += cost.gpu_launch;
  double expected = work.us() + launches;
  if (expected <= 0) return;
  double took = end.gpu - plan.start.gpu;
  constexpr double kSame = 1 + 1e-6;
  if (plan.end.gpu - plan.start.gpu > expected * kSame) {
    if (plan.fetches.empty()) return;
    const PlannedExpert& last = plan.experts[static_cast<size_t>(plan.fetches.back())];
    work = {};
    work.add(last.gpu * piece, cost.gpu_read, last.count * cost.gpu_token);
    launches = cost.gpu_launch;
    expected = work.us() + launches;
    if (plan.end.gpu - plan.end.link > expected * kSame) return;
    took = end.gpu - end.link;
  }
  gpu_.learn({work.read, work.compute, launches}, expected, took);
  factors_.gpu_read = gpu_.factors()[0];
  factors_.gpu_token = gpu_.factors()[1];
  factors_.gpu_launch = gpu_.factors()[2];
}

void OnlineCalibration::learn_link(const LayerCosts& cost, const LayerPlan& plan,
                                   const Clocks& end) {
  int32_t pieces = 0;
  for (const int32_t i : plan.fetches) {
    const PlannedExpert& expert = plan.experts[static_cast<size_t>(i)];
    pieces += expert.gpu - expert.present;
  }
  if (pieces == 0) return;
  const double copy = cost.copy * pieces / plan.pieces;
  link_.learn({copy, 0, cost.copy_latency}, copy + cost.copy_latency, end.link - plan.start.link);
  factors_.copy = link_.factors()[0];
  factors_.copy_shared = link_.factors()[1];
  factors_.copy_latency = link_.factors()[2];
}

void OnlineCalibration::learn_copies(int64_t bytes, ModelTime landed) {
  if (bytes <= 0) return;
  const double believed = static_cast<double>(bytes) * copy_us_per_byte_;
  const Stretch copy = stretch(believed * factors_.copy,
                               believed * slow_ratio_ * factors_.copy_shared, end_.cpu - end_.link);
  link_.learn({copy.by_alone, copy.by_shared, 0}, copy.us, landed - end_.link);
  factors_.copy = link_.factors()[0];
  factors_.copy_shared = link_.factors()[1];
}

}  // namespace tandem
