#include "runtime/config/toml_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/error.h"

namespace tandem {
namespace {

// The dotted names of all values of a table.
void list_keys(const toml::table& table, const std::string& prefix, std::set<std::string>* keys) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    const toml::table* inner = node.as_table();
    if (inner != nullptr && !inner->empty()) {
      list_keys(*inner, name + ".", keys);
    } else {
      keys->insert(name);
    }
  }
}

}  // namespace

TomlReader::TomlReader(std::string_view text, std::string file) : file_(std::move(file)) {
  try {
    table_ = toml::parse(text);
  } catch (const toml::parse_error& error) {
    // The description quotes the text, which may end a line there.
    std::string what(error.description());
    std::replace_if(
        what.begin(), what.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
    throw ConfigError(fmt::format("{}:{}: {}", file_, error.source().begin.line, what));
  }
}

toml::node_view<const toml::node> TomlReader::find(std::string_view key) {
  asked_.emplace(key);
  return std::as_const(table_).at_path(key);
}

void TomlReader::fail(std::string_view key, const std::string& what) const {
  throw ConfigError(fmt::format("{}: {} {}", file_, key, what));
}

double TomlReader::checked_number(std::string_view key, const toml::node& node, double least,
                                  double most) const {
  if (!node.is_number()) fail(key, "is not a number");
  // toml++ does not convert integers beyond 2^53 to double by itself.
  const double value =
      node.is_integer() ? static_cast<double>(*node.value<int64_t>()) : *node.value<double>();
  if (!(value >= least && value <= most)) {
    fail(key, fmt::format("is {}; expected {} to {}", value, least, most));
  }
  return value;
}

int64_t TomlReader::checked_integer(std::string_view key, const toml::node& node, int64_t least,
                                    int64_t most) const {
  if (!node.is_integer()) fail(key, "is not a whole number");
  const int64_t value = *node.value<int64_t>();
  if (value < least || value > most) {
    fail(key, fmt::format("is {}; expected {} to {}", value, least, most));
  }
  return value;
}

std::optional<double> TomlReader::number(std::string_view key, double least, double most) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  return checked_number(key, *node.node(), least, most);
}

std::optional<std::vector<double>> TomlReader::numbers(std::string_view key, double least,
                                                       double most) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  const toml::array* list = node.as_array();
  if (list == nullptr) fail(key, "is not a list of numbers");
  std::vector<double> values;
  for (const toml::node& element : *list) {
    values.push_back(
        checked_number(fmt::format("{}[{}]", key, values.size()), element, least, most));
  }
  return values;
}

std::optional<int64_t> TomlReader::integer(std::string_view key, int64_t least, int64_t most) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  return checked_integer(key, *node.node(), least, most);
}

std::optional<std::vector<int64_t>> TomlReader::integers(std::string_view key, int64_t least,
                                                         int64_t most) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  const toml::array* list = node.as_array();
  if (list == nullptr) fail(key, "is not a list of whole numbers");
  std::vector<int64_t> values;
  for (const toml::node& element : *list) {
    values.push_back(
        checked_integer(fmt::format("{}[{}]", key, values.size()), element, least, most));
  }
  return values;
}

std::optional<std::string> TomlReader::text(std::string_view key) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  if (!node.is_string()) fail(key, "is not a string");
  return *node.value<std::string>();
}

std::optional<bool> TomlReader::flag(std::string_view key) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  if (!node.is_boolean()) fail(key, "is not true or false");
  return *node.value<bool>();
}

std::optional<std::string> TomlReader::scalar(std::string_view key) {
  const auto node = find(key);
  if (!node) return std::nullopt;
  if (node.is_string()) return *node.value<std::string>();
  if (node.is_integer()) return std::to_string(*node.value<int64_t>());
  if (node.is_floating_point()) return fmt::format("{}", *node.value<double>());
  if (node.is_boolean()) return *node.value<bool>() ? "true" : "false";
  fail(key, "is neither text nor a number");
}

double TomlReader::need_number(std::string_view key, double least, double most) {
  const auto value = number(key, least, most);
  if (!value) fail(key, "is missing");
  return *value;
}

int64_t TomlReader::need_integer(std::string_view key, int64_t least, int64_t most) {
  const auto value = integer(key, least, most);
  if (!value) fail(key, "is missing");
  return *value;
}

void TomlReader::done() const {
  std::set<std::string> keys;
  list_keys(table_, "", &keys);
  for (const std::string& key : keys) {
    if (asked_.find(key) == asked_.end()) fail(key, "is not a known setting");
  }
}

}  // namespace tandem
