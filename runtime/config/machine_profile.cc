#include "runtime/config/machine_profile.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "runtime/config/embedded.h"
#include "runtime/config/toml_reader.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr double kMostGbps = 1e6;
constexpr double kMostGflops = 1e9;
constexpr double kMostUs = 1e6;
constexpr int64_t kMostVramMib = 1 << 24;

}  // namespace

MachineProfile parse_machine_profile(std::string_view text, const std::string& name,
                                     const std::string& file) {
  TomlReader toml(text, file);
  // Rates divide, so they are positive; a thousandth is as slow as anything gets.
  const auto rate = [&](std::string_view key, double most) {
    return toml.need_number(key, 1e-3, most);
  };
  MachineProfile machine;
  machine.name = name;
  machine.description = toml.text("description").value_or(name);
  machine.dram_gbps = rate("dram_gbps", kMostGbps);
  machine.cpu.read_gbps = rate("cpu.read_gbps", kMostGbps);
  machine.cpu.gflops = rate("cpu.gflops", kMostGflops);
  machine.cpu.first_expert_us = toml.need_number("cpu.first_expert_us", 0, kMostUs);
  const auto vram_mib = toml.integer("gpu.vram_mib", 0, kMostVramMib);
  if (!vram_mib) toml.fail("gpu.vram_mib", "is missing");
  machine.gpu.vram_bytes = *vram_mib << 20;
  machine.gpu.read_gbps = rate("gpu.read_gbps", kMostGbps);
  machine.gpu.gflops = rate("gpu.gflops", kMostGflops);
  machine.gpu.launch_us = toml.need_number("gpu.launch_us", 0, kMostUs);
  machine.link.h2d_gbps = rate("link.h2d_gbps", kMostGbps);
  machine.link.d2h_gbps = rate("link.d2h_gbps", kMostGbps);
  machine.link.latency_us = toml.need_number("link.latency_us", 0, kMostUs);
  toml.done();
  return machine;
}

MachineProfile load_machine_profile(const std::string& name_or_path) {
  for (const EmbeddedFile& file : embedded_machines()) {
    if (file.name == name_or_path) {
      return parse_machine_profile(file.text, name_or_path,
                                   fmt::format("configs/machines/{}.toml", name_or_path));
    }
  }
  const std::filesystem::path path(name_or_path);
  if (name_or_path.find('/') == std::string::npos && path.extension() != ".toml") {
    std::string known;
    for (const EmbeddedFile& file : embedded_machines()) {
      known += fmt::format("{}{}", known.empty() ? "" : ", ", file.name);
    }
    throw ConfigError(fmt::format("machine profile \"{}\" is not built in; expected {}, or a file",
                                  name_or_path, known));
  }
  // Looked at before it is read: reading a folder throws, and a device may never end.
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    throw FileError(name_or_path, "is not a file");
  }
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof()) throw FileError(name_or_path, "cannot be read");
  return parse_machine_profile(text, path.stem().string(), name_or_path);
}

}  // namespace tandem
