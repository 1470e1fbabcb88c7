#include "runtime/pregate/collection.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/file_image.h"
#include "runtime/model/model_config.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "tandem-taps";
constexpr int64_t kRouterInputOnly = 1;  // versions
constexpr int64_t kBothTaps = 2;
constexpr const char* kTaps = "router-input, pre-attention";  // of the second
constexpr int64_t kMostLayers = 4096;
constexpr int64_t kMostExperts = 4096;
constexpr int64_t kMostPrompts = 1000000;
constexpr size_t kMostInfoBytes = 1 << 16;

fs::path info_file(const fs::path& folder) { return folder / "collection.json"; }

std::string info_text(const CollectionInfo& info) {
  Json json = {{"format", kFormat},
               {"version", info.shape.before_attention ? kBothTaps : kRouterInputOnly},
               {"model", info.model},
               {"router_sha256", info.router_hash},
               {"layers", info.shape.n_layers},
               {"experts", info.shape.n_experts},
               {"width", info.shape.d_model},
               {"prompts", info.n_prompts},
               {"made_with", info.made_with}};
  if (info.shape.before_attention) json["taps"] = kTaps;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int64_t number(const Json& json, const char* key, int64_t most, const std::string& where) {
  if (json.contains(key) && json[key].is_number_unsigned() && json[key].get<uint64_t>() >= 1 &&
      json[key].get<uint64_t>() <= static_cast<uint64_t>(most)) {
    return json[key].get<int64_t>();
  }
  throw FileError(where, fmt::format("{}: expected a whole number from 1 to {}", key, most));
}

std::string text(const Json& json, const char* key, const std::string& where) {
  if (json.contains(key) && json[key].is_string()) return json[key].get<std::string>();
  throw FileError(where, fmt::format("{}: expected text", key));
}

CollectionInfo read_info(const fs::path& folder) {
  const std::string where = info_file(folder).string();
  const FileImage image(where);
  if (image.bytes().size() > kMostInfoBytes) throw FileError(where, "expected a small JSON object");
  const auto* begin = reinterpret_cast<const char*>(image.bytes().data());
  const Json json = Json::parse(begin, begin + image.bytes().size(), nullptr, false);
  if (!json.is_object() || text(json, "format", where) != kFormat) {
    throw FileError(where, fmt::format("expected a JSON object of format {}", kFormat));
  }
  const int64_t version = number(json, "version", INT32_MAX, where);
  if (version > kBothTaps) throw FileError(where, "version: expected 1 or 2");
  CollectionInfo info;
  info.shape.before_attention = version == kBothTaps;
  if (info.shape.before_attention && text(json, "taps", where) != kTaps) {
    throw FileError(where, fmt::format("taps: expected {}", kTaps));
  }
  info.model = text(json, "model", where);
  info.router_hash = text(json, "router_sha256", where);
  info.shape.n_layers = static_cast<int32_t>(number(json, "layers", kMostLayers, where));
  info.shape.n_experts = static_cast<int32_t>(number(json, "experts", kMostExperts, where));
  info.shape.d_model =
      static_cast<int32_t>(number(json, "width", static_cast<int64_t>(kMaxWidth), where));
  info.n_prompts = number(json, "prompts", kMostPrompts, where);
  info.made_with = text(json, "made_with", where);
  return info;
}

}  // namespace

Collection::Collection(fs::path folder, CollectionInfo info)
    : folder_(std::move(folder)), info_(std::move(info)) {}

Collection Collection::begin(const fs::path& folder, const CollectionInfo& info) {
  std::error_code error;
  if (fs::exists(info_file(folder), error)) {
    if (info_text(read_info(folder)) != info_text(info)) {
      throw ConfigError(
          fmt::format("{} was begun with another model, other prompts or other "
                      "settings; expected an empty folder or the same again",
                      folder.string()));
    }
    return {folder, info};
  }
  const std::string file = info_file(folder).string();
  const std::string part = file + ".part";
  fs::remove(part, error);  // of one that was broken off
  if (fs::exists(folder, error) && !fs::is_empty(folder, error)) {
    throw FileError(folder.string(), "expected an empty folder or one with a collection");
  }
  fs::create_directories(folder, error);
  if (error) throw FileError(folder.string(), "cannot be made: " + error.message());
  std::ofstream out(part, std::ios::binary | std::ios::trunc);
  out << info_text(info);
  out.close();
  const bool written = static_cast<bool>(out);
  if (!written) error = std::error_code(errno, std::generic_category());
  if (written) fs::rename(part, file, error);
  if (error) throw FileError(file, "cannot be written: " + error.message());
  return {folder, info};
}

Collection Collection::open(const fs::path& folder) { return {folder, read_info(folder)}; }

fs::path Collection::file(int64_t prompt) const {
  return folder_ / fmt::format("prompt-{:06}.taps", prompt);
}

bool Collection::has(int64_t prompt) const {
  std::error_code error;
  return fs::exists(file(prompt), error);
}

std::vector<int64_t> Collection::prompts() const {
  std::vector<int64_t> there;
  for (int64_t i = 0; i < info_.n_prompts; ++i) {
    if (has(i)) there.push_back(i);
  }
  return there;
}

int64_t Collection::bytes() const {
  int64_t sum = 0;
  std::error_code error;
  for (const int64_t i : prompts()) sum += static_cast<int64_t>(fs::file_size(file(i), error));
  return sum;
}

}  // namespace tandem
