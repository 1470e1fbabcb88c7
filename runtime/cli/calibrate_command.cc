// tandem calibrate: measures this machine's CPU, and GPU and link of a device, and writes a machine
// profile.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/calibrate/measure_cpu.h"
#include "runtime/calibrate/measure_gpu.h"
#include "runtime/calibrate/measure_sharing.h"
#include "runtime/calibrate/profile_text.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/host_facts.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/machine_profile.h"
#include "runtime/device/cpu_quota.h"
#include "runtime/device/cpu_topology.h"
#include "runtime/device/thread_count.h"
#include "runtime/engine/device_choice.h"

namespace tandem {
namespace {

struct CalibrateOptions {
  int n_threads = 0;
  std::string device = "auto";
  std::string machine{kDefaultMachine};
  std::string out;
};

// GPU and link, where the device has them, and memory that a link really shares.
void measure_device(Device& device, const MachineProfile& base, CpuWork& work,
                    const OnMeasuring& measuring, Calibration* calibration) {
  if (device.info().host_memory) return;
  const bool simulated = device.info().simulated;
  calibration->gpu =
      measure_gpu(device, simulated ? simulated_gpu_settings() : GpuSettings(), measuring);
  calibration->vram_bytes = base.gpu.vram_bytes;
  if (simulated) return;
  calibration->vram_bytes = choose_device(DeviceKind::kCuda).cuda.chosen().vram_bytes;
  calibration->shared =
      measure_sharing(device, work, calibration->gpu->h2d_gbps.median, {}, measuring);
}

// What of it was measured, for people who do not open the file.
EffectiveSetting how_line(const Calibration& calibration, const MachineProfile& base) {
  if (!calibration.gpu) {
    return {"gpu and link", "not measured", "not measured", "those of " + base.name};
  }
  const char* how = calibration.gpu->modelled ? "modelled" : "measured";
  return {"gpu and link", how, how, calibration.gpu->gpu};
}

void calibrate(const CalibrateOptions& options) {
  if (!options.out.empty()) check_writable(options.out);
  const MachineProfile base = load_machine_profile(options.machine);
  EngineSettings settings;
  settings.device = device_kind(options.device);
  const OpenDevice open = open_device(settings, base);
  const CpuTopology cpu = CpuTopology::of_this_machine();
  ThreadPool pool(thread_count(options.n_threads, cpu, cpu_quota()).n,
                  cpu.n_nodes() > 1 ? &cpu : nullptr);
  Progress progress;
  const OnMeasuring measuring = [&](const std::string& what) {
    progress.show("measuring: " + what);
  };
  CpuWork work(pool, kCpuRegionBytes);
  Calibration calibration;
  calibration.cpu_name = cpu_name();
  calibration.n_threads = pool.size();
  calibration.cpu = measure_cpu(work, measuring);
  measure_device(*open.device, base, work, measuring, &calibration);
  progress.clear();
  const std::string text = profile_text(calibration, base);
  if (options.out.empty()) {
    print_out(text);
  } else {
    write_file(options.out, text);
  }
  std::fputs(settings_text(std::array{open.setting, how_line(calibration, base)}).c_str(), stderr);
}

}  // namespace

void add_calibrate_command(CLI::App* program) {
  const auto options = std::make_shared<CalibrateOptions>();
  CLI::App* app = program->add_subcommand(
      "calibrate", "Measure this machine's CPU, GPU and link; write a machine profile");
  app->footer(
      "Example:\n  tandem calibrate --device cuda -o here.toml\n"
      "  tandem run --device cuda --machine here.toml -p Hello\n"
      "Without a GPU, GPU and link are those of --machine. Those of a simulated GPU are modelled:\n"
      "what comes out is the profile that went in. No real GPU has been calibrated yet.");
  app->add_option("--device", options->device,
                  "GPU and link to measure; sim: modelled; auto, cpu: none")
      ->type_name("auto|cpu|cuda|sim|sim-cuda")
      ->check(one_of({"auto", "cpu", "cuda", "sim", "sim-cuda"}))
      ->capture_default_str();
  app->add_option("-t,--threads", options->n_threads,
                  "CPU threads; 0: the physical cores available")
      ->type_name("N")
      ->check(whole_number(0, 512))
      ->capture_default_str();
  app->add_option("--machine", options->machine,
                  "of a simulated GPU and what is not measured: a name or a file")
      ->type_name("NAME")
      ->check(not_empty())
      ->capture_default_str();
  app->add_option("-o,--out", options->out, "file to write (default: standard output)")
      ->type_name("FILE")
      ->check(not_empty());
  app->callback([options] { calibrate(*options); });
}

}  // namespace tandem
