#include "runtime/cli/model_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "cache/eviction_policy.h"
#include "runtime/config/embedded.h"
#include "runtime/config/machine_profile.h"
#include "runtime/config/toml_reader.h"
#include "runtime/error.h"

namespace tandem {
namespace {

DeviceKind device_kind(const std::string& name) {
  if (name == "cpu") return DeviceKind::kCpu;
  return name == "sim" ? DeviceKind::kSim : DeviceKind::kAuto;
}

KvType kv_type(const std::string& name) { return name == "f32" ? KvType::kF32 : KvType::kF16; }

// The option's value as the command line would write it; nullopt when the file lacks the key.
std::optional<std::string> config_value(TomlReader* toml, const CLI::Option& option) {
  const std::string& key = option.get_lnames().front();
  if (option.get_items_expected_max() == 0) {
    const auto flag = toml->flag(key);
    if (!flag) return std::nullopt;
    return *flag ? "true" : "false";
  }
  if (const std::optional<std::string> any = toml->scalar(key)) return any;
  return std::nullopt;
}

}  // namespace

void ModelOptions::add_model(CLI::App* app) {
  app->add_option("-m,--model", model_path, "GGUF file (default: the built-in demo model)");
  app->add_flag("--check-tensors", check_tensors, "read all weights at load and refuse NaN or Inf");
  app->add_flag("--allow-unknown-pretokenizer", allow_unknown_pretokenizer,
                "treat an unknown tokenizer.ggml.pre as gpt-2");
  app->add_option("--config", config_path, "TOML file with long flags as keys; flags given win");
}

void ModelOptions::add_engine(CLI::App* app) {
  std::vector<std::string> policies;
  for (const std::string_view name : eviction_policy_names()) policies.emplace_back(name);
  app->add_option("-c,--ctx-size", n_ctx, "context in tokens (0: the model's, at most 4096)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 28));
  app->add_option("-b,--batch-size", n_batch, "tokens of a prompt read at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app->add_option("-t,--threads", n_threads, "CPU threads (0: the cores available)")
      ->check(CLI::Range(0, 512));
  app->add_option("--device", device, "auto, cpu, or sim (a simulated GPU)")
      ->check(CLI::IsMember({"auto", "cpu", "sim"}));
  app->add_option("--vram", vram_mib, "MiB of device memory (default: the machine profile's)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  app->add_option("--moe-expert-cache", expert_slots,
                  "expert slots in device memory (default: what fits; 0: off)")
      ->check(CLI::Range(0, 1 << 24));
  app->add_option("--moe-expert-cache-inserts", admit_per_layer,
                  "experts that a layer may add to the cache after running them on the CPU")
      ->check(CLI::Range(0, 4096));
  app->add_option("--cache-policy", cache_policy, "who leaves the expert cache")
      ->check(CLI::IsMember(policies));
  app->add_option("--machine", machine_name,
                  "machine profile for modelled times: a built-in name or a TOML file");
  app->add_option("--cache-type-k", kv_type_k, "KV cache type for K (-ctk)")
      ->check(CLI::IsMember({"f16", "f32"}));
  app->add_option("--cache-type-v", kv_type_v, "KV cache type for V (-ctv)")
      ->check(CLI::IsMember({"f16", "f32"}));
}

void ModelOptions::apply_config(CLI::App* app) const {
  if (config_path.empty()) return;
  TomlReader toml(read_text(config_path), config_path);
  for (CLI::Option* option : app->get_options()) {
    if (option->get_lnames().empty() || option->get_lnames().front() == "help" ||
        option->get_lnames().front() == "config") {
      continue;
    }
    const std::optional<std::string> value = config_value(&toml, *option);
    if (!value || option->count() > 0) continue;
    try {
      option->add_result(*value);
      option->run_callback();
    } catch (const CLI::Error& error) {
      toml.fail(option->get_lnames().front(), fmt::format("is {}: {}", *value, error.what()));
    }
  }
  toml.done();
}

GgufFile ModelOptions::open_model() const {
  if (!built_in()) return GgufFile::open(model_path);
  return GgufFile::from_memory(embedded_model(), std::string(kEmbeddedModelName));
}

Model ModelOptions::load_model() const {
  Model model = Model::load(open_model());
  if (check_tensors) model.check_finite();
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

EngineSettings ModelOptions::engine_settings() const {
  EngineSettings settings;
  settings.device = device_kind(device);
  if (vram_mib >= 0) settings.vram_bytes = vram_mib << 20;
  if (expert_slots >= 0) settings.expert_slots = expert_slots;
  settings.cache_policy = cache_policy;
  settings.admit_per_layer = admit_per_layer;
  settings.n_ctx = n_ctx;
  settings.n_batch = n_batch;
  settings.n_threads = n_threads;
  settings.kv_type_k = kv_type(kv_type_k);
  settings.kv_type_v = kv_type(kv_type_v);
  return settings;
}

std::string read_text(const std::string& path) {
  if (path == "-") {
    return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  }
  if (std::filesystem::is_directory(path)) throw FileError(path, "is a directory");
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(path, fmt::format("cannot be read: {}", std::strerror(errno)));
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) throw FileError(path, "cannot be read to its end");
  return text;
}

void write_file(const std::string& path, const std::string& bytes) {
  const std::string temporary = fmt::format("{}.{}.part", path, getpid());
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(temporary, path, error);
  if (!out || error) {
    const std::string why = error ? error.message() : std::strerror(errno);
    std::filesystem::remove(temporary, error);
    throw FileError(path, fmt::format("cannot be written: {}", why));
  }
}

void print_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
      std::fflush(stdout) != 0) {
    throw Error(fmt::format("standard output: cannot be written: {}", std::strerror(errno)));
  }
}

}  // namespace tandem
