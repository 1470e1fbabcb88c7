// How much memory this process has, and can still get.
#pragma once

#include <cstdint>
#include <filesystem>

namespace tandem {

// What this process can still get without swapping: the system's estimate (MemAvailable), or less
// where its control group or one above limits it (both versions): the limit less what is used,
// files apart that the system would drop for it. The largest int64 where the system does not say.
// root: where /proc and /sys are looked for.
int64_t available_host_bytes(const std::filesystem::path& root = "/");

// Of this process, pages of mapped files among it; 0 where the system does not say.
struct ProcessMemory {
  int64_t resident_bytes = 0;
  int64_t peak_bytes = 0;  // the most that was ever resident
  int64_t huge_bytes = 0;  // resident in huge pages
};
ProcessMemory process_memory(const std::filesystem::path& root = "/");

}  // namespace tandem
