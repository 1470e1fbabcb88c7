#include "bench/kernels/report.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem::bench {
namespace {

double gbps(const Case& c, double seconds) {
  return static_cast<double>(c.weight_bytes) / seconds / 1e9;
}
double gops(const Case& c, double seconds) { return static_cast<double>(c.ops) / seconds / 1e9; }

// The median of the rounds' shares: the speed of memory changes for minutes, so that only what was
// measured side by side compares.
double read_share(const Case& c, const Measured& m) {
  std::vector<double> shares;
  for (size_t i = 0; i < m.seconds.size(); ++i) {
    shares.push_back(gbps(c, m.seconds[i]) / m.read_gbps[i]);
  }
  return median(shares);
}

// The best round over the best limit: arithmetic only loses, and for moments, to other programs.
// 0 where there is no limit.
double peak_share(const Case& c, const Measured& m) {
  const double limit = *std::max_element(m.peak_gops.begin(), m.peak_gops.end());
  const double best = gops(c, *std::min_element(m.seconds.begin(), m.seconds.end()));
  return limit > 0 ? best / limit : 0;
}

std::string percent(double share) {
  return share > 0 ? fmt::format("{:.1f} %", 100 * share) : std::string("-");
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void print_table_head() {
  fmt::print(
      "| type | rows x cols | tokens | kernel | threads | microseconds (least to most) | "
      "GB/s | of reading | GOP/s | of the peak |\n|---|---|---|---|---|---|---|---|---|---|\n");
}

void print_row(const Case& c, const Measured& m) {
  const double middle = median(m.seconds);
  const auto [least, most] = std::minmax_element(m.seconds.begin(), m.seconds.end());
  fmt::print(
      "| {} | {} x {} | {} | {} | {} | {:.1f} ({:.1f} to {:.1f}) | {:.2f} | {} | {:.1f} | "
      "{} |\n",
      c.type, c.rows, c.cols, c.tokens, c.kernel, c.pool->size(), middle * 1e6, *least * 1e6,
      *most * 1e6, gbps(c, middle), percent(read_share(c, m)), gops(c, middle),
      percent(peak_share(c, m)));
  std::fflush(stdout);
}

void write_csv_head(std::FILE* file, const std::string& command) {
  if (file == nullptr) return;
  fmt::print(file, "# {}\n", command);
  fmt::print(file,
             "kernel,type,rows,cols,tokens,threads,seconds_median,seconds_min,seconds_max,reps,"
             "gbps,gops,of_read,of_peak,read_gbps,peak_gops\n");
}

void write_csv_row(std::FILE* file, const Case& c, const Measured& m) {
  if (file == nullptr) return;
  const double middle = median(m.seconds);
  const auto [least, most] = std::minmax_element(m.seconds.begin(), m.seconds.end());
  fmt::print(file,
             "{},{},{},{},{},{},{:.9f},{:.9f},{:.9f},{},{:.3f},{:.2f},{:.4f},{:.4f},{:.2f},"
             "{:.1f}\n",
             c.kernel, c.type, c.rows, c.cols, c.tokens, c.pool->size(), middle, *least, *most,
             m.seconds.size(), gbps(c, middle), gops(c, middle), read_share(c, m), peak_share(c, m),
             median(m.read_gbps), median(m.peak_gops));
  std::fflush(file);
}

}  // namespace tandem::bench
