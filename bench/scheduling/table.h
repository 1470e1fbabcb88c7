// Geometric means of ratios, grouped in several ways at once.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tandem::bench {

class RatioTable {
 public:
  // Adds the speeds of one cell to each of its groups. speeds: by system.
  void add(const std::vector<std::string>& groups, const std::map<std::string, double>& speeds);
  // Geometric mean over a group's cells of speed(a) / speed(b); 0 without cells.
  double mean(const std::string& group, const std::string& a, const std::string& b) const;
  // The smallest such ratio over all cells, and its cell: the cell's groups.
  std::pair<double, std::string> least(const std::string& a, const std::string& b) const;
  // a's share of the gain of `best` over b, as a share of logarithms; at most 1 digit matters.
  double share(const std::string& group, const std::string& a, const std::string& b,
               const std::string& best) const;
  const std::vector<std::string>& groups() const { return groups_; }
  size_t cells(const std::string& group) const;

 private:
  struct Cell {
    std::vector<std::string> groups;
    std::map<std::string, double> speeds;
  };
  std::vector<std::string> groups_;  // by first appearance
  std::vector<Cell> cells_;
};

}  // namespace tandem::bench
