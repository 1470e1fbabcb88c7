#include "runtime/calibrate/profile_text.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem {
namespace {

// Names of processors and files, as a string or a comment of TOML can hold them.
std::string harmless(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
    if (c == '"' || c == '\\') c = '\'';
  }
  return text;
}

}  // namespace

std::string profile_text(const CpuRates& rates, const MachineProfile& base, const std::string& cpu,
                         int n_threads) {
  const std::string name = harmless(base.name);
  // Two digits behind the point, and never 0 where a rate divides.
  const auto rate = [](double value) { return fmt::format("{:.2f}", std::max(value, 0.01)); };
  std::string text =
      "# Written by tandem calibrate: the CPU's part was measured, GPU and link were not.\n";
  text += fmt::format("description = \"{}, {} threads; GPU and link of {}\"\n", harmless(cpu),
                      n_threads, name);
  text += fmt::format("dram_gbps = {}\n", rate(rates.dram_gbps));
  text += fmt::format("layer_overhead_us = {:.2f}  # {}'s\n\n", base.layer_overhead_us, name);
  text += fmt::format("[cpu]\nread_gbps = {}\ngflops = {}\nfirst_expert_us = {:.2f}\n",
                      rate(rates.read_gbps), rate(rates.gflops), rates.first_expert_us);
  text += fmt::format("onednn_bf16_tokens = {}  # 0: never; {}\n\n", rates.onednn_bf16_tokens,
                      rates.onednn);
  text += fmt::format(
      "[gpu]  # {}'s\nvram_mib = {}\nread_gbps = {}\ngflops = {}\nlaunch_us = {:.2f}\n\n", name,
      base.gpu.vram_bytes >> 20, rate(base.gpu.read_gbps), rate(base.gpu.gflops),
      base.gpu.launch_us);
  text += fmt::format("[link]  # {}'s\nh2d_gbps = {}\nd2h_gbps = {}\nlatency_us = {:.2f}\n", name,
                      rate(base.link.h2d_gbps), rate(base.link.d2h_gbps), base.link.latency_us);
  return text;
}

}  // namespace tandem
