// The flags that commands with a model share (inspect has none of these but -m), with llama.cpp's
// names where it has them.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/cli/progress.h"
#include "runtime/cli/weight_options.h"
#include "runtime/config/scheduling_policy.h"
#include "runtime/device/cuda_device.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model.h"
#include "runtime/text/tokenizer.h"
#include "scheduler/machine_profile.h"

namespace tandem {

// A model's side-car: "dir/model.pregate.safetensors" for "dir/model.gguf", and for its parts.
std::string pregate_beside(const std::filesystem::path& model);

class ModelOptions {
 public:
  // -m, --check-tensors, --allow-unknown-pretokenizer, --config
  void add_model(CLI::App* app);
  // Device, VRAM, cache, fit, context, batch, threads, nodes, KV types, machine profile.
  void add_engine(CLI::App* app);

  // Fills options that were not given on the command line from --config. Keys are the long flags
  // without dashes in front. A flag that is given also beats the keys that it excludes. Call first
  // in a command's callback.
  void apply_config(CLI::App* app) const;

  // The file of -m, or the built-in demo model. For what reads no weights: they may be zeros.
  GgufFile open_model() const;
  // Says so on `progress`. Errors and warnings as WeightOptions::load.
  Model load_model(Progress* progress) const;
  // With the layout of a loaded one, and no weights: for planning.
  Model plan_model() const;
  Tokenizer load_tokenizer(const GgufFile& file) const;
  // Also checks that tokenizer and weights agree on the vocabulary.
  Tokenizer load_tokenizer(const Model& model) const;
  MachineProfile machine() const;
  // Reads the policy's file: errors as load_scheduling_policy. An engine says on `progress` how far
  // it is while it copies experts at its start; `progress` must outlive it.
  EngineSettings engine_settings(Progress* progress = nullptr) const;
  // All that was asked for and what became of it: the engine's list and the rest of the flags.
  std::vector<EffectiveSetting> effective(const Engine& engine,
                                          const MachineProfile& machine) const;
  // Likewise, with the lines of an engine that may be planned only.
  std::vector<EffectiveSetting> effective(std::vector<EffectiveSetting> engine,
                                          const DeviceInfo& device, const Model& model,
                                          const MachineProfile& machine) const;
  // What the CPU reads: all weights, or what stays beside a GPU.
  PackScope pack_scope() const;
  bool built_in() const { return model_path.empty(); }
  // "the built-in demo model", or the path.
  std::string model_text() const;

  std::string model_path;
  bool check_tensors = false;
  WeightOptions weights;
  bool allow_unknown_pretokenizer = false;
  std::string config_path;
  std::string machine_name;
  std::string device = "auto";
  int64_t vram_mib = -1;
  int32_t expert_slots = -1;
  std::string policy_name{kDefaultPolicy};
  std::string pregate = "auto";  // the side-car: a file, "auto" or "none"
  std::string cache_policy;      // empty: the policy's
  int32_t cache_inserts = -1;    // -1: the policy's
  std::string fit = "on";
  int64_t fit_ctx = kDefaultContext;
  int64_t fit_target_mib = kVramMargin >> 20;
  int64_t n_ctx = 0;
  int64_t n_batch = 512;
  int n_threads = 0;
  std::string numa = "distribute";
  std::string kv_type_k = "f16";
  std::string kv_type_v = "f16";

 private:
  void add_placement(CLI::App* app);
  void add_fit(CLI::App* app);
  // Empty where there is none.
  std::string pregate_path() const;
  void load_side_car(EngineSettings* settings) const;
  bool distribute() const { return numa == "distribute"; }

  // Lines for what --fit was told and has no use for.
  void add_fit_lines(const DeviceInfo& device, std::vector<EffectiveSetting>* all) const;

  // Whether they were given.
  const CLI::Option* batch_option_ = nullptr;
  const CLI::Option* fit_ctx_option_ = nullptr;
  const CLI::Option* fit_target_option_ = nullptr;
};

}  // namespace tandem
