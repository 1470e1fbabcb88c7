// The control groups that this process is in: their limits count besides those of the machine.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Folders of the groups from the top down to the process's own, of version 2 ("") or of a
// controller of version 1 ("memory"). Not all need be there: a container sees its own group at the
// top. root: where /proc and /sys are looked for.
inline std::vector<std::filesystem::path> control_groups(const std::filesystem::path& root,
                                                         std::string_view controller = "") {
  std::vector<std::filesystem::path> folders{root / "sys/fs/cgroup" / controller};
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // "id:controllers:/path"; version 2 has no controllers there.
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 1 >= line.size()) continue;
    const std::string named = ',' + line.substr(first + 1, second - first - 1) + ',';
    if (named.find(',' + std::string(controller) + ',') == std::string::npos) continue;
    std::filesystem::path folder = folders.front();
    for (const auto& name : std::filesystem::path(line.substr(second + 2))) {
      folder /= name;
      folders.push_back(folder);
    }
    break;
  }
  return folders;
}

}  // namespace tandem
