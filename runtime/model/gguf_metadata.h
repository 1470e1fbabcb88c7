// The key-value section of a GGUF image. Internal to GgufFile. Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/model/byte_reader.h"
#include "runtime/model/gguf_file.h"

namespace tandem {

// Value type ids of the GGUF specification.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Views point into the image.
struct GgufMetadata {
  std::vector<std::pair<std::string_view, GgufValue>> entries;  // in file order, keys unique
  std::vector<GgufRawValue> raw;                                // in the same order
  std::unordered_map<std::string_view, size_t> index;           // key -> place in entries

  const GgufValue* find(std::string_view key) const;
};

// Reads n_entries keys with their values. FileError for duplicate keys, unknown types, bools other
// than 0 and 1, nested arrays, and whatever runs past the end.
GgufMetadata read_metadata(ByteReader& in, uint64_t n_entries);

// nullopt when absent; otherwise as to_uint.
std::optional<uint64_t> get_uint(const GgufMetadata& metadata, std::string_view key,
                                 const std::string& where);
// Any integer type, >= 0; FileError when it is anything else.
uint64_t to_uint(const GgufValue& value, std::string_view key, const std::string& where);

// FileError: key "x": expected E, got G.
[[noreturn]] void fail_key(const std::string& where, std::string_view key,
                           std::string_view expected, std::string_view got);

// "an unsigned integer", "an array of float32": what a value is, for messages.
std::string type_name(const GgufValue& value);
std::string type_name(const GgufArray& array);  // without a copy of it

}  // namespace tandem
