#include "runtime/device/cpu_quota.h"

#include <algorithm>
#include <fstream>

#include "runtime/control_groups.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// "quota period" in microseconds; "max", which is no number, is no limit.
std::optional<double> quota_in(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  for (const fs::path& group : control_groups(root)) {
    const std::optional<double> quota = quota_in(group);
    if (quota) least = std::min(*quota, least.value_or(*quota));
  }
  return least;
}

}  // namespace tandem
