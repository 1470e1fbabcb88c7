#include "runtime/cli/llama_flags.h"

namespace tandem {
namespace {

struct LlamaFlag {
  std::string_view short_name;
  std::string_view long_name;
  std::string_view instead;  // empty: Tandem has the flag
};

constexpr std::string_view kVram = "what the GPU holds follows from --vram";
constexpr std::string_view kOneGpu = "there is one GPU and one sequence";
constexpr std::string_view kRepacked =
    "weights are repacked at load where memory allows; --no-repack turns it off";

constexpr LlamaFlag kFlags[] = {
    {"-ctk", "--cache-type-k", ""},
    {"-ctv", "--cache-type-v", ""},
    {"-sys", "--system-prompt", ""},
    {"-nr", "--no-repack", ""},
    {"-pg", "--pg", ""},
    {"-mmp", "--mmap", ""},
    {"-fit", "--fit", ""},
    {"-fitc", "--fit-ctx", ""},
    {"-fitt", "--fit-target", ""},
    {"-ngl", "--n-gpu-layers", kVram},
    {"", "--gpu-layers", kVram},
    {"-ncmoe", "--n-cpu-moe", kVram},
    {"-cmoe", "--cpu-moe", kVram},
    {"-ot", "--override-tensor", kVram},
    {"-nkvo", "--no-kv-offload", kVram},
    {"-sm", "--split-mode", kOneGpu},
    {"-ts", "--tensor-split", kOneGpu},
    {"-mg", "--main-gpu", kOneGpu},
    {"-np", "--parallel", kOneGpu},
    {"-dev", "", "the device is chosen with --device auto, cpu or sim"},
    {"-ub", "--ubatch-size", "-b sets the batch"},
    {"-tb", "--threads-batch", "-t holds for prompts, too"},
    {"-fa", "--flash-attn", "there is one way to compute attention"},
    {"-rtr", "--run-time-repack", kRepacked},
    {"-cnv", "--conversation", "tandem chat holds conversations"},
    {"-no-cnv", "--no-conversation", "tandem run never holds conversations"},
    {"-st", "--single-turn", "tandem chat answers standard input line by line"},
    {"", "--jinja", "templates are known by name: --chat-template of tandem chat"},
    {"-hf", "--hf-repo", "nothing is downloaded: -m takes a file"},
    {"-mu", "--model-url", "nothing is downloaded: -m takes a file"},
};

}  // namespace

std::string long_form(std::string_view argument) {
  for (const LlamaFlag& flag : kFlags) {
    if (!argument.empty() && argument == flag.short_name && !flag.long_name.empty()) {
      return std::string(flag.long_name);
    }
  }
  return std::string(argument);
}

std::string with_value(std::string_view flag, std::string_view value) {
  if (flag != "--mmap") return {};
  if (value == "0") return "--no-mmap";
  return value == "1" ? "--mmap" : "";
}

std::string_view instead_of(std::string_view argument) {
  for (const LlamaFlag& flag : kFlags) {
    if (!argument.empty() && (argument == flag.short_name || argument == flag.long_name)) {
      return flag.instead;
    }
  }
  return {};
}

}  // namespace tandem
