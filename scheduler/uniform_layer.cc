#include "scheduler/uniform_layer.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace tandem {
namespace {

// Few that come in their order, or nearly.
template <typename T, size_t kMost, typename Before>
void insert_sorted(std::array<T, kMost>* list, size_t* n, T value, Before before) {
  size_t at = (*n)++;
  for (; at > 0 && before(value, (*list)[at - 1]); --at) (*list)[at] = (*list)[at - 1];
  (*list)[at] = value;
}

}  // namespace

UniformLayer::UniformLayer(const LayerProblem& problem)
    : problem_(problem), pieces_(problem.cost.pieces) {}

bool UniformLayer::sort_out() {
  if (problem_.items.empty()) return false;
  const int32_t count = problem_.items.front().count;
  const auto first = [&](size_t a, size_t b) {
    const LayerItem& one = problem_.items[a];
    const LayerItem& other = problem_.items[b];
    return one.present != other.present ? one.present > other.present : one.ready < other.ready;
  };
  for (size_t i = 0; i < problem_.items.size(); ++i) {
    const LayerItem& item = problem_.items[i];
    if (item.count != count) return false;
    if (item.present == 0) {
      ++absent_;
    } else if (item.present == pieces_ && item.ready <= problem_.now.gpu) {
      ++residents_;
    } else if (n_odd_ < kMostOdd) {
      insert_sorted(&odd_, &n_odd_, i, first);
    } else {
      return false;
    }
  }
  const double piece = 1.0 / pieces_;
  cpu_ = piece * problem_.cost.cpu(count);
  cpu_shared_ = piece * problem_.cost.cpu_shared(count);
  gpu_ = piece * problem_.cost.gpu(count);
  copy_ = piece * problem_.cost.copy;
  return true;
}

void UniformLayer::Chain::then(double ready, double us) {
  least = std::max(least + us, ready + us);
  work += us;
}

bool UniformLayer::Copy::before(const Copy& b) const {
  const bool quick = copy < gpu;
  if (quick != (b.copy < b.gpu)) return quick;
  return quick ? copy < b.copy : gpu > b.gpu;
}

void UniformLayer::set_odd(const OddPieces& gpu) {
  late_ = {};
  there_ = 0;
  odd_cpu_ = 0;
  n_copies_ = 0;
  std::array<std::pair<double, double>, kMostOdd> late;  // arrival and work
  size_t n_late = 0;
  for (size_t i = 0; i < n_odd_; ++i) {
    const LayerItem& item = odd(i);
    odd_cpu_ += pieces_ - gpu[i];
    if (gpu[i] == 0) continue;
    if (gpu[i] > item.present) {
      insert_sorted(&copies_, &n_copies_, {(gpu[i] - item.present) * copy_, launched_us(gpu[i])},
                    [](const Copy& a, const Copy& b) { return a.before(b); });
    } else if (item.ready > problem_.now.gpu) {
      insert_sorted(&late, &n_late, {item.ready, launched_us(gpu[i])}, std::less<>());
    } else {
      there_ += gpu[i];
    }
  }
  for (size_t i = 0; i < n_late; ++i) late_.then(late[i].first, late[i].second);
}

void UniformLayer::copy(const Copy& one) {
  link_ += one.copy;
  chain_.then(link_, one.gpu);
}

void UniformLayer::set_fetched(int32_t pieces) {
  chain_ = late_;
  cpu_pieces_ = odd_cpu_ + (absent_ + residents_) * pieces_ - pieces;
  link_ = problem_.now.link;
  if (pieces > 0 || n_copies_ > 0) link_ += problem_.cost.copy_latency;
  const int32_t rest = pieces % pieces_;
  const Copy part{rest * copy_, launched_us(rest)};
  const Copy whole{pieces_ * copy_, launched_us(pieces_)};
  bool part_left = rest > 0;
  int32_t whole_left = pieces / pieces_;
  for (size_t i = 0; i <= n_copies_; ++i) {
    // What of the absent ones goes before the next odd one.
    const Copy* next = i < n_copies_ ? &copies_[i] : nullptr;
    for (;;) {
      const bool part_first = part_left && (whole_left == 0 || part.before(whole)) &&
                              (next == nullptr || part.before(*next));
      if (part_first) {
        copy(part);
        part_left = false;
      } else if (whole_left > 0 && (next == nullptr || !next->before(whole))) {
        copy(whole);
        --whole_left;
      } else {
        break;
      }
    }
    if (next != nullptr) copy(*next);
  }
}

double UniformLayer::gpu_end(int32_t resident) const {
  const int32_t there = there_ + resident;
  const double start = problem_.now.gpu + (there > 0 ? problem_.cost.gpu_launch + there * gpu_ : 0);
  return std::max(start + chain_.work, chain_.least);
}

double UniformLayer::cpu_end(int32_t resident) const {
  const int32_t n = cpu_pieces_ - resident;
  if (n == 0) return problem_.now.cpu;
  return problem_.now.cpu + problem_.cost.cpu_first +
         cpu_stretched(n * cpu_, n * cpu_shared_, link_ - problem_.now.cpu);
}

}  // namespace tandem
