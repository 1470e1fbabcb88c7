// The planner's search: a threshold search over sorted loads gives a good placement at once; then
// branch and bound finds the best one and proves it, where there are few enough experts.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "scheduler/placement.h"
#include "scheduler/uniform_placement.h"

namespace tandem {
namespace {

// Sums in another order differ in their last bits; ends closer than this part are equal.
constexpr double kSame = 1e-9;
// With more experts the proof is not tried, and it is given up after so many nodes; see README.
constexpr size_t kMostProvable = 16;
constexpr int32_t kMostNodes = 20000;

struct End {
  double makespan = std::numeric_limits<double>::infinity();
  double link = std::numeric_limits<double>::infinity();

  double margin() const { return kSame * (1 + std::abs(makespan)); }
  bool better_than(const End& other) const {
    if (!std::isfinite(other.makespan)) return true;
    if (makespan < other.makespan - other.margin()) return true;
    return makespan < other.makespan + other.margin() && link < other.link - other.margin();
  }
};

class Search {
 public:
  Search(LayerProblem* problem, LayerProblem* trial)
      : problem_(*problem), trial_(*trial), cost_(problem->cost) {
    trial_.cost = problem->cost;
    trial_.now = problem->now;
    trial_.room = problem->room;
    trial_.may_split = problem->may_split;
    trial_.items = problem->items;
  }

  void run() {
    other_rules();
    thresholds();
    use_parts_as_they_are();
    split_at_border();
    if (trial_.items.size() <= kMostProvable) prove();
  }

 private:
  // What the decided items of a branch add up to.
  struct Branch {
    double cpu = 0;
    double gpu = 0;
    double copy = 0;
    int32_t room = 0;
    bool split = false;
  };

  bool resident(const LayerItem& item) const { return item.present == cost_.pieces; }
  double part(int32_t pieces) const { return static_cast<double>(pieces) / cost_.pieces; }

  // Notes the placement in trial_ when it is the best so far.
  Clocks consider() {
    const Clocks end = layer_end(&trial_);
    const End result{std::max(end.cpu, end.gpu), end.link};
    if (result.better_than(best_)) {
      best_ = result;
      for (size_t i = 0; i < trial_.items.size(); ++i) {
        problem_.items[i].gpu = trial_.items[i].gpu;
      }
    }
    return end;
  }
  void back_to_best() {
    for (size_t i = 0; i < trial_.items.size(); ++i) trial_.items[i].gpu = problem_.items[i].gpu;
  }

  // Good starts, and a promise: no rule that others use is ever better.
  void other_rules() {
    place_fiddler(&trial_, nullptr);
    consider();
    place_hybrimoe(&trial_, &problem_);  // whose lists are free; its items hold the best so far
    consider();
  }

  // What a placement by thresholds adds up to. Experts are taken heaviest first here, whatever
  // order is best, so that its ends are estimates; consider() has the right ones.
  struct Sums {
    double cpu_alone = 0;
    double cpu_shared = 0;
    double gpu = 0;          // work; behind what is there at the start
    double late_end = 0;     // that on its way ends at this time at least,
    double fetched_us = 0;   // and what is fetched takes as long
    double fetched_end = 0;  // and ends at this at least
    double link = 0;
  };
  Sums all_on_cpu() const {
    Sums sums;
    sums.gpu = cost_.gpu_launch;
    sums.link = problem_.now.link + cost_.copy_latency;
    for (const LayerItem& item : trial_.items) add_to_cpu(item, 1, &sums);
    return sums;
  }
  void add_to_cpu(const LayerItem& item, double sign, Sums* sums) const {
    sums->cpu_alone += sign * cost_.cpu(item.count);
    sums->cpu_shared += sign * cost_.cpu_shared(item.count);
  }
  void fetch(const LayerItem& item, Sums* sums) const {
    const double us = cost_.gpu_launch + cost_.gpu(item.count);
    add_to_cpu(item, -1, sums);
    sums->link += part(cost_.pieces - item.present) * cost_.copy;
    sums->gpu += us;
    sums->fetched_us += us;
    sums->fetched_end = std::max(sums->fetched_end, sums->link) + us;
  }
  void use_resident(const LayerItem& item, Sums* sums) const {
    const bool late = item.ready > problem_.now.gpu;
    const double us = cost_.gpu(item.count) + (late ? cost_.gpu_launch : 0);
    add_to_cpu(item, -1, sums);
    sums->gpu += us;
    if (late) sums->late_end = std::max(sums->late_end, item.ready) + us;
  }
  bool gpu_ends_last(const Sums& sums) const {
    const Clocks& now = problem_.now;
    const double copying = (sums.fetched_us > 0 ? sums.link : now.link) - now.cpu;
    const double cpu = cost_.cpu_first + cpu_stretched(sums.cpu_alone, sums.cpu_shared, copying);
    const double gpu =
        std::max({now.gpu + sums.gpu, sums.late_end + sums.fetched_us, sums.fetched_end});
    return gpu >= now.cpu + cpu;
  }

  // The k heaviest of those not wholly there are fetched, the m lightest residents go to the CPU.
  // Each step takes work from the CPU and adds to the GPU or the reverse, so that the best numbers
  // lie where the two ends cross.
  void thresholds() {
    Sums fetched = all_on_cpu();
    Sums sums = fetched;
    int32_t residents = 0;
    for (const LayerItem& item : trial_.items) {
      if (!resident(item)) continue;
      ++residents;
      use_resident(item, &sums);
    }
    const auto absent = static_cast<int32_t>(trial_.items.size()) - residents;
    int32_t k = 0;
    int32_t room = trial_.room;
    Sums before = fetched;
    for (const LayerItem& item : trial_.items) {
      if (gpu_ends_last(sums)) break;
      if (resident(item) || (item.present == 0 && room-- <= 0)) continue;
      ++k;
      before = fetched;
      fetch(item, &fetched);
      fetch(item, &sums);
    }
    if (k > 0) at_residents(k - 1, residents, before);
    at_residents(k, residents, fetched);
    at_threshold(0, 0);
    at_threshold(0, residents);
    at_threshold(absent, 0);
  }

  // sums: with k fetched and all residents on the CPU.
  void at_residents(int32_t k, int32_t residents, Sums sums) {
    int32_t on_gpu = 0;
    for (const LayerItem& item : trial_.items) {
      if (!resident(item)) continue;
      if (gpu_ends_last(sums)) break;
      ++on_gpu;
      use_resident(item, &sums);
    }
    at_threshold(k, 0);
    if (on_gpu > 0) at_threshold(k, residents - on_gpu + 1);
    at_threshold(k, residents - on_gpu);
  }

  // The first number in [low, high] for which `is` holds, taken to hold at high.
  template <typename Predicate>
  static int32_t first_where(int32_t low, int32_t high, Predicate is) {
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (is(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  Clocks at_threshold(int32_t k, int32_t m) {
    int32_t room = trial_.room;
    for (LayerItem& item : trial_.items) {
      if (resident(item)) continue;
      const bool fetch = k > 0 && (item.present > 0 || room > 0);
      if (fetch && item.present == 0) --room;
      if (fetch) --k;
      item.gpu = fetch ? cost_.pieces : 0;
    }
    for (size_t i = trial_.items.size(); i-- > 0;) {
      LayerItem& item = trial_.items[i];
      if (resident(item)) item.gpu = m-- > 0 ? 0 : cost_.pieces;
    }
    return consider();
  }

  void use_parts_as_they_are() {
    for (size_t i = 0; i < trial_.items.size(); ++i) {
      if (trial_.items[i].present == 0 || resident(trial_.items[i])) continue;
      back_to_best();
      trial_.items[i].gpu = trial_.items[i].present;
      consider();
    }
  }

  // One expert at the border between GPU and CPU is split so that both end together.
  void split_at_border() {
    if (cost_.pieces == 1 || !problem_.may_split) return;
    back_to_best();
    // All splits start from the same whole placement: two at once are not allowed.
    std::vector<int32_t>& whole = problem_.late;
    whole.clear();
    for (const LayerItem& item : trial_.items) whole.push_back(item.gpu);
    std::array<int32_t, 4> border{-1, -1, -1, -1};  // first off and last on, of absent and resident
    for (size_t i = 0; i < trial_.items.size(); ++i) {
      const LayerItem& item = trial_.items[i];
      const size_t group = resident(item) ? 2 : 0;
      if (item.gpu == 0 && border[group] < 0) border[group] = static_cast<int32_t>(i);
      if (item.gpu > 0) border[group + 1] = static_cast<int32_t>(i);
    }
    for (const int32_t i : border) {
      if (i >= 0) split(static_cast<size_t>(i));
    }
  }

  void split(size_t i) {
    for (size_t j = 0; j < trial_.items.size(); ++j) trial_.items[j].gpu = problem_.late[j];
    int32_t room = trial_.room;
    for (const LayerItem& item : trial_.items) room -= item.gpu > 0 && item.present == 0 ? 1 : 0;
    LayerItem& item = trial_.items[i];
    if (item.gpu == 0 && item.present == 0 && room <= 0) return;
    first_where(1, cost_.pieces - 1, [&](int32_t pieces) {
      item.gpu = pieces;
      const Clocks end = consider();
      return end.cpu <= end.gpu;
    });
  }

  void prove() {
    const std::vector<LayerItem>& items = trial_.items;
    rest_[items.size()] = {};
    for (size_t i = items.size(); i-- > 0;) {
      const double cpu = cost_.cpu(items[i].count);
      const Rest& after = rest_[i + 1];
      const double by_link = resident(items[i]) ? 0 : cpu / cost_.copy;
      const double by_gpu = items[i].present == 0 ? 0 : cpu / cost_.gpu(items[i].count);
      rest_[i] = {after.cpu + cpu, std::max(after.by_link, by_link),
                  std::max(after.by_gpu, by_gpu)};
    }
    nodes_ = 0;
    branch(0, {0, 0, 0, trial_.room, !trial_.may_split});
  }

  // No completion of the branch ends sooner than this: the undecided work flows freely over CPU,
  // GPU and link, each as fast as it is with the expert that suits it best.
  End bound(size_t i, const Branch& sums) const {
    const Rest& rest = rest_[i];
    const double cpu = problem_.now.cpu + sums.cpu + (sums.cpu > 0 ? cost_.cpu_first : 0);
    const double gpu = problem_.now.gpu + sums.gpu;
    const double link = problem_.now.link + sums.copy + (sums.copy > 0 ? cost_.copy_latency : 0);
    double flow = cpu + rest.cpu;
    double done = flow;
    double rate = 1;
    const std::array<std::pair<double, double>, 2> servers =
        gpu < link ? std::array{std::pair{gpu, rest.by_gpu}, std::pair{link, rest.by_link}}
                   : std::array{std::pair{link, rest.by_link}, std::pair{gpu, rest.by_gpu}};
    for (const auto& [start, speed] : servers) {
      if (start >= flow || speed <= 0) continue;
      done += start * speed;
      rate += speed;
      flow = done / rate;
    }
    const double decided = std::max({cpu, gpu, sums.copy > 0 ? link : 0.0});
    return {rest.cpu > 0 ? std::max(decided, flow) : decided, link};
  }

  // Of equal experts the next never gets more pieces than the one before, so that each combination
  // comes up once.
  void branch(size_t i, const Branch& sums) {
    if (++nodes_ > kMostNodes || !bound(i, sums).better_than(best_)) return;
    if (i == trial_.items.size()) {
      consider();
      return;
    }
    LayerItem& item = trial_.items[i];
    const int32_t most =
        i > 0 && alike(trial_.items[i - 1], item) ? trial_.items[i - 1].gpu : cost_.pieces;
    for (int32_t pieces = most; pieces >= 0; --pieces) {
      const bool as_it_is = pieces == 0 || pieces == item.present || pieces == cost_.pieces;
      const bool takes_slot = pieces > 0 && item.present == 0;
      if ((!as_it_is && sums.split) || (takes_slot && sums.room <= 0)) continue;
      Branch next = sums;
      next.cpu += part(cost_.pieces - pieces) * cost_.cpu(item.count);
      next.gpu += part(pieces) * cost_.gpu(item.count);
      if (pieces > item.present) next.copy += part(pieces - item.present) * cost_.copy;
      next.room -= takes_slot ? 1 : 0;
      next.split = sums.split || !as_it_is;
      item.gpu = pieces;
      branch(i + 1, next);
    }
  }

  static bool alike(const LayerItem& a, const LayerItem& b) {
    return a.count == b.count && a.present == b.present && a.ready == b.ready;
  }

  struct Rest {
    double cpu = 0;      // time of the undecided items on the CPU
    double by_link = 0;  // CPU time that a microsecond of link saves at most
    double by_gpu = 0;   // and a microsecond of GPU, with what is there
  };

  LayerProblem& problem_;
  LayerProblem& trial_;
  const LayerCosts& cost_;
  End best_;
  std::array<Rest, kMostProvable + 1> rest_;
  int32_t nodes_ = 0;
};

}  // namespace

void place_exact(LayerProblem* problem, LayerProblem* scratch) {
  if (!place_uniform(problem)) Search(problem, scratch).run();
}

}  // namespace tandem
