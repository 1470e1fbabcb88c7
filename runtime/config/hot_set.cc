#include "runtime/config/hot_set.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include "runtime/config/config_file.h"
#include "runtime/config/toml_reader.h"
#include "runtime/error.h"
#include "scheduler/trace.h"

namespace tandem {
namespace {

constexpr int64_t kFormat = 1;
constexpr double kMostValue = 1e300;
constexpr size_t kMostName = 256;

// At most kMostName bytes.
std::string short_text(TomlReader* toml, std::string_view key, const std::string& standard) {
  std::string text = toml->text(key).value_or(standard);
  if (text.size() > kMostName) {
    toml->fail(key, fmt::format("has {} bytes; expected at most {}", text.size(), kMostName));
  }
  return text;
}

std::vector<HotExpert> parse_layer(TomlReader* toml, int32_t layer, int32_t n_experts) {
  const std::string ids_key = fmt::format("layer.{}.experts", layer);
  const std::string values_key = fmt::format("layer.{}.values", layer);
  const auto ids = toml->integers(ids_key, 0, n_experts - 1);
  if (!ids) toml->fail(ids_key, "is missing");
  const auto values = toml->numbers(values_key, -kMostValue, kMostValue);
  if (!values) toml->fail(values_key, "is missing");
  if (ids->size() != values->size()) {
    toml->fail(values_key,
               fmt::format("has {} values for {} experts", values->size(), ids->size()));
  }
  std::vector<bool> seen(static_cast<size_t>(n_experts));
  std::vector<HotExpert> experts;
  experts.reserve(ids->size());
  for (size_t i = 0; i < ids->size(); ++i) {
    const auto id = static_cast<size_t>((*ids)[i]);
    if (seen[id]) toml->fail(ids_key, fmt::format("has expert {} twice", id));
    seen[id] = true;
    if (i > 0 && (*values)[i] > (*values)[i - 1]) {
      toml->fail(fmt::format("{}[{}]", values_key, i),
                 fmt::format("is {}; expected at most {}, the value before it", (*values)[i],
                             (*values)[i - 1]));
    }
    experts.push_back({ExpertId{static_cast<int32_t>(id)}, (*values)[i]});
  }
  return experts;
}

// As a TOML basic string.
std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += fmt::format("\\{}", c);
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace

HotSet parse_hot_set(std::string_view text, const std::string& file) {
  TomlReader toml(text, file);
  toml.need_integer("format", kFormat, kFormat);
  HotSet hot;
  hot.model = short_text(&toml, "model", "");
  if (hot.model.empty()) toml.fail("model", "is missing or empty");
  hot.router_hash = short_text(&toml, "router_hash", "");
  hot.n_layers = static_cast<int32_t>(toml.need_integer("layers", 1, TraceLimits::kLayers));
  hot.n_experts = static_cast<int32_t>(toml.need_integer("experts", 1, TraceLimits::kExperts));
  for (int32_t l = 0; l < hot.n_layers; ++l) {
    hot.layers.push_back(parse_layer(&toml, l, hot.n_experts));
  }
  toml.done();
  return hot;
}

HotSet load_hot_set(const std::string& path) {
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(path, ignored);
  if (!ignored && bytes > kMostHotSetBytes) {
    throw FileError(path, fmt::format("has {} bytes; expected a hot set of at most {}", bytes,
                                      kMostHotSetBytes));
  }
  return parse_hot_set(read_config_file(path), path);
}

void check_hot_set(const HotSet& hot, const HotSetModel& model, const std::string& file) {
  if (hot.n_layers != model.n_layers || hot.n_experts != model.n_experts) {
    throw ConfigError(fmt::format(
        "{}: a hot set of {} layers with {} experts; expected {} with {}, "
        "as {} has",
        file, hot.n_layers, hot.n_experts, model.n_layers, model.n_experts, model.name));
  }
  const bool hashes = !hot.router_hash.empty() && !model.router_hash.empty();
  if (hashes && hot.router_hash != model.router_hash) {
    throw ConfigError(fmt::format("{}: router_hash is \"{}\"; expected \"{}\", as {} has", file,
                                  hot.router_hash, model.router_hash, model.name));
  }
  if (!hashes && hot.model != model.name) {
    throw ConfigError(
        fmt::format("{}: model is \"{}\"; expected \"{}\"", file, hot.model, model.name));
  }
}

std::string hot_set_text(const HotSet& hot) {
  std::string text = fmt::format("format = {}\nmodel = {}\n", kFormat, toml_string(hot.model));
  if (!hot.router_hash.empty())
    text += fmt::format("router_hash = {}\n", toml_string(hot.router_hash));
  text += fmt::format("layers = {}\nexperts = {}\n", hot.n_layers, hot.n_experts);
  for (size_t l = 0; l < hot.layers.size(); ++l) {
    std::string ids;
    std::string values;
    for (const HotExpert& one : hot.layers[l]) {
      const char* comma = ids.empty() ? "" : ", ";
      ids += fmt::format("{}{}", comma, one.expert.value);
      values += fmt::format("{}{}", comma, one.value);
    }
    text += fmt::format("\n[layer.{}]\nexperts = [{}]\nvalues = [{}]\n", l, ids, values);
  }
  return text;
}

}  // namespace tandem
