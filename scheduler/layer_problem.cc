#include "scheduler/layer_problem.h"

#include <algorithm>

namespace tandem {
namespace {

struct Work {
  double cpu_alone = 0;
  double cpu_shared = 0;
  double gpu_there = 0;  // on experts that are there at the start
};

// Sorts the items into the three GPU groups.
Work sort_out(LayerProblem* problem) {
  const LayerCosts& cost = problem->cost;
  const double piece = 1.0 / cost.pieces;
  problem->late.clear();
  problem->fetch_order.clear();
  Work work;
  for (size_t i = 0; i < problem->items.size(); ++i) {
    const LayerItem& item = problem->items[i];
    if (item.gpu < cost.pieces) {
      const double part = (cost.pieces - item.gpu) * piece;
      work.cpu_alone += part * cost.cpu(item.count);
      work.cpu_shared += part * cost.cpu_shared(item.count);
    }
    if (item.gpu == 0) continue;
    if (item.gpu > item.present) {
      problem->fetch_order.push_back(static_cast<int32_t>(i));
    } else if (item.ready > problem->now.gpu) {
      problem->late.push_back(static_cast<int32_t>(i));
    } else {
      work.gpu_there += item.gpu * piece * cost.gpu(item.count);
    }
  }
  return work;
}

// Few, or nearly in order already: heaviest first is nearly always the order of copying.
template <typename Before>
void insertion_sort(std::vector<int32_t>* list, Before before) {
  for (size_t i = 1; i < list->size(); ++i) {
    const int32_t value = (*list)[i];
    size_t at = i;
    for (; at > 0 && before(value, (*list)[at - 1]); --at) (*list)[at] = (*list)[at - 1];
    (*list)[at] = value;
  }
}

}  // namespace

double cpu_stretched(double alone, double shared, double copying) {
  if (copying <= 0) return alone;
  if (shared <= copying) return shared;
  return alone + copying * (1 - alone / shared);
}

Clocks layer_end(LayerProblem* problem) {
  const LayerCosts& cost = problem->cost;
  const std::vector<LayerItem>& items = problem->items;
  const double piece = 1.0 / cost.pieces;
  const auto item_at = [&](int32_t i) -> const LayerItem& { return items[static_cast<size_t>(i)]; };
  const auto copy_us = [&](const LayerItem& item) {
    return (item.gpu - item.present) * piece * cost.copy;
  };
  const auto gpu_us = [&](const LayerItem& item) {
    return cost.gpu_launch + item.gpu * piece * cost.gpu(item.count);
  };

  const Work work = sort_out(problem);
  Clocks end = problem->now;
  if (work.gpu_there > 0) end.gpu += cost.gpu_launch + work.gpu_there;
  insertion_sort(&problem->late, [&](int32_t a, int32_t b) {
    return item_at(a).ready != item_at(b).ready ? item_at(a).ready < item_at(b).ready : a < b;
  });
  for (const int32_t i : problem->late) {
    end.gpu = std::max(end.gpu, item_at(i).ready) + gpu_us(item_at(i));
  }
  // Johnson: first those that copy faster than they compute, shortest copy first; then the others,
  // longest computation first.
  insertion_sort(&problem->fetch_order, [&](int32_t a, int32_t b) {
    const LayerItem& one = item_at(a);
    const LayerItem& other = item_at(b);
    // As most are: as much to copy, and the heavier one first.
    const bool alike = one.present == other.present && one.gpu == other.gpu;
    if (alike && one.count <= other.count && a > b) return false;
    const double copy_a = copy_us(one);
    const double copy_b = copy_us(other);
    const double gpu_a = gpu_us(one);
    const double gpu_b = gpu_us(other);
    const bool quick_a = copy_a < gpu_a;
    const bool quick_b = copy_b < gpu_b;
    if (quick_a != quick_b) return quick_a;
    if (quick_a && copy_a != copy_b) return copy_a < copy_b;
    if (!quick_a && gpu_a != gpu_b) return gpu_a > gpu_b;
    return a < b;
  });
  if (!problem->fetch_order.empty()) end.link += cost.copy_latency;
  for (const int32_t i : problem->fetch_order) {
    end.link += copy_us(item_at(i));
    end.gpu = std::max(end.gpu, end.link) + gpu_us(item_at(i));
  }
  if (work.cpu_alone > 0) {
    const double copying = end.link - problem->now.cpu;
    end.cpu += cost.cpu_first + cpu_stretched(work.cpu_alone, work.cpu_shared, copying);
  }
  return end;
}

}  // namespace tandem
