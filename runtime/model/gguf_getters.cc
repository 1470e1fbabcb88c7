// The typed getters of GgufFile.
#include <fmt/format.h>

#include <limits>
#include <type_traits>
#include <variant>

#include "runtime/model/gguf_file.h"
#include "runtime/model/gguf_metadata.h"

namespace tandem {
namespace {

constexpr const char* kStrings = "an array of strings";
constexpr const char* kNumbers = "an array of numbers";
constexpr const char* kIntegers = "an array of integers or bools";

// The array under `key`, nullptr when absent; FileError when it is no array.
const GgufArray* find_array(const GgufFile& file, std::string_view key, const char* expected) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr) fail_key(file.name(), key, expected, type_name(*value));
  return array;
}

template <typename T>
T needed(const GgufFile& file, std::string_view key, std::optional<T> value, const char* expected) {
  if (!value) fail_key(file.name(), key, expected, "nothing: the key is missing");
  return *value;
}

bool is_bool_array(const GgufArray& array) {
  return array.element_type == static_cast<uint32_t>(GgufType::kBool);
}

}  // namespace

size_t GgufArray::size() const {
  return std::visit([](const auto& elements) { return elements.size(); }, values);
}

std::optional<uint64_t> GgufFile::get_uint(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return to_uint(*value, key, name());
}

std::optional<double> GgufFile::get_float(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* number = std::get_if<uint64_t>(value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<int64_t>(value)) return static_cast<double>(*number);
  fail_key(name(), key, "a number", type_name(*value));
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* flag = std::get_if<bool>(value)) return *flag;
  fail_key(name(), key, "a bool", type_name(*value));
}

std::optional<std::string_view> GgufFile::get_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* text = std::get_if<std::string_view>(value)) return *text;
  fail_key(name(), key, "a string", type_name(*value));
}

const std::vector<std::string_view>* GgufFile::get_string_array(std::string_view key) const {
  const GgufArray* array = find_array(*this, key, kStrings);
  if (array == nullptr) return nullptr;
  const auto* strings = std::get_if<std::vector<std::string_view>>(&array->values);
  if (strings == nullptr) fail_key(name(), key, kStrings, type_name(*array));
  return strings;
}

std::optional<std::vector<double>> GgufFile::get_float_array(std::string_view key) const {
  const GgufArray* array = find_array(*this, key, kNumbers);
  if (array == nullptr) return std::nullopt;
  std::vector<double> result;
  result.reserve(array->size());
  std::visit(
      [&](const auto& elements) {
        using Element = typename std::decay_t<decltype(elements)>::value_type;
        if constexpr (std::is_arithmetic_v<Element>) {
          if (is_bool_array(*array)) fail_key(name(), key, kNumbers, type_name(*array));
          for (const Element element : elements) result.push_back(static_cast<double>(element));
        } else {
          fail_key(name(), key, kNumbers, type_name(*array));
        }
      },
      array->values);
  return result;
}

std::optional<std::vector<int64_t>> GgufFile::get_int_array(std::string_view key) const {
  const GgufArray* array = find_array(*this, key, kIntegers);
  if (array == nullptr) return std::nullopt;
  if (const auto* elements = std::get_if<std::vector<int64_t>>(&array->values)) return *elements;
  const auto* elements = std::get_if<std::vector<uint64_t>>(&array->values);
  if (elements == nullptr) fail_key(name(), key, kIntegers, type_name(*array));
  std::vector<int64_t> result;
  result.reserve(elements->size());
  for (const uint64_t element : *elements) {
    if (element > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail_key(name(), key, "integers below 2^63", fmt::format("{}", element));
    }
    result.push_back(static_cast<int64_t>(element));
  }
  return result;
}

uint64_t GgufFile::need_uint(std::string_view key) const {
  return needed(*this, key, get_uint(key), "an integer");
}

std::string_view GgufFile::need_string(std::string_view key) const {
  return needed(*this, key, get_string(key), "a string");
}

}  // namespace tandem
