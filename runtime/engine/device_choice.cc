#include "runtime/engine/device_choice.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/device/cpu_device.h"
#include "runtime/device/cuda_device.h"
#include "runtime/device/sim_device.h"
#include "runtime/error.h"

namespace tandem {

namespace {

constexpr const char* kUntried =
    "Tandem has been tried on no real GPU yet, tandem selftest --gpu tests it on this one";

}  // namespace

const char* device_name(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::kAuto:
      return "auto";
    case DeviceKind::kCpu:
      return "cpu";
    case DeviceKind::kCuda:
      return "cuda";
    case DeviceKind::kSim:
      return "sim";
    case DeviceKind::kSimCuda:
      return "sim-cuda";
  }
  return "?";
}

DeviceKind device_kind(std::string_view name) {
  for (const DeviceKind kind :
       {DeviceKind::kCpu, DeviceKind::kCuda, DeviceKind::kSim, DeviceKind::kSimCuda}) {
    if (name == device_name(kind)) return kind;
  }
  return DeviceKind::kAuto;
}

DeviceChoice choose_device(DeviceKind requested) {
  if (requested != DeviceKind::kAuto && requested != DeviceKind::kCuda) return {requested, "", {}};
  static const CudaProbe kCuda = probe_cuda(program_folder());
  const bool ready = kCuda.state == CudaState::kReady;
  if (requested == DeviceKind::kCuda) {
    if (ready) return {DeviceKind::kCuda, kCuda.reason + "; " + kUntried, kCuda};
    throw ConfigError(
        fmt::format("--device cuda: {}; expected an NVIDIA GPU, or --device cpu", kCuda.reason));
  }
  return {
      DeviceKind::kCpu,
      kCuda.reason + (ready ? " is there; --device cuda uses it, which has not been tried on any"
                            : "; --device sim simulates one"),
      kCuda};
}

OpenDevice open_device(const EngineSettings& settings, const MachineProfile& machine) {
  const DeviceChoice choice = choose_device(settings.device);
  EffectiveSetting line{"device", device_name(settings.device), device_name(choice.kind),
                        choice.reason};
  std::unique_ptr<Device> device;
  if (choice.kind == DeviceKind::kCuda) {
    const CudaPlugin& plugin = *choice.cuda.plugin;
    auto cuda = std::make_unique<CudaDevice>(
        machine, *plugin.runtime, *plugin.ops, choice.cuda.chosen(), choice.cuda.device,
        settings.vram_bytes, settings.vram_margin_bytes.value_or(kVramMargin));
    const HandOver& hand_over = cuda->hand_over();
    line.reason += fmt::format("; waits for the CPU by {}{}{}", hand_over_name(hand_over.kind()),
                               hand_over.reason().empty() ? "" : "; ", hand_over.reason());
    device = std::move(cuda);
  } else if (choice.kind != DeviceKind::kCpu) {
    const bool cuda = choice.kind == DeviceKind::kSimCuda;
    line.reason = "simulated GPU of machine profile " + machine.name;
    if (cuda) line.reason += "; CUDA kernels are emulated, which is slow";
    SimSettings sim = settings.sim;
    sim.kernels = cuda ? SimKernels::kEmulated : SimKernels::kHost;
    device = std::make_unique<SimDevice>(machine,
                                         settings.vram_bytes.value_or(machine.gpu.vram_bytes), sim);
  } else {
    device = std::make_unique<CpuDevice>(machine);
  }
  return {std::move(device), line};
}

EffectiveSetting machine_setting(const std::string& requested, const MachineProfile& machine,
                                 const DeviceInfo& device) {
  EffectiveSetting line{"machine", requested.empty() ? "default" : requested, machine.name,
                        machine.description};
  const std::string& measured = machine.gpu.measured_on;
  if (device.host_memory || device.simulated) return line;
  if (measured == device.description) {
    line.reason += "; measured on this GPU";
    return line;
  }
  line.reason +=
      measured.empty() ? "; not measured on this GPU" : "; measured on another GPU, " + measured;
  line.reason +=
      ": what runs where is planned for that machine; tandem calibrate --device cuda -o FILE "
      "measures this one, and --machine FILE uses it";
  return line;
}

}  // namespace tandem
