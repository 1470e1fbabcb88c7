#include "runtime/device/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <string>

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

// Below the mount point; empty where the process has no group of version 2.
std::string own_group(const fs::path& root) {
  const std::string version2 = "0::/";
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(version2, 0) == 0) return line.substr(version2.size());
  }
  return "";
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  const fs::path top = root / "sys/fs/cgroup";
  std::optional<double> least = quota_in(top);
  fs::path group = top;
  for (const fs::path& name : fs::path(own_group(root))) {
    group /= name;
    const std::optional<double> quota = quota_in(group);
    if (quota) least = std::min(*quota, least.value_or(*quota));
  }
  return least;
}

}  // namespace tandem
