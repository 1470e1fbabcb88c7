#include "runtime/model/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "runtime/control_groups.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// The number behind a file's first word `key`, or the whole file where it is empty; -1: none.
int64_t number_in(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  int64_t number = 0;
  if (key.empty()) return file >> number ? number : -1;
  while (file >> word) {
    if (word == key) return file >> number ? number : -1;
  }
  return -1;
}

// What the files of a group are called, by version.
struct Names {
  const char* limit;  // "max", which is no number, is no limit
  const char* used;
  const char* prefix;  // of lines of memory.stat that count the groups below, too
};

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

int64_t left_in(const fs::path& group, const Names& names) {
  const int64_t limit = number_in(group / names.limit, "");
  const int64_t used = number_in(group / names.used, "");
  if (limit < 0 || used < 0) return kNone;
  // Not "file", which holds shared memory, too: nobody can drop that.
  int64_t files = 0;
  for (const char* list : {"active_file", "inactive_file"}) {
    const int64_t bytes = number_in(group / "memory.stat", std::string(names.prefix) + list);
    files += std::clamp<int64_t>(bytes, 0, used - files);
  }
  return std::max<int64_t>(limit - (used - files), 0);
}

int64_t kib_in(const fs::path& path, const std::string& key) {
  const int64_t kib = number_in(path, key);
  return kib >= 0 && kib <= kNone / 1024 ? kib * 1024 : -1;
}

}  // namespace

ProcessMemory process_memory(const fs::path& root) {
  const fs::path self = root / "proc/self";
  ProcessMemory memory;
  memory.resident_bytes = std::max<int64_t>(kib_in(self / "status", "VmRSS:"), 0);
  memory.peak_bytes = std::max<int64_t>(kib_in(self / "status", "VmHWM:"), memory.resident_bytes);
  memory.huge_bytes = std::max<int64_t>(kib_in(self / "smaps_rollup", "AnonHugePages:"), 0);
  return memory;
}

int64_t available_host_bytes(const fs::path& root) {
  int64_t bytes = kib_in(root / "proc/meminfo", "MemAvailable:");
  if (bytes < 0) bytes = kNone;
  for (const fs::path& group : control_groups(root)) {
    bytes = std::min(bytes, left_in(group, {"memory.max", "memory.current", ""}));
  }
  for (const fs::path& group : control_groups(root, "memory")) {
    bytes = std::min(bytes,
                     left_in(group, {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_"}));
  }
  return bytes;
}

}  // namespace tandem
