#include "scheduler/uniform_placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "scheduler/uniform_layer.h"

namespace tandem {
namespace {

constexpr double kSame = 1e-9;
constexpr double kNever = std::numeric_limits<double>::infinity();

// What becomes of the odd experts is a tree; at its leaves it is searched how many pieces of absent
// ones are best fetched, and of residents best left to the GPU. A branch is cut off where what is
// left cannot fit into what CPU, GPU and link have left until the best end found so far.
class UniformSearch {
 public:
  explicit UniformSearch(LayerProblem* problem)
      : problem_(*problem), cost_(problem->cost), pieces_(problem->cost.pieces), layer_(*problem) {}

  bool run() {
    if (!layer_.sort_out()) return false;
    per_cpu_us_ = 1 / layer_.cpu_us();
    per_gpu_us_ = 1 / layer_.gpu_us();
    per_link_us_ = 1 / layer_.copy_us();
    for (size_t i = layer_.n_odd(); i-- > 0;) {
      const int32_t present = layer_.odd(i).present;
      rest_[i] = {rest_[i + 1].present + present, rest_[i + 1].missing + pieces_ - present};
    }
    choose_odd(0, {.split = !problem_.may_split});
    write_back();
    return true;
  }

 private:
  struct Choice {
    UniformLayer::OddPieces odd{};
    int32_t fetched = 0;   // pieces of absent experts
    int32_t resident = 0;  // pieces of residents on the GPU
  };
  // What the odd experts of a branch that are decided add up to.
  struct Branch {
    int32_t cpu = 0;     // pieces
    bool there = false;  // some are there at the start, and share a launch
    double gpu = 0;      // us, other launches counted in
    double gpu_end = 0;  // at least
    double copies = 0;   // us
    bool split = false;  // one is divided anew; no other may be
  };
  // Pieces of those that are undecided.
  struct Rest {
    int32_t present = 0;
    int32_t missing = 0;
  };

  // As they are first, then whole, then not at all, then divided anew.
  void choose_odd(size_t n, const Branch& sums) {
    if (!may_win(n, sums)) return;
    if (n == layer_.n_odd()) {
      choose_fetched(sums);
      return;
    }
    const int32_t present = layer_.odd(n).present;
    take(n, present, sums);
    if (present != pieces_) take(n, pieces_, sums);
    take(n, 0, sums);
    if (sums.split) return;
    for (int32_t gpu = 1; gpu < pieces_; ++gpu) {
      if (gpu != present) take(n, gpu, sums);
    }
  }

  void take(size_t n, int32_t gpu, Branch sums) {
    if (exchanged_is_as_good(n, gpu)) return;
    const LayerItem& item = layer_.odd(n);
    sums.split = sums.split || (gpu != 0 && gpu != item.present && gpu != pieces_);
    sums.cpu += pieces_ - gpu;
    if (gpu > item.present) {
      sums.copies += (gpu - item.present) * layer_.copy_us();
      sums.gpu += layer_.launched_us(gpu);
    } else if (gpu > 0 && item.ready > problem_.now.gpu) {
      sums.gpu += layer_.launched_us(gpu);
      sums.gpu_end = std::max(sums.gpu_end, item.ready + layer_.launched_us(gpu));
    } else if (gpu > 0) {
      sums.gpu += gpu * layer_.gpu_us();
      sums.there = true;
    }
    now_.odd[n] = gpu;
    choose_odd(n + 1, sums);
  }

  // Of two with as many pieces the one that lands sooner is not left to the CPU while the other is
  // not; nor are its missing pieces copied while the other makes do with what it has. Exchanged
  // they end no later.
  bool exchanged_is_as_good(size_t n, int32_t gpu) const {
    const int32_t present = layer_.odd(n).present;
    if (n == 0 || layer_.odd(n - 1).present != present) return false;
    const int32_t before = now_.odd[n - 1];
    if (before == 0) return gpu != 0;
    return before == pieces_ && gpu > 0 && gpu <= present && present < pieces_;
  }

  // Whether the branch could hold something better than the best so far.
  bool may_win(size_t n, const Branch& sums) const {
    if (!std::isfinite(best_)) return true;
    return could_end_by(best_ - margin(), kNever, n, sums) ||
           could_end_by(best_ + margin(), best_link_ - margin(), n, sums);
  }

  // Whether what is left could fit. The link's copies slow the CPU down: what both do together is
  // most with as many copies as fit or with none, because it is convex in their number.
  bool could_end_by(double end, double link_end, size_t n, const Branch& sums) const {
    const Clocks& at = problem_.now;
    const double launch = sums.there ? cost_.gpu_launch : 0;
    if (sums.gpu_end > end || at.gpu + launch + sums.gpu > end) return false;
    const double first_copy = at.link + cost_.copy_latency + sums.copies;
    const double decided = sums.copies > 0 ? first_copy : at.link;
    if (decided > (sums.copies > 0 ? std::min(end, link_end) : link_end)) return false;
    // Whole pieces that each could do; the CPU beside so many copies, and negative where it could
    // not even do what is decided.
    const auto cpu = [&](int32_t copies) {
      const double link = copies > 0 ? first_copy + copies * layer_.copy_us() : decided;
      const double time = std::max(0.0, end - at.cpu - cost_.cpu_first);
      const double copying = std::clamp(link - at.cpu, 0.0, time);
      return whole((time - layer_.slowed() * copying) * per_cpu_us_) - sums.cpu;
    };
    const double for_gpu = end - at.gpu - cost_.gpu_launch - sums.gpu;
    const int32_t gpu =
        std::min(whole(for_gpu * per_gpu_us_), layer_.residents() * pieces_ + rest_[n].present);
    const double for_copies = std::min(link_end, end - layer_.launched_us(1)) - first_copy;
    const int32_t copies =
        std::min(whole(for_copies * per_link_us_), may_be_fetched() + rest_[n].missing);
    const auto left =
        layer_.absent() + layer_.residents() + static_cast<int32_t>(layer_.n_odd() - n);
    const auto all_fit = [&](int32_t n_copies) {
      const int32_t free = cpu(n_copies);
      return free >= 0 && free + gpu + n_copies >= left * pieces_;
    };
    if (n < layer_.n_odd()) return all_fit(copies) || (copies > 0 && all_fit(0));
    // Residents and absent ones go whole, but for one where none is divided yet: of that the CPU
    // does one part, and `other` pieces fit on the GPU or the link.
    const auto whole_ones_fit = [&](int32_t n_copies, int32_t other) {
      const int32_t free = cpu(n_copies);
      return free >= 0 && (free + other) / pieces_ + gpu / pieces_ + n_copies / pieces_ >= left;
    };
    const int32_t part_copied = copies % pieces_;
    const int32_t on_gpu = sums.split ? 0 : gpu % pieces_;
    return whole_ones_fit(copies - part_copied, on_gpu) || whole_ones_fit(0, on_gpu) ||
           (!sums.split && part_copied > 0 && whole_ones_fit(copies, part_copied));
  }

  int32_t may_be_fetched() const { return std::min(layer_.absent(), problem_.room) * pieces_; }

  // Of pieces that fit, a rounding error allowed.
  static int32_t whole(double fit) {
    return static_cast<int32_t>(std::clamp(fit + 1e-6, 0.0, 1e9));
  }

  // More pieces fetched: the link ends later and the CPU has less. Where the two meet is a good
  // start, and what it takes bounds what else is worth a look.
  void choose_fetched(const Branch& sums) {
    layer_.set_odd(now_.odd);
    const int32_t step = sums.split ? pieces_ : 1;
    const int32_t most = may_be_fetched() / step;
    const Clocks& at = problem_.now;
    const double first_copy = at.link + cost_.copy_latency + sums.copies;
    const double for_cpu = sums.cpu + layer_.absent() * pieces_;
    const double slowed = layer_.slowed();
    if (!std::isfinite(best_)) {
      const double meet = (for_cpu + per_link_us_ * first_copy +
                           per_cpu_us_ * ((1 - slowed) * at.cpu + cost_.cpu_first)) /
                          (per_cpu_us_ * (1 - slowed) + per_link_us_);
      const int32_t copies = whole((meet - first_copy) * per_link_us_);
      fetch(std::min(copies / step, most) * step, sums);
    }
    fetch(0, sums);
    // By the best end the link copies at most so many, and fewer leave too much to the CPU. (Where
    // the best end leaves it no time at all, all is on the GPU, which is one leaf and done.)
    const double end = best_ + margin();
    const int32_t last = std::min(whole((end - first_copy) * per_link_us_) / step, most);
    const double cpu_time =
        end - at.cpu - cost_.cpu_first - slowed * (first_copy - at.cpu - cost_.cpu_first);
    const double gain = 1 - slowed * per_cpu_us_ / per_link_us_;  // of a copy, in pieces
    const double fewest = gain > 0 ? (for_cpu - cpu_time * per_cpu_us_) / gain : 1;
    const int32_t first = std::max(1, (whole(fewest) + step - 1) / step);
    for (int32_t n = first; n <= last; ++n) fetch(n * step, sums);
  }

  void fetch(int32_t pieces, const Branch& sums) {
    now_.fetched = pieces;
    layer_.set_fetched(pieces);
    if (layer_.cpu_end(layer_.residents() * pieces_) > best_ + margin()) return;
    choose_resident(sums.split || pieces % pieces_ != 0);
  }

  // The GPU's end rises and the CPU's falls with the residents' pieces: the best lies at the
  // crossing.
  void choose_resident(bool split) {
    const int32_t step = split ? pieces_ : 1;
    int32_t low = 0;
    int32_t high = layer_.residents() * pieces_ / step;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (layer_.gpu_end(middle * step) >= layer_.cpu_end(middle * step)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    // More of them on the GPU costs nothing on the link; of equal ends take the larger number.
    consider(low * step);
    if (low > 0) consider((low - 1) * step);
  }

  void consider(int32_t resident) {
    const double end = std::max(layer_.cpu_end(resident), layer_.gpu_end(resident));
    const double link = layer_.link_end();
    const bool sooner = end < best_ - margin();
    if (!sooner && !(end < best_ + margin() && link < best_link_ - margin())) return;
    best_ = end;
    best_link_ = link;
    best_choice_ = now_;
    best_choice_.resident = resident;
  }

  double margin() const { return std::isfinite(best_) ? kSame * (1 + std::abs(best_)) : 0; }

  void write_back() {
    Choice left = best_choice_;
    for (LayerItem& item : problem_.items) {
      int32_t& pieces = item.present == 0 ? left.fetched : left.resident;
      const bool odd =
          item.present > 0 && (item.present < pieces_ || item.ready > problem_.now.gpu);
      if (odd) continue;
      item.gpu = std::min(pieces, pieces_);
      pieces -= item.gpu;
    }
    for (size_t i = 0; i < layer_.n_odd(); ++i) {
      problem_.items[layer_.odd_item(i)].gpu = best_choice_.odd[i];
    }
  }

  LayerProblem& problem_;
  const LayerCosts& cost_;
  const int32_t pieces_;
  UniformLayer layer_;
  double per_cpu_us_ = 0;  // pieces
  double per_gpu_us_ = 0;
  double per_link_us_ = 0;
  std::array<Rest, UniformLayer::kMostOdd + 1> rest_{};  // of the odd experts from there on

  Choice now_;
  Choice best_choice_;
  double best_ = kNever;
  double best_link_ = kNever;
};

}  // namespace

bool place_uniform(LayerProblem* problem) { return UniformSearch(problem).run(); }

}  // namespace tandem
