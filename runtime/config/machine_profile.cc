#include "runtime/config/machine_profile.h"

#include "runtime/config/config_file.h"
#include "runtime/config/embedded.h"
#include "runtime/config/toml_reader.h"

namespace tandem {
namespace {

constexpr double kMostGbps = 1e6;
constexpr double kMostGflops = 1e9;
constexpr double kMostUs = 1e6;
constexpr int64_t kMostTokens = 1 << 20;
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
  machine.layer_overhead_us = toml.number("layer_overhead_us", 0, kMostUs).value_or(0);
  machine.cpu.read_gbps = rate("cpu.read_gbps", kMostGbps);
  machine.cpu.gflops = rate("cpu.gflops", kMostGflops);
  machine.cpu.first_expert_us = toml.need_number("cpu.first_expert_us", 0, kMostUs);
  machine.cpu.onednn_bf16_tokens =
      toml.integer("cpu.onednn_bf16_tokens", 0, kMostTokens).value_or(0);
  machine.gpu.vram_bytes = toml.need_integer("gpu.vram_mib", 0, kMostVramMib) << 20;
  machine.gpu.read_gbps = rate("gpu.read_gbps", kMostGbps);
  machine.gpu.gflops = rate("gpu.gflops", kMostGflops);
  machine.gpu.launch_us = toml.need_number("gpu.launch_us", 0, kMostUs);
  machine.gpu.measured_on = toml.text("gpu.measured_on").value_or("");
  machine.link.h2d_gbps = rate("link.h2d_gbps", kMostGbps);
  machine.link.d2h_gbps = rate("link.d2h_gbps", kMostGbps);
  machine.link.latency_us = toml.need_number("link.latency_us", 0, kMostUs);
  toml.done();
  return machine;
}

MachineProfile load_machine_profile(const std::string& name_or_path) {
  const ConfigFile found =
      find_config_file(name_or_path, {"machine profile", "configs/machines", embedded_machines()});
  return parse_machine_profile(found.text, found.name, found.file);
}

}  // namespace tandem
