// How much of the processor a control group leaves to this process.
#pragma once

#include <filesystem>
#include <optional>

namespace tandem {

// CPU time per time, in cores: the smallest limit of the process's own control group and of those
// above it (both versions; a container sees its own at the top). nullopt: none is set, or the
// system does not say. root: where /proc and /sys are looked for.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace tandem
