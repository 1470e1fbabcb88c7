// tandem inspect: what is in a GGUF file. Reads files of any architecture.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/inspect_report.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/words.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string path;
  bool tensors = false;
  bool json = false;
};

std::string size_text(const Json& bytes) {
  return bytes_text(static_cast<int64_t>(bytes.get<uint64_t>()));
}

// At most `width` bytes, cut between characters.
std::string shortened(std::string text, size_t width) {
  if (text.size() <= width) return text;
  while (width > 0 && (static_cast<unsigned char>(text[width]) & 0xc0) == 0x80) --width;
  return text.substr(0, width) + " …";
}

std::string metadata_text(const Json& metadata) {
  constexpr size_t kWidth = 200;
  std::string text;
  for (const auto& [key, value] : metadata.items()) {
    std::string shown = json_text(value);
    if (value.is_object()) {
      shown = fmt::format("[{}] {}", value["length"].get<uint64_t>(), json_text(value["first"]));
      if (value["length"] > value["first"].size()) shown += " …";
    }
    text += fmt::format("  {:<44} {}\n", printable(key), shortened(std::move(shown), kWidth));
  }
  return text;
}

std::string tensor_text(const Json& tensors) {
  std::string text;
  for (const Json& tensor : tensors) {
    text += fmt::format("  {:<40} {:<6} {:<24} {}\n", printable(tensor["name"].get<std::string>()),
                        tensor["type"].get<std::string>(), json_text(tensor["shape"]),
                        tensor["bytes"].get<uint64_t>());
  }
  return text;
}

std::string text_of(const Json& json) {
  std::string text =
      fmt::format("{}: GGUF v{}, {} {}, {}, alignment {}\n\nmetadata\n{}",
                  printable(json["file"].get<std::string>()), json["version"].get<int>(),
                  json["parts"].get<int>(), json["parts"] == 1 ? "part" : "parts",
                  size_text(json["file_bytes"]), json["alignment"].get<uint64_t>(),
                  metadata_text(json["metadata"]));
  text += fmt::format("\ntensors: {}\n", json["tensor_count"].get<uint64_t>());
  for (const auto& [name, entry] : json["types"].items()) {
    text += fmt::format("  {:<6} {:>5} tensors {:>12}\n", name, entry["tensors"].get<uint64_t>(),
                        size_text(entry["bytes"]));
  }
  if (json.contains("tensors")) text += tensor_text(json["tensors"]);
  text += fmt::format(
      "\nsizes\n  one expert             {}\n  all routed experts     {}\n"
      "  everything else        {}\n  active bytes a token   {}\n",
      size_text(json["expert_bytes"]), size_text(json["all_expert_bytes"]),
      size_text(json["other_bytes"]), size_text(json["active_bytes_per_token"]));
  return text;
}

}  // namespace

void add_inspect_command(CLI::App* program) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* app = program->add_subcommand("inspect", "Show what a GGUF file holds");
  app->footer("Example:\n  tandem inspect model.gguf --tensors");
  app->add_option("file,-m,--model", options->path, "GGUF file; without it the built-in demo model")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_flag("--tensors", options->tensors, "list every tensor");
  app->add_flag("--json", options->json, "print JSON");
  app->callback([options] {
    ModelOptions model;
    model.model_path = options->path;
    const Json json = inspect_report(model.open_model(), options->tensors);
    print_out(options->json ? json_text(json, 2) + "\n" : text_of(json));
  });
}

}  // namespace tandem
