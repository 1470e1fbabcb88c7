// tandem selftest: whether a GPU does what Tandem needs of it, and how fast.
#include <fmt/format.h>

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/selftest_report.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/machine_profile.h"
#include "runtime/device/cuda_device.h"
#include "runtime/device/cuda_probe.h"
#include "runtime/device/sim_device.h"
#include "runtime/error.h"
#include "runtime/selftest/device_checks.h"
#include "runtime/selftest/kernel_checks.h"

namespace tandem {
namespace {

constexpr int kExitFailed = 1;
constexpr int64_t kSimulatedVram = int64_t{256} << 20;
constexpr int64_t kSimulatedCopy = 256 << 10;  // takes no time whatever its length
constexpr int64_t kPinned = 8 << 20;

struct SelftestOptions {
  bool gpu = false;
  std::string device = "cuda";
  std::string json_file;  // empty: standard output
  bool json = false;
};

std::unique_ptr<Device> open_sim(SelftestReport::Gpu* gpu) {
  SimSettings settings;
  settings.kernels = SimKernels::kEmulated;
  auto device = std::make_unique<SimDevice>(load_machine_profile(std::string(kDefaultMachine)),
                                            kSimulatedVram, settings);
  gpu->name = device->info().description;
  gpu->simulated = true;
  gpu->vram_bytes = gpu->vram_free_bytes = kSimulatedVram;
  return device;
}

// hand_over: as CudaDevice's. ConfigError where there is no GPU.
std::unique_ptr<CudaDevice> open_cuda(SelftestReport::Gpu* gpu,
                                      std::optional<HandOverKind> hand_over = {}) {
  const CudaProbe probe = probe_cuda(program_folder());
  gpu->driver_version = probe.driver_version;
  gpu->runtime_version = probe.runtime_version;
  if (!probe.devices.empty()) {
    gpu->name = probe.chosen().name;
    gpu->sm = probe.chosen().sm;
    gpu->vram_bytes = probe.chosen().vram_bytes;
  }
  if (probe.state != CudaState::kReady) {
    throw ConfigError(fmt::format("--device cuda: {}; expected an NVIDIA GPU, or --device sim-cuda",
                                  probe.reason));
  }
  const CudaDeviceFacts& facts = probe.chosen();
  auto device = std::make_unique<CudaDevice>(load_machine_profile(std::string(kDefaultMachine)),
                                             *probe.plugin->runtime, *probe.plugin->ops, facts,
                                             probe.device, std::nullopt, kVramMargin, hand_over);
  // An error leaves what the device's facts say.
  static_cast<void>(probe.plugin->runtime->memory(&gpu->vram_free_bytes, &gpu->vram_bytes));
  return device;
}

void run_checks(Device& device, std::span<std::byte> to_pin, Progress* progress,
                SelftestReport* report) {
  const bool real = !report->gpu.simulated;
  std::vector<Check>* checks = &report->device_checks;
  CheckRun run([&](const Check& check) { checks->push_back(check); },
               [&](const std::string& what) { progress->show("checking: " + what); });
  DeviceCheckSettings settings;
  settings.to_pin = to_pin;
  if (!real) settings.long_copy_bytes = kSimulatedCopy;
  run_device_checks(device, settings, &run);
  checks = &report->kernel_checks;
  run_kernel_checks(device, *device.kernels(), {real}, &run);
  if (!real) report->probe_skipped = "skipped: times of a simulation mean nothing";
  if (run.lost()) report->probe_skipped = "skipped: the device is lost";
}

void run_probe(Device& device, Progress* progress, SelftestReport* report) {
  try {
    probe_bandwidth(device, {}, [&](const Figure& figure) {
      progress->show(figure.name);
      report->figures.push_back(figure);
    });
  } catch (const DeviceError& error) {
    report->probe_failed = true;
    report->probe_skipped = error.what();
  }
}

// Each way of waiting for the host, on a device of its own.
void probe_hand_overs(Progress* progress, SelftestReport* report) {
  const auto add = [&](const Figure& figure) {
    progress->show(figure.name);
    report->figures.push_back(figure);
  };
  for (const HandOverKind kind : {HandOverKind::kMemoryOperation, HandOverKind::kHostFunction,
                                  HandOverKind::kSpinKernel, HandOverKind::kHostWaits}) {
    SelftestReport::Gpu unused;
    const std::string name = hand_over_name(kind);
    try {
      const auto device = open_cuda(&unused, kind);
      if (device->hand_over().kind() == kind) {
        probe_hand_over(*device, name, {}, add);
      } else {
        add({"hand-over of host work by " + name, 0, {}, device->hand_over().reason()});
      }
    } catch (const Error& error) {
      add({"hand-over of host work by " + name, 0, {}, error.what()});
    }
  }
}

std::unique_ptr<Device> open(const std::string& name, SelftestReport::Gpu* gpu) {
  gpu->device = name;
  try {
    if (name == "cuda") return open_cuda(gpu);
    return open_sim(gpu);
  } catch (const Error& error) {
    gpu->problem = error.what();
    throw;
  }
}

// What cannot be opened is in the report, and thrown.
void selftest(const std::string& device_name, SelftestReport* to) {
  SelftestReport& report = *to;
  const auto start = std::chrono::steady_clock::now();
  Progress progress;
  std::vector<std::byte> to_pin(kPinned);  // outlives the device
  const std::unique_ptr<Device> device = open(device_name, &report.gpu);
  run_checks(*device, to_pin, &progress, &report);
  if (report.probe_skipped.empty()) run_probe(*device, &progress, &report);
  if (report.probe_skipped.empty()) probe_hand_overs(&progress, &report);
  progress.clear();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  report.seconds = seconds.count();
}

void run_selftest(const SelftestOptions& options, int* exit_code) {
  if (!options.gpu) throw ConfigError("selftest: nothing to test; expected --gpu");
  if (!options.json_file.empty()) check_writable(options.json_file);
  SelftestReport report;
  std::exception_ptr failure;
  try {
    selftest(options.device, &report);
  } catch (const Error&) {
    failure = std::current_exception();
  }
  const std::string json =
      options.json ? json_text(selftest_json(report), 2) + "\n" : std::string();
  if (!options.json_file.empty()) write_file(options.json_file, json);
  const bool to_screen = options.json && options.json_file.empty();
  if (to_screen || !failure) print_out(to_screen ? json : selftest_text(report));
  if (failure) std::rethrow_exception(failure);
  if (!report.ok()) *exit_code = kExitFailed;
}

}  // namespace

void add_selftest_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<SelftestOptions>();
  CLI::App* app =
      program->add_subcommand("selftest", "Test a GPU: its kernels, its copies, its speed");
  app->footer("Example:\n  tandem selftest --gpu --json report.json");
  app->add_flag("--gpu", options->gpu, "test the GPU");
  app->add_option("--device", options->device,
                  "cuda: the real one; sim-cuda: the same kernels, emulated")
      ->type_name("cuda|sim-cuda")
      ->check(one_of({"cuda", "sim-cuda"}))
      ->capture_default_str();
  CLI::Option* json =
      app->add_option("--json", options->json_file,
                      "write a report for bug reports (default: to standard output)")
          ->type_name("[FILE]")
          ->expected(0, 1);
  app->callback([options, json, exit_code] {
    options->json = json->count() > 0;
    run_selftest(*options, exit_code);
  });
}

}  // namespace tandem
