#include "runtime/cli/inspect_report.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

// Where a model's bytes are.
struct Sizes {
  uint64_t routed_experts = 0;
  uint64_t rest = 0;
  uint64_t one_expert = 0;  // of the first layer that has experts
  uint64_t active = 0;      // read for one token: the rest without the embedding, and top-k experts
};

// Routed experts' tensors: merged ("blk.3.ffn_up_exps.weight") or one an expert
// ("blk.3.ffn_up.7.weight").
bool is_merged_experts(std::string_view name) {
  return name.find("_exps.") != std::string_view::npos;
}
bool is_single_expert(std::string_view name) {
  for (const std::string_view part : {".ffn_gate.", ".ffn_up.", ".ffn_down."}) {
    const size_t at = name.find(part);
    if (at != std::string_view::npos && at + part.size() < name.size() &&
        name[at + part.size()] >= '0' && name[at + part.size()] <= '9') {
      return true;
    }
  }
  return false;
}

// The layer of "blk.3.…", as text; empty for other tensors.
std::string_view layer_of(std::string_view name) {
  return name.substr(0, 4) == "blk." ? name.substr(4, name.find('.', 4) - 4) : std::string_view{};
}

Sizes measure(const GgufFile& file) {
  Sizes sizes;
  const std::string arch(file.get_string("general.architecture").value_or(""));
  const uint64_t experts = file.get_uint(arch + ".expert_count").value_or(0);
  const uint64_t used = file.get_uint(arch + ".expert_used_count").value_or(0);
  const bool tied = file.find_tensor("output.weight") == nullptr;
  std::string_view first_layer;
  for (const GgufTensor& tensor : file.tensors()) {
    if (is_merged_experts(tensor.name) || is_single_expert(tensor.name)) {
      sizes.routed_experts += tensor.size_bytes;
      if (first_layer.empty()) first_layer = layer_of(tensor.name);
      if (layer_of(tensor.name) == first_layer && experts > 0) {
        sizes.one_expert += tensor.size_bytes;  // of all experts, divided below
      }
      continue;
    }
    sizes.rest += tensor.size_bytes;
    if (tied || tensor.name != "token_embd.weight") sizes.active += tensor.size_bytes;
  }
  if (experts > 0) {
    sizes.one_expert /= experts;
    // Experts of a layer are equal, layers need not be.
    sizes.active += sizes.routed_experts / experts * used;
  }
  return sizes;
}

Json array_json(const GgufArray& array) {
  constexpr size_t kShown = 8;
  Json json;
  json["length"] = array.size();
  Json& first = json["first"] = Json::array();
  std::visit(
      [&](const auto& values) {
        for (size_t i = 0; i < values.size() && i < kShown; ++i) first.push_back(values[i]);
      },
      array.values);
  return json;
}

Json value_json(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, GgufArray>) {
          return array_json(v);
        } else {
          return Json(v);
        }
      },
      value);
}

Json tensor_json(const GgufTensor& tensor) {
  Json dims = Json::array();
  for (uint32_t i = 0; i < tensor.n_dims; ++i) dims.push_back(tensor.ne[i]);
  return {{"name", tensor.name},
          {"type", ggml_type_info(tensor.type_id)->name},
          {"shape", dims},
          {"bytes", tensor.size_bytes}};
}

Json by_type(const GgufFile& file) {
  Json types = Json::object();
  for (const GgufTensor& tensor : file.tensors()) {
    Json& entry = types[ggml_type_info(tensor.type_id)->name];
    if (entry.is_null()) entry = {{"tensors", 0}, {"bytes", 0}};
    entry["tensors"] = entry["tensors"].get<uint64_t>() + 1;
    entry["bytes"] = entry["bytes"].get<uint64_t>() + tensor.size_bytes;
  }
  return types;
}

}  // namespace

Json inspect_report(const GgufFile& file, bool tensors) {
  Json json;
  json["file"] = file.name();
  json["version"] = file.version();
  json["parts"] = file.n_parts();
  json["alignment"] = file.alignment();
  json["file_bytes"] = file.file_bytes();
  Json& metadata = json["metadata"] = Json::object();
  for (const auto& [key, value] : file.metadata()) metadata[std::string(key)] = value_json(value);
  json["tensor_count"] = file.tensors().size();
  json["types"] = by_type(file);
  const Sizes sizes = measure(file);
  json["expert_bytes"] = sizes.one_expert;
  json["all_expert_bytes"] = sizes.routed_experts;
  json["other_bytes"] = sizes.rest;
  json["active_bytes_per_token"] = sizes.active;
  if (tensors) {
    Json& list = json["tensors"] = Json::array();
    for (const GgufTensor& tensor : file.tensors()) list.push_back(tensor_json(tensor));
  }
  return json;
}

}  // namespace tandem
