#include "runtime/calibrate/profile_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "runtime/words.h"

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

// "key = 12.34  # source"
std::string line(std::string_view key, double value, const std::string& source) {
  return fmt::format("{} = {:.2f}  # {}\n", key, value, source);
}
// Of a simulation there is one of each: they are all the same.
std::string spread_text(const Spread& s) {
  if (s.n == 1) return "";
  return fmt::format("; {} repeats, quartiles {:.2f} and {:.2f}", s.n, s.low, s.high);
}
std::string time_line(std::string_view key, const Spread& us, const std::string& source) {
  return line(key, us.median, source + spread_text(us));
}
// Never 0 where a rate divides.
std::string rate_line(std::string_view key, Spread rate, const std::string& source) {
  rate.median = std::max(rate.median, 0.01);
  return time_line(key, rate, source);
}

class ProfileText {
 public:
  ProfileText(const Calibration& measured, const MachineProfile& base)
      : m_(measured), base_(base), others_(harmless(base.name) + "'s") {
    if (m_.gpu) {
      gpu_ = harmless(m_.gpu->gpu);
      how_ = m_.gpu->modelled ? "modelled" : "measured";
    }
  }

  std::string all() const {
    return header() + memory() + "\n" + cpu() + "\n" + gpu() + "\n" + link();
  }

 private:
  std::string header() const {
    if (!m_.gpu) {
      return "# Written by tandem calibrate: the CPU's part was measured, GPU and link were not.\n"
             "# Medians of repeats, with the quartiles on either side.\n" +
             description(fmt::format("GPU and link of {}", harmless(base_.name)));
    }
    std::string text =
        m_.gpu->modelled
            ? fmt::format(
                  "# Written by tandem calibrate: the CPU's part was measured. GPU and link "
                  "are modelled, not measured,\n# on a {}.\n",
                  gpu_)
            : fmt::format(
                  "# Written by tandem calibrate: CPU, GPU and link were measured, with "
                  "{}.\n# Calibration had run on no real GPU when this program was built: "
                  "look at the figures before you trust them.\n",
                  gpu_);
    text += "# Medians of repeats, with the quartiles on either side.\n# " + warm_up() + "\n";
    return text + description(m_.gpu->modelled
                                  ? fmt::format("GPU and link modelled, {}'s", harmless(base_.name))
                                  : gpu_ + ", measured");
  }

  std::string description(const std::string& gpu) const {
    return fmt::format("description = \"{}, {} threads; {}\"\n", harmless(m_.cpu_name),
                       m_.n_threads, gpu);
  }

  std::string warm_up() const {
    const WarmUp& link = m_.gpu->link_warm_up;
    if (link.seconds == 0) return "Nothing was warmed up: a simulated GPU is never cold.";
    return fmt::format(
        "Warmed up: the link by copies to the GPU for {:.2f} s ({}), the GPU by "
        "experts for {:.2f} s.",
        link.seconds, bytes_text(link.bytes), m_.gpu->kernels_warm_up_seconds);
  }

  std::string memory() const {
    std::string text;
    if (m_.shared) {
      text = rate_line("dram_gbps", m_.shared->dram_gbps,
                       fmt::format("measured: experts on the CPU at {:.2f} beside copies to the "
                                   "GPU at {:.2f}",
                                   m_.shared->cpu_gbps.median, m_.shared->link_gbps.median));
    } else {
      text = rate_line("dram_gbps", m_.cpu.dram_gbps,
                       "measured: the CPU alone, not beside copies to a GPU");
    }
    if (m_.gpu && !m_.gpu->modelled) {
      return text +
             time_line("layer_overhead_us", m_.gpu->hand_over_us,
                       "measured: a hand-over alone, 8 KiB to the CPU, which waits, and back");
    }
    return text + line("layer_overhead_us", base_.layer_overhead_us, others_);
  }

  std::string cpu() const {
    std::string text = "[cpu]\n";
    text += rate_line("read_gbps", m_.cpu.read_gbps, "measured: eight experts in Q4_K, one token");
    text += rate_line("gflops", m_.cpu.gflops, "measured: the same with 64 tokens each");
    text +=
        time_line("first_expert_us", m_.cpu.first_expert_us, "measured: waking sleeping workers");
    return text + fmt::format("onednn_bf16_tokens = {}  # 0: never; {}\n",
                              m_.cpu.onednn_bf16_tokens, harmless(m_.cpu.onednn));
  }

  std::string gpu() const {
    if (!m_.gpu) {
      return fmt::format("[gpu]\nvram_mib = {}  # {}\n", base_.gpu.vram_bytes >> 20, others_) +
             line("read_gbps", base_.gpu.read_gbps, others_) +
             line("gflops", base_.gpu.gflops, others_) +
             line("launch_us", base_.gpu.launch_us, others_);
    }
    const GpuRates& g = *m_.gpu;
    const auto& s = g.settings.experts;
    std::string text = "[gpu]\n";
    if (!g.modelled) text += fmt::format("measured_on = \"{}\"\n", gpu_);
    text += fmt::format("vram_mib = {}  # all there is\n", m_.vram_bytes >> 20);
    text += rate_line(
        "read_gbps", g.read_gbps,
        fmt::format("{}: {} in Q4_K of [{}, {}], one token; one large BF16 product "
                    "reads at {:.2f}",
                    how_, count_text(s.n_experts, "expert"), s.ff, s.d, g.product_gbps.median));
    text += rate_line(
        "gflops", g.gflops,
        fmt::format("{}: {} with {} tokens each{}", how_,
                    count_text(g.settings.many_experts, "such expert"), g.settings.many_tokens,
                    g.many_read ? ", of which reading took the most: at least" : ""));
    return text +
           time_line("launch_us", g.launch_us,
                     fmt::format("{}: {} tiny kernels in a row", how_, g.settings.n_kernels));
  }

  std::string link() const {
    if (!m_.gpu) {
      return "[link]\n" + line("h2d_gbps", base_.link.h2d_gbps, others_) +
             line("d2h_gbps", base_.link.d2h_gbps, others_) +
             line("latency_us", base_.link.latency_us, others_);
    }
    const GpuRates& g = *m_.gpu;
    const std::string copies =
        fmt::format("{}: page-locked copies of {}", how_, bytes_text(g.settings.copy_bytes));
    return "[link]\n" + rate_line("h2d_gbps", g.h2d_gbps, copies) +
           rate_line("d2h_gbps", g.d2h_gbps, copies) +
           time_line("latency_us", g.latency_us,
                     how_ + ": until a kernel starts behind a copy of 4 KiB");
  }

  static std::string count_text(int n, const std::string& what) {
    return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
  }

  const Calibration& m_;
  const MachineProfile& base_;
  std::string others_;
  std::string gpu_;
  std::string how_;
};

}  // namespace

std::string profile_text(const Calibration& measured, const MachineProfile& base) {
  return ProfileText(measured, base).all();
}

}  // namespace tandem
