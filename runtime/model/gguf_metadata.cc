#include "runtime/model/gguf_metadata.h"

#include <fmt/format.h>

#include <cstring>
#include <iterator>
#include <type_traits>
#include <variant>

#include "runtime/error.h"

namespace tandem {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;
// The smallest entry: an 8-byte length, a one-byte key, a type id, a one-byte value.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinStringBytes = 8;
// Elements of all arrays together. An array of bytes widens eightfold in memory, and a sparse file
// of any size costs its author nothing; large vocabularies make one or two million elements.
constexpr uint64_t kMaxArrayElements = uint64_t{1} << 24;

// By value type id.
constexpr const char* kTypeNames[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                      "int32",  "float32", "bool",   "string", "array",
                                      "uint64", "int64",   "float64"};
// By the index of GgufValue's alternative; arrays are named by their elements.
constexpr const char* kKindNames[] = {"a bool", "an unsigned integer", "a signed integer",
                                      "a float", "a string"};

template <typename Raw>
using Widened = std::conditional_t<std::is_floating_point_v<Raw>, double,
                                   std::conditional_t<std::is_signed_v<Raw>, int64_t, uint64_t>>;

bool read_bool(ByteReader& in, const std::string& what) {
  const auto value = in.read<uint8_t>(what);
  if (value > 1) in.fail(fmt::format("{}: expected a bool of 0 or 1, got {}", what, value));
  return value == 1;
}

template <typename Raw>
std::vector<Widened<Raw>> read_numbers(ByteReader& in, uint64_t n, const std::string& what) {
  in.need(n, sizeof(Raw), what);
  std::vector<Widened<Raw>> values(n);
  for (auto& value : values) {
    // NOLINTNEXTLINE(bugprone-signed-char-misuse): an int8 is a number, its sign is meant.
    value = static_cast<Widened<Raw>>(in.read<Raw>(what));
  }
  return values;
}

std::vector<uint64_t> read_bools(ByteReader& in, uint64_t n, const std::string& what) {
  in.need(n, 1, what);
  std::vector<uint64_t> values(n);
  for (auto& value : values) value = read_bool(in, what) ? 1 : 0;
  return values;
}

std::vector<std::string_view> read_strings(ByteReader& in, uint64_t n, const std::string& what) {
  in.need(n, kMinStringBytes, what);
  std::vector<std::string_view> values;
  values.reserve(n);
  for (uint64_t i = 0; i < n; ++i) values.push_back(in.read_string(what));
  return values;
}

// entry: what has been read, a type id and a value.
GgufRawValue raw_value(std::span<const std::byte> entry) {
  GgufRawValue raw;
  std::memcpy(&raw.type, entry.data(), sizeof(raw.type));
  raw.bytes = entry.subspan(sizeof(raw.type));
  return raw;
}

class MetadataReader {
 public:
  explicit MetadataReader(ByteReader& in) : in_(in) {}

  GgufMetadata read(uint64_t n_entries) {
    in_.need(n_entries, kMinEntryBytes, "metadata");
    GgufMetadata metadata;
    for (uint64_t i = 0; i < n_entries; ++i) {
      const std::string_view key = in_.read_string(fmt::format("key {}", i));
      if (key.empty() || key.size() > kMaxKeyBytes) {
        in_.fail(
            fmt::format("key {}: expected 1 to {} bytes, got {}", i, kMaxKeyBytes, key.size()));
      }
      if (!metadata.index.emplace(key, metadata.entries.size()).second) {
        in_.fail(fmt::format("key {} appears twice", quoted(key)));
      }
      const uint64_t begin = in_.position();
      metadata.entries.emplace_back(key, read_value(fmt::format("key {}", quoted(key))));
      metadata.raw.push_back(raw_value(in_.since(begin)));
    }
    return metadata;
  }

 private:
  GgufValue read_value(const std::string& what) {
    const auto id = in_.read<uint32_t>(what);
    switch (static_cast<GgufType>(id)) {
      case GgufType::kUint8:
        return uint64_t{in_.read<uint8_t>(what)};
      case GgufType::kInt8:
        return int64_t{in_.read<int8_t>(what)};
      case GgufType::kUint16:
        return uint64_t{in_.read<uint16_t>(what)};
      case GgufType::kInt16:
        return int64_t{in_.read<int16_t>(what)};
      case GgufType::kUint32:
        return uint64_t{in_.read<uint32_t>(what)};
      case GgufType::kInt32:
        return int64_t{in_.read<int32_t>(what)};
      case GgufType::kFloat32:
        return double{in_.read<float>(what)};
      case GgufType::kBool:
        return read_bool(in_, what);
      case GgufType::kString:
        return in_.read_string(what);
      case GgufType::kArray:
        return read_array(what);
      case GgufType::kUint64:
        return in_.read<uint64_t>(what);
      case GgufType::kInt64:
        return in_.read<int64_t>(what);
      case GgufType::kFloat64:
        return in_.read<double>(what);
    }
    in_.fail(fmt::format("{}: expected a value type of 0 to 12, got {}", what, id));
  }

  GgufArray read_array(const std::string& what) {
    GgufArray array;
    array.element_type = in_.read<uint32_t>(what);
    const auto n = in_.read<uint64_t>(what);
    if (n > kMaxArrayElements - n_elements_) {
      in_.fail(
          fmt::format("{}: expected at most {} array elements in all of the metadata, got {} "
                      "behind {} of other arrays",
                      what, kMaxArrayElements, n, n_elements_));
    }
    n_elements_ += n;
    switch (static_cast<GgufType>(array.element_type)) {
      case GgufType::kUint8:
        array.values = read_numbers<uint8_t>(in_, n, what);
        return array;
      case GgufType::kInt8:
        array.values = read_numbers<int8_t>(in_, n, what);
        return array;
      case GgufType::kUint16:
        array.values = read_numbers<uint16_t>(in_, n, what);
        return array;
      case GgufType::kInt16:
        array.values = read_numbers<int16_t>(in_, n, what);
        return array;
      case GgufType::kUint32:
        array.values = read_numbers<uint32_t>(in_, n, what);
        return array;
      case GgufType::kInt32:
        array.values = read_numbers<int32_t>(in_, n, what);
        return array;
      case GgufType::kFloat32:
        array.values = read_numbers<float>(in_, n, what);
        return array;
      case GgufType::kBool:
        array.values = read_bools(in_, n, what);
        return array;
      case GgufType::kString:
        array.values = read_strings(in_, n, what);
        return array;
      case GgufType::kArray:
        in_.fail(fmt::format("{}: an array of arrays is not supported", what));
      case GgufType::kUint64:
        array.values = read_numbers<uint64_t>(in_, n, what);
        return array;
      case GgufType::kInt64:
        array.values = read_numbers<int64_t>(in_, n, what);
        return array;
      case GgufType::kFloat64:
        array.values = read_numbers<double>(in_, n, what);
        return array;
    }
    in_.fail(
        fmt::format("{}: expected an element type of 0 to 12, got {}", what, array.element_type));
  }

  ByteReader& in_;
  uint64_t n_elements_ = 0;  // of the arrays so far, at most kMaxArrayElements
};

std::string element_type_name(uint32_t id) {
  return id < std::size(kTypeNames) ? kTypeNames[id] : fmt::format("type {}", id);
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto it = index.find(key);
  return it == index.end() ? nullptr : &entries[it->second].second;
}

GgufMetadata read_metadata(ByteReader& in, uint64_t n_entries) {
  return MetadataReader(in).read(n_entries);
}

std::optional<uint64_t> get_uint(const GgufMetadata& metadata, std::string_view key,
                                 const std::string& where) {
  const GgufValue* value = metadata.find(key);
  if (value == nullptr) return std::nullopt;
  return to_uint(*value, key, where);
}

uint64_t to_uint(const GgufValue& value, std::string_view key, const std::string& where) {
  if (const auto* number = std::get_if<uint64_t>(&value)) return *number;
  const auto* number = std::get_if<int64_t>(&value);
  if (number == nullptr) fail_key(where, key, "an integer", type_name(value));
  if (*number < 0) fail_key(where, key, "an integer of at least 0", fmt::format("{}", *number));
  return static_cast<uint64_t>(*number);
}

void fail_key(const std::string& where, std::string_view key, std::string_view expected,
              std::string_view got) {
  throw FileError(where, fmt::format("key {}: expected {}, got {}", quoted(key), expected, got));
}

std::string type_name(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value)) return type_name(*array);
  return kKindNames[value.index()];
}

std::string type_name(const GgufArray& array) {
  return fmt::format("an array of {}", element_type_name(array.element_type));
}

}  // namespace tandem
