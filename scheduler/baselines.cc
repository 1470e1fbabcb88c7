// The placement rules that others use; see placement.h for sources.
#include <algorithm>
#include <array>

#include "scheduler/placement.h"

namespace tandem {
namespace {

struct Named {
  std::string_view name;
  PlacementRule rule;
};

constexpr std::array kRules = {
    Named{"adapmoe", place_gpu_only},   Named{"cpu", place_cpu_only},
    Named{"exact", place_exact},        Named{"fiddler", place_fiddler},
    Named{"hybrimoe", place_hybrimoe},  Named{"ktransformers", place_static},
    Named{"llama-ncmoe", place_static},
};

// HybriMoE's greedy. Items come heaviest first, so every queue is a range of indices.
class Greedy {
 public:
  // The vectors are scratch.
  Greedy(LayerProblem* problem, std::vector<int32_t>* cached, std::vector<int32_t>* absent)
      : problem_(*problem), cost_(problem->cost), cached_(*cached), absent_(*absent) {
    cached_.clear();
    absent_.clear();
    for (size_t i = 0; i < problem->items.size(); ++i) {
      const bool whole = problem->items[i].present == cost_.pieces;
      (whole ? cached_ : absent_).push_back(static_cast<int32_t>(i));
    }
    cached_end_ = cached_.size();
    absent_end_ = absent_.size();
    gpu_ = problem->now.gpu;
    cpu_ = problem->now.cpu;
    link_ = problem->now.link;
    arrived_ = link_;
    room_ = problem->room;
  }

  void run() {
    while (step()) {
    }
  }

 private:
  LayerItem& item(int32_t i) { return problem_.items[static_cast<size_t>(i)]; }

  // Commits the option that ends first: GPU, link, CPU in this order when several do.
  bool step() {
    const bool cached_left = cached_head_ < cached_end_;
    const bool fetched_left = computed_ < copied_;
    const bool absent_left = copied_ < absent_end_;
    // The GPU takes the heavier of the two heads.
    const bool gpu_fetched =
        fetched_left && (!cached_left || absent_[computed_] < cached_[cached_head_]);
    double best = 0;
    int who = 0;  // 1: GPU, 2: link, 3: CPU
    if (cached_left || fetched_left) {
      const int32_t i = gpu_fetched ? absent_[computed_] : cached_[cached_head_];
      best = gpu_end(item(i), gpu_fetched);
      who = 1;
    }
    if (absent_left) {
      const LayerItem& next = item(absent_[copied_]);
      const bool fits = room_ > 0 || next.present > 0;
      if (fits && (who == 0 || copy_end(next) < best)) {
        best = copy_end(next);
        who = 2;
      }
    }
    // The CPU takes the lightest absent expert, or the lightest cached one when none is left.
    if (absent_left || cached_left) {
      const int32_t i = absent_left ? absent_[absent_end_ - 1] : cached_[cached_end_ - 1];
      if (who == 0 || cpu_end(item(i)) < best) who = 3;
    }
    if (who == 1) {
      compute(gpu_fetched ? absent_[computed_++] : cached_[cached_head_++], gpu_fetched);
    } else if (who == 2) {
      LayerItem& next = item(absent_[copied_++]);
      link_ = copy_end(next);
      room_ -= next.present > 0 ? 0 : 1;
    } else if (who == 3) {
      LayerItem& next = item(absent_left ? absent_[--absent_end_] : cached_[--cached_end_]);
      cpu_ = cpu_end(next);
      cpu_used_ = true;
      next.gpu = 0;
    }
    return who != 0;
  }

  void compute(int32_t i, bool fetched) {
    gpu_ = gpu_end(item(i), fetched);
    if (fetched) arrived_ += copy_us(item(i));
    gpu_used_ = true;
    item(i).gpu = cost_.pieces;
  }
  double cpu_end(const LayerItem& item) const {
    return cpu_ + cost_.cpu(item.count) + (cpu_used_ ? 0 : cost_.cpu_first);
  }
  // fetched: it is the next one to arrive.
  double gpu_end(const LayerItem& item, bool fetched) const {
    const double ready = fetched ? arrived_ + copy_us(item) : 0;
    return std::max(gpu_, ready) + cost_.gpu(item.count) + (gpu_used_ ? 0 : cost_.gpu_launch);
  }
  double copy_end(const LayerItem& item) const { return link_ + copy_us(item); }
  double copy_us(const LayerItem& item) const {
    return static_cast<double>(cost_.pieces - item.present) / cost_.pieces * cost_.copy;
  }

  LayerProblem& problem_;
  const LayerCosts& cost_;
  std::vector<int32_t>& cached_;
  std::vector<int32_t>& absent_;
  size_t cached_head_ = 0;  // [head, end) wait for the GPU, or for the CPU from their end
  size_t cached_end_ = 0;
  size_t computed_ = 0;  // of the fetched, [0, copied_)
  size_t copied_ = 0;    // [copied_, absent_end_) wait for the CPU, from their end
  size_t absent_end_ = 0;
  double cpu_ = 0;
  double gpu_ = 0;
  double link_ = 0;     // when the last of the fetched has arrived
  double arrived_ = 0;  // when the last of the computed had
  int32_t room_ = 0;
  bool cpu_used_ = false;
  bool gpu_used_ = false;
};

}  // namespace

PlacementRule placement_rule(std::string_view name) {
  for (const Named& entry : kRules) {
    if (entry.name == name) return entry.rule;
  }
  return nullptr;
}

std::vector<std::string_view> placement_rule_names() {
  std::vector<std::string_view> names;
  names.reserve(kRules.size());
  for (const Named& entry : kRules) names.push_back(entry.name);
  return names;
}

void place_static(LayerProblem* problem, LayerProblem*) {
  for (LayerItem& item : problem->items) {
    item.gpu = item.present == problem->cost.pieces ? item.present : 0;
  }
}

void place_gpu_only(LayerProblem* problem, LayerProblem*) {
  int32_t room = problem->room;
  for (LayerItem& item : problem->items) {
    const bool fits = item.present > 0 || room-- > 0;
    item.gpu = fits ? problem->cost.pieces : 0;
  }
}

void place_cpu_only(LayerProblem* problem, LayerProblem*) {
  for (LayerItem& item : problem->items) item.gpu = 0;
}

void place_fiddler(LayerProblem* problem, LayerProblem*) {
  const LayerCosts& cost = problem->cost;
  int32_t room = problem->room;
  for (LayerItem& item : problem->items) {
    const double left = static_cast<double>(cost.pieces - item.present) / cost.pieces;
    const double fetched = left * cost.copy + cost.gpu(item.count);
    const bool fetch = left == 0 || fetched < cost.cpu(item.count);
    const bool fits = item.present > 0 || (fetch && room-- > 0);
    item.gpu = fetch && fits ? cost.pieces : 0;
  }
}

void place_hybrimoe(LayerProblem* problem, LayerProblem* scratch) {
  Greedy(problem, &scratch->late, &scratch->fetch_order).run();
}

}  // namespace tandem
