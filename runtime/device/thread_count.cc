#include "runtime/device/thread_count.h"

#include <fmt/format.h>

#include <cmath>

namespace tandem {

ThreadCount thread_count(int requested, const CpuTopology& cpu, std::optional<double> quota) {
  const bool limited = quota && *quota < cpu.cores();
  const std::string limit = limited ? fmt::format("a cpu quota of {:.3g} cores", *quota) : "";
  if (requested == 0) {
    if (!limited) return {cpu.cores(), cpu.text()};
    return {static_cast<int>(std::ceil(*quota)), limit + "; " + cpu.text()};
  }
  if (requested > cpu.cores()) return {requested, "more than there are: " + cpu.text()};
  if (limited && requested > std::ceil(*quota)) {
    return {requested, "more than " + limit + "; " + cpu.text()};
  }
  return {requested, cpu.text()};
}

}  // namespace tandem
