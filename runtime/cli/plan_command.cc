// tandem plan: what memory a run would take, and what would become of its settings.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/engine/device_choice.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/shape_choice.h"
#include "runtime/error.h"
#include "runtime/model/available_memory.h"
#include "runtime/words.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

struct PlanOptions {
  ModelOptions model;
  bool json = false;
};

struct PlannedRun {
  DeviceInfo device;
  MemoryPlan memory;
  int64_t n_experts = 0;  // of all layers
  int64_t packed_bytes = 0;
  int64_t unpacked_bytes = 0;
  std::vector<EffectiveSetting> settings;
  std::string advice;  // where it does not fit
};

// Who names VRAM and no device asks what a GPU with it would hold.
bool means_a_gpu(const ModelOptions& options) {
  return options.device == "auto" && options.vram_mib >= 0;
}

PlannedRun plan_run(const ModelOptions& given) {
  ModelOptions options = given;
  if (means_a_gpu(given)) options.device = device_name(DeviceKind::kSim);
  const Model model = options.plan_model();
  const MachineProfile machine = options.machine();
  const EngineSettings settings = options.engine_settings();
  std::vector<EffectiveSetting> lines;
  OpenDevice open = open_device(settings, machine);
  if (means_a_gpu(given)) {
    open.setting.requested = given.device;
    open.setting.reason = "--vram is of a GPU; a run uses one if it is named by --device";
  }
  const Device* const device = open.device.get();
  lines.push_back(open.setting);
  const EngineShape shape = choose_shape(model, machine, settings, *device, &lines);
  const ModelConfig& config = model.config();
  PlannedRun run{device->info(),
                 plan_memory(model, *device, machine, shape, cache_wish(settings)),
                 config.n_layers * config.routing.n_experts,
                 model.packed_size(),
                 model.unpacked_bytes(options.pack_scope()),
                 {},
                 memory_advice(settings, device->info(), shape.n_ctx)};
  lines.push_back(slots_setting(settings, config, run.device, run.memory.n_slots,
                                run.memory.device_bytes - run.memory.slots_bytes));
  run.settings = options.effective(std::move(lines), run.device, model, machine);
  return run;
}

// Parts of host memory, in plain words.
std::vector<TaggedBytes> host_parts(const PlannedRun& run) {
  const bool real = !run.memory.host_memory && !run.device.simulated;
  std::vector<TaggedBytes> parts;
  const auto add = [&](const std::string& what, int64_t bytes) {
    if (bytes > 0) parts.push_back({what, bytes});
  };
  add(real ? "weights, packed, page-locked" : "weights, packed", run.packed_bytes);
  add("weights as in the file", run.unpacked_bytes);
  if (run.memory.host_memory) {
    for (const TaggedBytes& part : run.memory.device) add(part.tag, part.bytes);
  }
  const char* staging = run.memory.host_memory ? "beside: " : real ? "page-locked: " : "staging: ";
  for (const TaggedBytes& part : run.memory.locked) add(staging + part.tag, part.bytes);
  for (const TaggedBytes& part : run.memory.host) add("CPU's experts: " + part.tag, part.bytes);
  return parts;
}

int64_t total(const std::vector<TaggedBytes>& parts) {
  int64_t bytes = 0;
  for (const TaggedBytes& part : parts) bytes += part.bytes;
  return bytes;
}

int64_t missing_bytes(const MemoryPlan& memory) {
  return memory.fits() ? 0 : memory.device_bytes - memory.vram_bytes;
}

std::string row(const std::string& what, int64_t bytes, const std::string& note = "") {
  return fmt::format("  {:<30} {:>12}{}{}\n", what, bytes_text(bytes), note.empty() ? "" : "  ",
                     note);
}

std::string slots_note(const PlannedRun& run) {
  const MemoryPlan& memory = run.memory;
  if (memory.n_slots == 0) return fmt::format("none of {} experts", run.n_experts);
  return fmt::format("{} x {}, {:.1f} % of {} experts", memory.n_slots,
                     bytes_text(memory.slots_bytes / memory.n_slots),
                     100.0 * memory.n_slots / static_cast<double>(run.n_experts), run.n_experts);
}

std::string device_text(const PlannedRun& run) {
  const MemoryPlan& memory = run.memory;
  std::string text =
      fmt::format("memory of device {}: {}\n", run.device.name, bytes_text(memory.vram_bytes));
  for (const TaggedBytes& part : memory.device) text += row(part.tag, part.bytes);
  text += row(kSlotsTag, memory.slots_bytes, slots_note(run));
  return text + (memory.fits() ? row("free", memory.vram_bytes - memory.device_bytes)
                               : row("missing", missing_bytes(memory), "it does not fit"));
}

std::string text_of(const PlannedRun& run) {
  std::string text = run.memory.host_memory ? "" : device_text(run) + "\n";
  const std::vector<TaggedBytes> host = host_parts(run);
  text += "host memory\n";
  for (const TaggedBytes& part : host) text += row(part.tag, part.bytes);
  text +=
      row("in all", total(host), fmt::format("{} available", bytes_text(available_host_bytes())));
  return text + "\nsettings\n" + settings_text(run.settings);
}

Json parts_json(const std::vector<TaggedBytes>& parts) {
  Json json = Json::object();
  for (const TaggedBytes& part : parts) json[part.tag] = part.bytes;
  return json;
}

Json json_of(const PlannedRun& run) {
  const MemoryPlan& memory = run.memory;
  Json json;
  if (!memory.host_memory) {
    json["device"] = {
        {"name", run.device.name},
        {"vram_bytes", memory.vram_bytes},
        {"parts", parts_json(memory.device)},
        {"expert_slots",
         {{"count", memory.n_slots}, {"experts", run.n_experts}, {"bytes", memory.slots_bytes}}},
        {"used_bytes", memory.device_bytes},
        {"fits", memory.fits()}};
  }
  const std::vector<TaggedBytes> host = host_parts(run);
  json["host"] = {{"parts", parts_json(host)},
                  {"used_bytes", total(host)},
                  {"available_bytes", available_host_bytes()}};
  json["settings"] = settings_json(run.settings);
  return json;
}

void plan(const PlanOptions& options) {
  const PlannedRun run = plan_run(options.model);
  print_out(options.json ? json_text(json_of(run), 2) + "\n" : text_of(run));
  if (run.memory.fits()) return;
  throw MemoryError(fmt::format("{} of device memory are missing; {}",
                                bytes_text(missing_bytes(run.memory)), run.advice));
}

}  // namespace

void add_plan_command(CLI::App* program) {
  const auto options = std::make_shared<PlanOptions>();
  CLI::App* app = program->add_subcommand("plan", "Show what memory a run would take");
  app->footer(
      "Example:\n  tandem plan -m model.gguf --device sim --vram 8192 -c 8192\n"
      "Reads no weights. Exit code 1: it does not fit.");
  options->model.add_model(app);
  app->add_flag("--json", options->json, "print JSON");
  options->model.add_engine(app);
  app->callback([app, options] {
    options->model.apply_config(app);
    plan(*options);
  });
}

}  // namespace tandem
