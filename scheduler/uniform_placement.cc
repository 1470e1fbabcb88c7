#include "scheduler/uniform_placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace tandem {
namespace {

constexpr double kSame = 1e-9;
constexpr int32_t kMostOdd = 2;

// GPU work behind other work: started at s it ends at max(s + work, least).
struct Chain {
  double work = 0;
  double least = 0;

  void then(double ready, double us) {
    least = std::max(least + us, ready + us);
    work += us;
  }
};

class UniformSearch {
 public:
  explicit UniformSearch(LayerProblem* problem)
      : problem_(*problem),
        cost_(problem->cost),
        pieces_(problem->cost.pieces),
        piece_(1.0 / problem->cost.pieces) {}

  bool run() {
    if (problem_.items.empty() || !sort_out()) return false;
    const int32_t count = problem_.items.front().count;
    cpu_ = cost_.cpu(count);
    cpu_shared_ = cost_.cpu_shared(count);
    gpu_ = cost_.gpu(count);
    choose_odd(0, !problem_.may_split);
    write_back();
    return true;
  }

 private:
  struct Choice {
    std::array<int32_t, kMostOdd> odd{};  // pieces of the odd experts on the GPU
    int32_t fetched = 0;                  // pieces of absent experts
    int32_t resident = 0;                 // pieces of residents on the GPU
  };

  bool sort_out() {
    for (size_t i = 0; i < problem_.items.size(); ++i) {
      const LayerItem& item = problem_.items[i];
      if (item.count != problem_.items.front().count) return false;
      if (item.present == 0) {
        ++absent_;
      } else if (item.present == pieces_ && item.ready <= problem_.now.gpu) {
        ++residents_;
      } else if (n_odd_ < kMostOdd) {
        odd_[static_cast<size_t>(n_odd_++)] = i;
      } else {
        return false;
      }
    }
    return true;
  }

  void choose_odd(int32_t n, bool split) {
    if (n == n_odd_) {
      choose_fetched(split);
      return;
    }
    const LayerItem& item = problem_.items[odd_[static_cast<size_t>(n)]];
    for (int32_t gpu = 0; gpu <= pieces_; ++gpu) {
      const bool as_it_is = gpu == 0 || gpu == item.present || gpu == pieces_;
      if (!as_it_is && split) continue;
      now_.odd[static_cast<size_t>(n)] = gpu;
      choose_odd(n + 1, split || !as_it_is);
    }
  }

  // More pieces fetched: link and GPU end later and the CPU has less. Where the two cross is a good
  // start, and what it takes bounds what else is worth a look.
  void choose_fetched(bool split) {
    const int32_t step = split ? pieces_ : 1;
    const int32_t most = std::min(absent_, problem_.room) * pieces_ / step;
    int32_t low = 0;
    int32_t high = most;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      fetch(middle * step);
      if (gpu_end(residents_ * pieces_) >= cpu_end(residents_ * pieces_)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const int32_t crossing = low;
    for (int32_t n = std::max(0, crossing - 1); n <= crossing; ++n) {
      fetch(n * step);
      choose_resident(split || n * step % pieces_ != 0);
    }
    for (int32_t n = first_worth_it(step); n <= most; ++n) {
      if (n == crossing || n == crossing - 1) continue;
      fetch(n * step);
      if (copies_ && link_ > best_ + margin()) return;
      if (cpu_end(residents_ * pieces_) > best_ + margin()) continue;
      choose_resident(split || n * step % pieces_ != 0);
    }
  }

  void fetch(int32_t n) {
    now_.fetched = n;
    set_up();
  }

  // Steps below this leave the CPU more than it can do by `best_` with the link idle.
  int32_t first_worth_it(int32_t step) {
    fetch(0);
    const double may_take = best_ + margin() - problem_.now.cpu - cost_.cpu_first;
    const double fits = std::max(0.0, may_take / (piece_ * cpu_)) + 1;  // pieces, one for rounding
    return fits >= cpu_pieces_ ? 0 : static_cast<int32_t>((cpu_pieces_ - fits) / step);
  }

  double margin() const { return kSame * (1 + std::abs(best_)); }

  // The GPU's end rises and the CPU's falls with the residents' pieces: the best lies at the
  // crossing.
  void choose_resident(bool split) {
    const int32_t step = split ? pieces_ : 1;
    int32_t low = 0;
    int32_t high = residents_ * pieces_ / step;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (gpu_end(middle * step) >= cpu_end(middle * step)) {
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
    const double end = std::max(cpu_end(resident), gpu_end(resident));
    const double margin = kSame * (1 + (std::isfinite(best_) ? std::abs(best_) : 0));
    const bool sooner = end < best_ - margin;
    if (!sooner && !(end < best_ + margin && link_ < best_link_ - margin)) return;
    best_ = end;
    best_link_ = link_;
    chosen_ = now_;
    chosen_.resident = resident;
  }

  // Everything that does not depend on the residents.
  void set_up() {
    const Clocks& at = problem_.now;
    chain_ = {0, 0};
    there_ = 0;
    cpu_pieces_ = absent_ * pieces_ - now_.fetched;
    late_.clear();
    struct Copy {
      double copy;
      double gpu;
      bool quick() const { return copy < gpu; }
      bool before(const Copy& b) const {  // Johnson's rule; see layer_problem.h
        if (quick() != b.quick()) return quick();
        return quick() ? copy < b.copy : gpu > b.gpu;
      }
    };
    std::array<Copy, kMostOdd + 1> others;
    size_t n_others = 0;
    for (int32_t i = 0; i < n_odd_; ++i) {
      const LayerItem& item = problem_.items[odd_[static_cast<size_t>(i)]];
      const int32_t gpu = now_.odd[static_cast<size_t>(i)];
      cpu_pieces_ += pieces_ - gpu;
      if (gpu == 0) continue;
      if (gpu > item.present) {
        others[n_others++] = {(gpu - item.present) * piece_ * cost_.copy, launched(gpu)};
      } else if (item.ready > at.gpu) {
        late_.push(item.ready, launched(gpu));
      } else {
        there_ += gpu;
      }
    }
    late_.into(&chain_);
    const Copy whole{cost_.copy, launched(pieces_)};
    const int32_t n_whole = now_.fetched / pieces_;
    const int32_t rest = now_.fetched % pieces_;
    if (rest > 0) others[n_others++] = {rest * piece_ * cost_.copy, launched(rest)};
    for (size_t i = 1; i < n_others; ++i) {
      for (size_t j = i; j > 0 && others[j].before(others[j - 1]); --j) {
        std::swap(others[j], others[j - 1]);
      }
    }
    copies_ = n_whole > 0 || n_others > 0;
    link_ = at.link + (copies_ ? cost_.copy_latency : 0);
    const auto copy = [&](const Copy& c) {
      link_ += c.copy;
      chain_.then(link_, c.gpu);
    };
    size_t next = 0;
    while (next < n_others && others[next].before(whole)) copy(others[next++]);
    for (int32_t i = 0; i < n_whole; ++i) copy(whole);
    while (next < n_others) copy(others[next++]);
  }

  double launched(int32_t gpu) const { return cost_.gpu_launch + gpu * piece_ * gpu_; }

  double gpu_end(int32_t resident) const {
    const int32_t there = there_ + resident;
    const double start =
        problem_.now.gpu + (there > 0 ? cost_.gpu_launch + there * piece_ * gpu_ : 0);
    return std::max(start + chain_.work, chain_.least);
  }
  double cpu_end(int32_t resident) const {
    const int32_t n = cpu_pieces_ + residents_ * pieces_ - resident;
    if (n == 0) return problem_.now.cpu;
    return problem_.now.cpu + cost_.cpu_first +
           cpu_stretched(n * piece_ * cpu_, n * piece_ * cpu_shared_, link_ - problem_.now.cpu);
  }

  void write_back() {
    int32_t fetched = chosen_.fetched;
    int32_t resident = chosen_.resident;
    int32_t n = 0;
    for (size_t i = 0; i < problem_.items.size(); ++i) {
      LayerItem& item = problem_.items[i];
      if (n < n_odd_ && odd_[static_cast<size_t>(n)] == i) {
        item.gpu = chosen_.odd[static_cast<size_t>(n++)];
        continue;
      }
      int32_t& left = item.present == 0 ? fetched : resident;
      item.gpu = std::min(left, pieces_);
      left -= item.gpu;
    }
  }

  // At most kMostOdd arrivals, earliest first.
  struct Late {
    static_assert(kMostOdd == 2);
    std::array<std::pair<double, double>, kMostOdd> items;
    size_t n = 0;
    void clear() { n = 0; }
    void push(double ready, double us) {
      items[n++] = {ready, us};
      if (n == 2 && items[1] < items[0]) std::swap(items[0], items[1]);
    }
    void into(Chain* chain) const {
      for (size_t i = 0; i < n; ++i) chain->then(items[i].first, items[i].second);
    }
  };

  LayerProblem& problem_;
  const LayerCosts& cost_;
  const int32_t pieces_;
  const double piece_;
  double cpu_ = 0;
  double cpu_shared_ = 0;
  double gpu_ = 0;

  int32_t absent_ = 0;
  int32_t residents_ = 0;
  int32_t n_odd_ = 0;
  std::array<size_t, kMostOdd> odd_{};

  Choice now_;
  Late late_;
  Chain chain_;
  double link_ = 0;
  bool copies_ = false;
  int32_t there_ = 0;       // pieces of odd experts that are there at the start
  int32_t cpu_pieces_ = 0;  // beside the residents'

  Choice chosen_;
  double best_ = std::numeric_limits<double>::infinity();
  double best_link_ = std::numeric_limits<double>::infinity();
};

}  // namespace

bool place_uniform(LayerProblem* problem) { return UniformSearch(problem).run(); }

}  // namespace tandem
