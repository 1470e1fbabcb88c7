#include "bench/scheduling/table.h"

#include <algorithm>
#include <cmath>

namespace tandem::bench {

void RatioTable::add(const std::vector<std::string>& groups,
                     const std::map<std::string, double>& speeds) {
  for (const std::string& group : groups) {
    if (std::find(groups_.begin(), groups_.end(), group) == groups_.end()) groups_.push_back(group);
  }
  cells_.push_back({groups, speeds});
}

double RatioTable::mean(const std::string& group, const std::string& a,
                        const std::string& b) const {
  double sum = 0;
  int64_t n = 0;
  for (const Cell& cell : cells_) {
    if (std::find(cell.groups.begin(), cell.groups.end(), group) == cell.groups.end()) continue;
    if (cell.speeds.count(a) == 0 || cell.speeds.count(b) == 0) continue;
    sum += std::log(cell.speeds.at(a) / cell.speeds.at(b));
    ++n;
  }
  return n > 0 ? std::exp(sum / static_cast<double>(n)) : 0;
}

std::pair<double, std::string> RatioTable::least(const std::string& a, const std::string& b) const {
  std::pair<double, std::string> least{1e300, ""};
  for (const Cell& cell : cells_) {
    const double ratio = cell.speeds.at(a) / cell.speeds.at(b);
    if (ratio >= least.first) continue;
    least = {ratio, ""};
    for (const std::string& group : cell.groups) {
      if (group != cell.groups.front()) least.second += group + ", ";
    }
  }
  if (!least.second.empty()) least.second.resize(least.second.size() - 2);
  return least;
}

double RatioTable::share(const std::string& group, const std::string& a, const std::string& b,
                         const std::string& best) const {
  const double all = std::log(std::max(mean(group, best, b), 1e-9));
  return all > 0 ? std::log(mean(group, a, b)) / all : 0;
}

size_t RatioTable::cells(const std::string& group) const {
  return static_cast<size_t>(std::count_if(cells_.begin(), cells_.end(), [&](const Cell& cell) {
    return std::find(cell.groups.begin(), cell.groups.end(), group) != cell.groups.end();
  }));
}

}  // namespace tandem::bench
