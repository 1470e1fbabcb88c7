// Random placement problems, and what a placement takes, worked out without the scheduler's code:
// every order of copying is tried, and the CPU's work flows at two rates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "scheduler/layer_problem.h"

namespace tandem::test {

class Dice {
 public:
  explicit Dice(uint32_t seed) : random_(seed) {}
  int below(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  int from(int least, int most) { return least + below(most - least + 1); }
  double real(double least, double most) {
    return least + (most - least) * static_cast<double>(random_()) * 0x1p-32;
  }

 private:
  std::mt19937 random_;
};

// Costs from a wide range: links faster and slower than the CPU, GPUs hardly faster than it.
inline LayerCosts random_costs(Dice* dice, int most_pieces) {
  LayerCosts c;
  c.pieces = dice->from(1, most_pieces);
  c.cpu_read = dice->real(20, 300);
  c.cpu_read_shared = c.cpu_read * dice->real(1, 3);
  c.cpu_token = dice->real(1, 60);
  c.cpu_first = dice->real(0, 10);
  c.gpu_read = dice->real(2, 60);
  c.gpu_token = dice->real(0.1, 5);
  c.gpu_launch = dice->real(0, 8);
  c.copy = dice->real(20, 300);
  c.copy_latency = dice->real(0, 10);
  return c;
}

inline LayerProblem random_problem(Dice* dice, int most_experts, int most_tokens, int most_pieces) {
  LayerProblem p;
  p.cost = random_costs(dice, most_pieces);
  const double t = 1000;
  p.now = {t, t + dice->real(0, 100), t + (dice->below(2) == 0 ? 0 : dice->real(0, 300))};
  p.room = dice->below(most_experts + 1);
  p.items.resize(static_cast<size_t>(dice->from(1, most_experts)));
  for (LayerItem& item : p.items) {
    item.count = dice->from(1, most_tokens);
    const int kind = dice->below(4);
    item.present = kind < 2 ? 0 : kind == 2 ? p.cost.pieces : dice->from(0, p.cost.pieces);
    if (item.present > 0 && dice->below(2) == 0) item.ready = dice->real(t, p.now.link);
  }
  std::stable_sort(p.items.begin(), p.items.end(),
                   [](const LayerItem& a, const LayerItem& b) { return a.count > b.count; });
  return p;
}

struct BruteEnd {
  double makespan = 1e300;
  double link = 0;
};

// gpu[i]: pieces of item i on the GPU.
inline BruteEnd brute_end(const LayerProblem& p, const std::vector<int>& gpu) {
  const double pieces = p.cost.pieces;
  const auto gpu_us = [&](size_t i) {
    return gpu[i] / pieces * std::max(p.cost.gpu_read, p.items[i].count * p.cost.gpu_token);
  };
  double start = p.now.gpu;
  double there = 0;
  double alone = 0;
  double shared = 0;
  std::vector<std::pair<double, size_t>> late;
  std::vector<size_t> copies;
  for (size_t i = 0; i < p.items.size(); ++i) {
    const LayerItem& item = p.items[i];
    const double rest = (pieces - gpu[i]) / pieces;
    alone += rest * std::max(p.cost.cpu_read, item.count * p.cost.cpu_token);
    shared += rest * std::max(p.cost.cpu_read_shared, item.count * p.cost.cpu_token);
    if (gpu[i] > item.present) copies.push_back(i);
    if (gpu[i] == 0 || gpu[i] > item.present) continue;
    if (item.ready <= p.now.gpu) {
      there += gpu_us(i);
    } else {
      late.emplace_back(item.ready, i);
    }
  }
  if (there > 0) start += p.cost.gpu_launch + there;
  std::sort(late.begin(), late.end());
  for (const auto& [ready, i] : late) {
    start = std::max(start, ready) + p.cost.gpu_launch + gpu_us(i);
  }
  BruteEnd best;
  do {
    double end = start;
    double link = p.now.link + (copies.empty() ? 0 : p.cost.copy_latency);
    for (const size_t i : copies) {
      link += (gpu[i] - p.items[i].present) / pieces * p.cost.copy;
      end = std::max(end, link) + p.cost.gpu_launch + gpu_us(i);
    }
    double cpu = p.now.cpu;
    if (alone > 0) {
      const double copying = std::max(0.0, link - p.now.cpu);
      const double done = copying * alone / shared;  // of the work alone, while copies run
      cpu += p.cost.cpu_first + (done >= alone ? shared : copying + (alone - done));
    }
    const double makespan = std::max(cpu, end);
    if (makespan < best.makespan) best = {makespan, link};
  } while (std::next_permutation(copies.begin(), copies.end()));
  return best;
}

inline std::vector<int> chosen(const LayerProblem& p) {
  std::vector<int> gpu;
  for (const LayerItem& item : p.items) gpu.push_back(item.gpu);
  return gpu;
}

}  // namespace tandem::test
