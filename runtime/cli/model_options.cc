#include "runtime/cli/model_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "cache/eviction_policy.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/embedded.h"
#include "runtime/config/machine_profile.h"
#include "runtime/config/toml_reader.h"
#include "runtime/device/cpu_quota.h"
#include "runtime/device/cpu_topology.h"
#include "runtime/device/thread_count.h"
#include "runtime/device/thread_pool.h"
#include "runtime/engine/device_choice.h"
#include "runtime/engine/fit.h"
#include "runtime/error.h"
#include "runtime/model/file_image.h"
#include "runtime/model/gguf_split.h"
#include "runtime/pregate/decoupled_file.h"
#include "runtime/pregate/pregate_file.h"
#include "runtime/words.h"

namespace tandem {
namespace {

bool is_given(const CLI::Option* option) { return option != nullptr && option->count() > 0; }

constexpr KvType kKvTypes[] = {KvType::kF16, KvType::kF32, KvType::kQ8_0};

std::vector<std::string> kv_type_names() {
  std::vector<std::string> names;
  for (const KvType type : kKvTypes) names.emplace_back(kv_type_name(type));
  return names;
}

// Of a name among them.
KvType kv_type(const std::string& name) {
  return *std::find_if(std::begin(kKvTypes), std::end(kKvTypes),
                       [&](KvType type) { return name == kv_type_name(type); });
}

// A key of the file and its value as the command line would write it.
struct ConfigValue {
  std::string key;
  std::string value;
};

// nullopt when the file has none of the option's names.
std::optional<ConfigValue> config_value(TomlReader* toml, const CLI::Option& option) {
  std::optional<ConfigValue> found;
  for (const std::string& key : option.get_lnames()) {
    std::optional<std::string> value;
    if (option.get_items_expected_max() == 0) {
      if (const auto flag = toml->flag(key)) value = *flag ? "true" : "false";
    } else {
      value = toml->scalar(key);
    }
    if (!value) continue;
    if (found) toml->fail(key, "is the same setting as " + found->key);
    found = ConfigValue{key, *value};
  }
  return found;
}

void set_from_config(CLI::Option* option, const ConfigValue& config, const TomlReader& toml) {
  try {
    option->add_result(config.value);
    option->run_callback();
  } catch (const CLI::Error& error) {
    std::string why = error.what();
    const std::string prefix = option->get_name() + ": ";
    if (why.rfind(prefix, 0) == 0) why.erase(0, prefix.size());
    toml.fail(config.key, "= " + why);
  }
}

}  // namespace

std::string pregate_beside(const std::filesystem::path& model) {
  const std::optional<SplitName> split = parse_split_name(model);
  const std::string stem = split ? split->prefix : model.stem().string();
  return (model.parent_path() / (stem + ".pregate.safetensors")).string();
}

void ModelOptions::add_model(CLI::App* app) {
  app->add_option("-m,--model", model_path, "GGUF file; without it the built-in demo model")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_flag("--check-tensors", check_tensors, "read all weights at load; refuse NaN and Inf");
  app->add_flag("--allow-unknown-pretokenizer", allow_unknown_pretokenizer,
                "treat an unknown tokenizer.ggml.pre as gpt-2");
  app->add_option("--config", config_path, "TOML file, long flags as keys; flags given win")
      ->type_name("FILE")
      ->check(not_empty());
}

void ModelOptions::add_engine(CLI::App* app) {
  add_placement(app);
  add_fit(app);
  app->add_option("-c,--ctx-size", n_ctx, "context in tokens; 0: the model's, at most 4096")
      ->type_name("N")
      ->check(whole_number(0, int64_t{1} << 28))
      ->capture_default_str();
  batch_option_ = app->add_option("-b,--batch-size", n_batch,
                                  "tokens read at once; a GPU may get more unless given")
                      ->type_name("N")
                      ->check(whole_number(1, int64_t{1} << 20))
                      ->capture_default_str();
  app->add_option("-t,--threads", n_threads, "CPU threads; 0: the physical cores available")
      ->type_name("N")
      ->check(whole_number(0, 512))
      ->capture_default_str();
  app->add_option("--numa", numa, "spread threads and weights over NUMA nodes")
      ->type_name("distribute|off")
      ->check(one_of({"distribute", "off"}))
      ->capture_default_str();
  weights.add_to(app);
  app->add_option("--cache-type-k", kv_type_k, "KV cache type for K, also -ctk")
      ->type_name("f16|f32|q8_0")
      ->check(one_of(kv_type_names()))
      ->capture_default_str();
  app->add_option("--cache-type-v", kv_type_v, "KV cache type for V, also -ctv")
      ->type_name("f16|f32|q8_0")
      ->check(one_of(kv_type_names()))
      ->capture_default_str();
}

void ModelOptions::add_placement(CLI::App* app) {
  const auto names = causal_policy_names();
  std::vector<std::string> policies(names.begin(), names.end());
  policies.emplace_back("windowed-belady");  // of refactored models
  app->add_option("--device", device, "where to compute; sim: a simulated GPU")
      ->type_name("auto|cpu|cuda|sim|sim-cuda")
      ->check(one_of({"auto", "cpu", "cuda", "sim", "sim-cuda"}))
      ->capture_default_str();
  app->add_option("--vram", vram_mib, "device memory (default: what is free, or the profile's)")
      ->type_name("MIB")
      ->check(whole_number(0, int64_t{1} << 24));
  app->add_option("--moe-expert-cache", expert_slots,
                  "expert slots in device memory; 0: off (default: what fits)")
      ->type_name("N")
      ->check(whole_number(0, 1 << 24));
  app->add_option("--policy", policy_name, "scheduling: a name in configs/policies or a TOML file")
      ->type_name("NAME")
      ->check(not_empty())
      ->capture_default_str();
  app->add_option("--pregate", pregate, "lookahead or router; auto: MODEL.pregate.safetensors")
      ->type_name("FILE|auto|none")
      ->check(not_empty())
      ->capture_default_str();
  app->add_option("--moe-expert-cache-inserts", cache_inserts,
                  "missed experts a layer may add per step (default: the policy's)")
      ->type_name("N")
      ->check(whole_number(0, 4096));
  app->add_option("--cache-policy", cache_policy,
                  "who leaves the expert cache (default: the policy's)")
      ->type_name(list_text(policies, "|"))
      ->check(one_of(policies));
  app->add_option("--machine", machine_name, "planned and modelled for it: a name or a TOML file")
      ->type_name("NAME")
      ->default_str(std::string(kDefaultMachine))
      ->check(not_empty());
}

void ModelOptions::add_fit(CLI::App* app) {
  app->add_option("--fit", fit, "lower context and batch, unless given, till they fit")
      ->type_name("on|off")
      ->check(one_of({"on", "off"}))
      ->capture_default_str();
  fit_ctx_option_ =
      app->add_option("--fit-ctx", fit_ctx, "least context that --fit may choose, also -fitc")
          ->type_name("N")
          ->check(whole_number(kLeastFitContext, int64_t{1} << 28))
          ->capture_default_str();
  fit_target_option_ = app->add_option("--fit-target", fit_target_mib,
                                       "memory of a real GPU to leave free, also -fitt")
                           ->type_name("MIB")
                           ->check(whole_number(0, int64_t{1} << 24))
                           ->capture_default_str();
}

void ModelOptions::apply_config(CLI::App* app) const {
  if (config_path.empty()) return;
  TomlReader toml(read_text(config_path), config_path);
  std::set<const CLI::Option*> given;
  for (const CLI::Option* option : app->get_options()) {
    if (option->count() > 0) given.insert(option);
  }
  std::set<const CLI::Option*> from_file;
  for (CLI::Option* option : app->get_options()) {
    if (option->check_lname("help") || option->check_lname("config")) continue;
    const std::optional<ConfigValue> config = config_value(&toml, *option);
    if (!config) continue;
    const auto excluded_by = [&](const std::set<const CLI::Option*>& others) {
      return std::any_of(others.begin(), others.end(), [&](const CLI::Option* other) {
        return option->get_excludes().count(const_cast<CLI::Option*>(other)) > 0;
      });
    };
    if (given.count(option) > 0 || excluded_by(given)) continue;
    if (excluded_by(from_file)) toml.fail(config->key, "excludes another key of this file");
    set_from_config(option, *config, toml);
    from_file.insert(option);
  }
  toml.done();
}

std::string ModelOptions::model_text() const {
  return built_in() ? "the built-in demo model" : model_path;
}

GgufFile ModelOptions::open_model() const {
  if (!built_in()) return GgufFile::open(model_path, weights.access());
  return GgufFile::from_memory(embedded_model(), std::string(kEmbeddedModelName));
}

PackScope ModelOptions::pack_scope() const {
  const DeviceKind kind = choose_device(device_kind(device)).kind;
  return kind == DeviceKind::kCpu ? PackScope::kAll : PackScope::kExperts;
}

Model ModelOptions::load_model(Progress* progress) const {
  const std::string loading = "loading " + model_text();
  progress->show(loading);
  Model model = Model::load(open_model());
  if (check_tensors) model.check_finite();
  const CpuTopology cpu = CpuTopology::of_this_machine();
  MemoryNodes nodes;
  if (distribute() && cpu.n_nodes() > 1) {
    nodes = {cpu.n_nodes(), [&](int node) { cpu.take_pages_from(node); }};
  }
  ThreadPool pool(thread_count(n_threads, cpu, cpu_quota()).n);
  weights.load(&model, pack_scope(), pool, nodes, loading, progress);
  return model;
}

Model ModelOptions::plan_model() const {
  Model model = Model::load(open_model());
  weights.plan(&model, pack_scope());
  return model;
}

Tokenizer ModelOptions::load_tokenizer(const GgufFile& file) const {
  TokenizerOptions options;
  options.allow_unknown_pretokenizer = allow_unknown_pretokenizer;
  return Tokenizer::from_gguf(file, options);
}

Tokenizer ModelOptions::load_tokenizer(const Model& model) const {
  Tokenizer tokenizer = load_tokenizer(model.file());
  if (tokenizer.n_vocab() != model.config().n_vocab) {
    throw FileError(model.file().name(),
                    fmt::format("tokenizer.ggml.tokens has {} entries, token_embd.weight {} rows",
                                tokenizer.n_vocab(), model.config().n_vocab));
  }
  return tokenizer;
}

MachineProfile ModelOptions::machine() const {
  return load_machine_profile(machine_name.empty() ? std::string(kDefaultMachine) : machine_name);
}

std::string ModelOptions::pregate_path() const {
  if (pregate == "none") return "";
  if (pregate != "auto") return pregate;
  if (built_in()) return std::string(kEmbeddedPregateName);
  const std::string beside = pregate_beside(model_path);
  std::error_code error;
  return std::filesystem::exists(beside, error) ? beside : "";
}

void ModelOptions::load_side_car(EngineSettings* settings) const {
  const std::string from = pregate_path();
  if (from.empty()) return;
  // Nobody guesses where nothing can be copied early.
  const bool guesses =
      pregate != "auto" ||
      (choose_device(device_kind(device)).kind != DeviceKind::kCpu && expert_slots != 0);
  if (built_in() && pregate == "auto") {
    if (!guesses) return;
    settings->pregate = std::make_shared<const Pregate>(parse_pregate(embedded_pregate(), from));
  } else {
    const FileImage image(from);
    if (pregate_kind(image.bytes(), from) == kDecoupledKind) {
      settings->router =
          std::make_shared<const DecoupledRouter>(parse_decoupled(image.bytes(), from));
    } else {
      if (!guesses) return;
      settings->pregate = std::make_shared<const Pregate>(parse_pregate(image.bytes(), from));
    }
  }
  settings->pregate_from = from;
}

EngineSettings ModelOptions::engine_settings(Progress* progress) const {
  EngineSettings settings;
  settings.device = device_kind(device);
  if (vram_mib >= 0) settings.vram_bytes = vram_mib << 20;
  settings.vram_margin_bytes = fit_target_mib << 20;
  if (fit == "on") {
    settings.fit = FitSettings{!is_given(batch_option_), fit_ctx};
  }
  if (expert_slots >= 0) settings.expert_slots = expert_slots;
  settings.scheduling = load_scheduling_policy(policy_name);
  if (!cache_policy.empty()) settings.cache_policy = cache_policy;
  if (cache_inserts >= 0) settings.cache_inserts = cache_inserts;
  load_side_car(&settings);
  settings.n_ctx = n_ctx;
  settings.n_batch = n_batch;
  settings.n_threads = n_threads;
  settings.numa = distribute();
  settings.kv_type_k = kv_type(kv_type_k);
  settings.kv_type_v = kv_type(kv_type_v);
  if (progress != nullptr) {
    settings.copied = [progress](int64_t done, int64_t of) {
      progress->show_count("copying experts into their slots, MiB", done >> 20, of >> 20);
    };
  }
  return settings;
}

std::vector<EffectiveSetting> ModelOptions::effective(const Engine& engine,
                                                      const MachineProfile& machine) const {
  return effective(engine.effective(), engine.device().info(), engine.model(), machine);
}

void ModelOptions::add_fit_lines(const DeviceInfo& device,
                                 std::vector<EffectiveSetting>* all) const {
  const auto unused = [&](const char* name, const CLI::Option* option, const std::string& requested,
                          const char* why) {
    if (is_given(option) && *why != '\0') all->push_back({name, requested, "none", why});
  };
  const char* no_gpu = device.host_memory ? "there is no GPU memory to fit into" : "";
  unused("fit target", fit_target_option_, bytes_text(fit_target_mib << 20),
         *no_gpu != '\0'    ? no_gpu
         : device.simulated ? "a simulated GPU has its VRAM for itself"
         : vram_mib >= 0    ? "--vram says how much there is"
                            : "");
  unused("fit context", fit_ctx_option_, std::to_string(fit_ctx),
         *no_gpu != '\0' ? no_gpu
         : fit != "on"   ? "--fit is off"
         : n_ctx > 0     ? "-c says how long it is"
                         : "");
}

std::vector<EffectiveSetting> ModelOptions::effective(std::vector<EffectiveSetting> all,
                                                      const DeviceInfo& info, const Model& model,
                                                      const MachineProfile& machine) const {
  const std::string vram = vram_mib < 0 ? "auto" : bytes_text(vram_mib << 20);
  if (info.host_memory) {
    all.push_back({"vram", vram, "none",
                   vram_mib < 0 ? "the cpu device computes in host memory"
                                : "the cpu device computes in host memory; --device sim has VRAM"});
    all.push_back({"fit", fit, "off", "there is no GPU memory to fit into"});
  } else {
    all.push_back({"vram", vram, bytes_text(info.vram_bytes),
                   vram_mib >= 0    ? ""
                   : info.simulated ? "the machine profile's"
                                    : fmt::format("what is free, less {} MiB", fit_target_mib)});
    all.push_back({"fit", fit, fit, ""});
  }
  add_fit_lines(info, &all);
  for (const EffectiveSetting& setting : weights.effective(model, pack_scope())) {
    all.push_back(setting);
  }
  const std::string kv = fmt::format("K {}, V {}", kv_type_k, kv_type_v);
  all.push_back({"kv cache", kv, kv, ""});
  all.push_back(machine_setting(machine_name, machine, info));
  return all;
}

}  // namespace tandem
