#include "runtime/pregate/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are stored as they are");

using Json = nlohmann::json;

constexpr uint64_t kMostHeaderBytes = 4 << 20;
constexpr int kMostDepth = 3;  // of the header: its keys, a tensor's, its shape
constexpr const char* kMetadata = "__metadata__";

// Of one element; 0: none that the format names.
uint64_t dtype_size(std::string_view dtype) {
  constexpr std::pair<std::string_view, uint64_t> kSizes[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8}};
  for (const auto& [name, size] : kSizes) {
    if (name == dtype) return size;
  }
  return 0;
}

class Parser {
 public:
  Parser(std::span<const std::byte> file, const std::string& where)
      : in_(file, where), file_(file) {}

  SafeTensors parse() {
    const auto size = in_.read<uint64_t>("the size of the header");
    if (size > kMostHeaderBytes) {
      in_.fail(
          fmt::format("the header: expected at most {} bytes, got {}", kMostHeaderBytes, size));
    }
    const std::string_view text = in_.read_bytes(size, "the header");
    const Json header = parse_header(text);
    data_ = file_.subspan(in_.position());
    for (const auto& [name, entry] : header.items()) {
      if (name == kMetadata) {
        read_metadata(entry);
      } else {
        read_tensor(name, entry);
      }
    }
    check_cover();
    return std::move(content_);
  }

 private:
  // The library would let the last of two equal keys win.
  Json parse_header(std::string_view text) {
    std::vector<std::set<std::string>> keys;
    std::string twice;
    const auto watch = [&](int depth, Json::parse_event_t event, const Json& value) {
      if (depth > kMostDepth) in_.fail("the header: it is nested too deep");
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
      if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
      if (event == Json::parse_event_t::key && !keys.empty() &&
          !keys.back().insert(value.get<std::string>()).second) {
        twice = value.get<std::string>();
      }
      return true;
    };
    Json header = Json::parse(text, watch, false);
    if (!header.is_object())
      in_.fail("the header: expected a JSON object, got " + tandem::quoted(text));
    if (!twice.empty())
      in_.fail("the header: the key " + tandem::quoted(twice) + " stands there twice");
    return header;
  }

  void read_metadata(const Json& entry) {
    if (!entry.is_object()) in_.fail("the header: __metadata__: expected an object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) {
        in_.fail("the header: __metadata__: " + tandem::quoted(key) + ": expected text");
      }
      content_.metadata[key] = value.get<std::string>();
    }
  }

  void read_tensor(const std::string& name, const Json& entry) {
    const std::string where = "tensor " + tandem::quoted(name);
    const bool whole = entry.is_object() && entry.size() == 3 && entry.contains("dtype") &&
                       entry["dtype"].is_string() && entry.contains("shape") &&
                       entry["shape"].is_array() && entry.contains("data_offsets") &&
                       entry["data_offsets"].is_array() && entry["data_offsets"].size() == 2;
    if (!whole) in_.fail(where + ": expected dtype, shape and two data_offsets");
    SafeTensor tensor;
    tensor.dtype = entry["dtype"].get<std::string>();
    uint64_t bytes = dtype_size(tensor.dtype);
    if (bytes == 0) in_.fail(where + ": unknown dtype " + tandem::quoted(tensor.dtype));
    for (const Json& side : entry["shape"]) {
      const uint64_t n = number(where + ": shape", side);
      if (n > 0 && bytes > data_.size() / n) {
        in_.fail(fmt::format("{}: its shape needs more than the {} bytes that follow the header",
                             where, data_.size()));
      }
      bytes *= n;
      tensor.shape.push_back(static_cast<int64_t>(n));
    }
    const uint64_t begin = number(where + ": data_offsets", entry["data_offsets"][0]);
    const uint64_t end = number(where + ": data_offsets", entry["data_offsets"][1]);
    if (begin > end || end - begin != bytes) {
      in_.fail(fmt::format("{}: expected {} bytes by its shape, got offsets {} to {}", where, bytes,
                           begin, end));
    }
    if (end > data_.size()) {
      in_.fail(fmt::format("{}: expected {} bytes behind the header, got {} (truncated?)", where,
                           end, data_.size()));
    }
    tensor.bytes = data_.subspan(begin, bytes);
    ranges_.emplace_back(begin, end);
    content_.tensors[name] = std::move(tensor);
  }

  uint64_t number(const std::string& where, const Json& value) {
    constexpr uint64_t kMost = uint64_t{1} << 48;
    if (value.is_number_unsigned() && value.get<uint64_t>() <= kMost) return value.get<uint64_t>();
    in_.fail(fmt::format("{}: expected a whole number up to {}", where, kMost));
  }

  void check_cover() {
    std::sort(ranges_.begin(), ranges_.end());
    uint64_t at = 0;
    for (const auto& [begin, end] : ranges_) {
      if (begin != at) {
        in_.fail(fmt::format("the tensors' bytes: expected one to begin at offset {}, got {}", at,
                             begin));
      }
      at = end;
    }
    if (at == data_.size()) return;
    in_.fail(fmt::format("expected {} bytes behind the header, got {}", at, data_.size()));
  }

  ByteReader in_;
  std::span<const std::byte> file_;
  std::span<const std::byte> data_;
  std::vector<std::pair<uint64_t, uint64_t>> ranges_;
  SafeTensors content_;
};

}  // namespace

SafeTensors parse_safetensors(std::span<const std::byte> file, const std::string& where) {
  return Parser(file, where).parse();
}

namespace {

void check_finite(const std::string& name, std::span<const std::byte> bytes, bool half,
                  const std::string& where) {
  const size_t size = half ? sizeof(uint16_t) : sizeof(uint32_t);
  const uint32_t exponent = half ? 0x7C00 : 0x7F800000;
  for (size_t i = 0; i < bytes.size(); i += size) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i, size);
    if ((bits & exponent) != exponent) continue;
    throw FileError(where, fmt::format("tensor {}: a number is not finite", name));
  }
}

}  // namespace

template <typename T>
std::vector<T> tensor_values(const SafeTensors& content, const std::string& name, const char* dtype,
                             const std::vector<int64_t>& shape, const std::string& where) {
  const auto at = content.tensors.find(name);
  if (at == content.tensors.end()) {
    throw FileError(where, fmt::format("there is no tensor {}", name));
  }
  const SafeTensor& tensor = at->second;
  if (tensor.dtype != dtype || tensor.shape != shape) {
    throw FileError(
        where, fmt::format("tensor {}: expected {} [{}], got {} [{}]", name, dtype,
                           fmt::join(shape, ", "), tensor.dtype, fmt::join(tensor.shape, ", ")));
  }
  const std::string_view type = dtype;
  if (type == "F16" || type == "F32") check_finite(name, tensor.bytes, type == "F16", where);
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

template std::vector<float> tensor_values(const SafeTensors&, const std::string&, const char*,
                                          const std::vector<int64_t>&, const std::string&);
template std::vector<uint8_t> tensor_values(const SafeTensors&, const std::string&, const char*,
                                            const std::vector<int64_t>&, const std::string&);
template std::vector<uint16_t> tensor_values(const SafeTensors&, const std::string&, const char*,
                                             const std::vector<int64_t>&, const std::string&);
template std::vector<int32_t> tensor_values(const SafeTensors&, const std::string&, const char*,
                                            const std::vector<int64_t>&, const std::string&);

std::string safetensors_bytes(const SafeTensors& content) {
  Json header;
  header[kMetadata] = content.metadata;
  uint64_t at = 0;
  for (const auto& [name, tensor] : content.tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {at, at + tensor.bytes.size()}}};
    at += tensor.bytes.size();
  }
  constexpr uint64_t kAlignment = 8;  // of the tensors' bytes; spaces may follow the object
  std::string text = header.dump();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const uint64_t size = text.size();
  std::string out(reinterpret_cast<const char*>(&size), sizeof size);
  out += text;
  out.reserve(out.size() + at);
  for (const auto& [name, tensor] : content.tensors) {
    out.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return out;
}

}  // namespace tandem
