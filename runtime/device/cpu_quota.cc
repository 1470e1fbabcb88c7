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

// The same of version 1, where -1 is no limit.
std::optional<double> quota_in_version1(const fs::path& group) {
  std::ifstream quota_file(group / "cpu.cfs_quota_us");
  std::ifstream period_file(group / "cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0) {
    return std::nullopt;
  }
  return quota / period;
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  const auto limit = [&](const std::optional<double>& quota) {
    if (quota) least = std::min(*quota, least.value_or(*quota));
  };
  for (const fs::path& group : control_groups(root)) limit(quota_in(group));
  for (const fs::path& group : control_groups(root, "cpu")) limit(quota_in_version1(group));
  return least;
}

}  // namespace tandem
