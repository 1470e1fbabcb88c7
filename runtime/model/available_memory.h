// How much memory this process can still get.
#pragma once

#include <cstdint>
#include <filesystem>

namespace tandem {

// What this process can still get without swapping: the system's estimate (MemAvailable), or less
// where its control group or one above limits it (both versions): the limit less what is used,
// files apart that the system would drop for it. The largest int64 where the system does not say.
// root: where /proc and /sys are looked for.
int64_t available_host_bytes(const std::filesystem::path& root = "/");

}  // namespace tandem
