// Writes small GGUF files for tests, well-formed ones and, with the hooks at the end, hostile ones.
// Layout from the GGUF specification; shares no code with the reader under test.
//
//   GgufBuilder b;
//   b.add("general.architecture", "llama").add_u32("llama.block_count", 2);
//   b.add_strings("tokenizer.ggml.tokens", {"a", "b"});
//   b.add_tensor_f32("output_norm.weight", {4}, {1, 1, 1, 1});
//   const std::vector<std::byte> image = b.build();  // or b.write_file(path)
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace tandem::test {

using Bytes = std::vector<std::byte>;

template <typename T>
void append(Bytes& out, T value) {
  static_assert(std::is_arithmetic_v<T>);
  std::byte raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  out.insert(out.end(), raw, raw + sizeof(T));
}

// GGUF value type ids.
template <typename T>
constexpr uint32_t gguf_type_of() {
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, double>) return 12;
  if constexpr (sizeof(T) == 8) return std::is_signed_v<T> ? 11 : 10;
  return static_cast<uint32_t>(2 * (sizeof(T) / 2) + (std::is_signed_v<T> ? 1 : 0));
}

class GgufBuilder {
 public:
  // Metadata, written in the order of the calls. The C++ type decides the GGUF type.
  template <typename T>
  requires std::is_arithmetic_v<T> GgufBuilder& add(std::string_view key, T value) {
    Entry& entry = new_entry(key, gguf_type_of<T>());
    append(entry.payload, value);
    return *this;
  }
  GgufBuilder& add(std::string_view key, std::string_view value) {
    put_string(new_entry(key, 8), value);
    return *this;
  }
  GgufBuilder& add(std::string_view key, const char* value) {
    return add(key, std::string_view(value));
  }
  GgufBuilder& add_u32(std::string_view key, uint32_t value) { return add(key, value); }
  GgufBuilder& add_i32(std::string_view key, int32_t value) { return add(key, value); }
  GgufBuilder& add_u64(std::string_view key, uint64_t value) { return add(key, value); }
  GgufBuilder& add_f32(std::string_view key, float value) { return add(key, value); }
  GgufBuilder& add_bool(std::string_view key, bool value) { return add(key, value); }

  template <typename T>
  GgufBuilder& add_array(std::string_view key, const std::vector<T>& values) {
    Entry& entry = new_array(key, gguf_type_of<T>(), values.size());
    for (const T value : values) append(entry.payload, value);
    return *this;
  }
  GgufBuilder& add_strings(std::string_view key, const std::vector<std::string>& values) {
    Entry& entry = new_array(key, 8, values.size());
    for (const std::string& value : values) put_string(entry, value);
    return *this;
  }
  // Any type id with any payload.
  GgufBuilder& add_raw(std::string_view key, uint32_t type_id, const Bytes& payload) {
    new_entry(key, type_id).payload = payload;
    return *this;
  }

  // ne[0] is the length of a row; `bytes` is the data as stored, of any size.
  GgufBuilder& add_tensor(std::string_view name, uint32_t type_id, std::vector<uint64_t> ne,
                          std::span<const std::byte> bytes) {
    tensors_.push_back({std::string(name), type_id, std::move(ne),
                        Bytes(bytes.begin(), bytes.end()), std::nullopt});
    return *this;
  }
  GgufBuilder& add_tensor_f32(std::string_view name, std::vector<uint64_t> ne,
                              const std::vector<float>& values) {
    return add_tensor(name, 0, std::move(ne), std::as_bytes(std::span(values)));
  }

  GgufBuilder& set_version(uint32_t version) {
    version_ = version;
    return *this;
  }
  // Of the tensor data; also adds the key general.alignment.
  GgufBuilder& set_alignment(uint32_t alignment) {
    alignment_ = alignment;
    return add("general.alignment", alignment);
  }

  // Hooks for hostile files: what is written, whatever is true.
  GgufBuilder& claim_offset(uint64_t offset) {  // of the last tensor added
    tensors_.back().claimed_offset = offset;
    return *this;
  }
  GgufBuilder& claim_entries(uint64_t n) {
    claimed_entries_ = n;
    return *this;
  }
  GgufBuilder& claim_tensors(uint64_t n) {
    claimed_tensors_ = n;
    return *this;
  }

  // Where the image has its counts, lengths, dimensions, offsets (8 bytes) and its version, type
  // ids and numbers of dimensions (4 bytes), for tests that overwrite each of them.
  struct Fields {
    std::vector<size_t> wide;
    std::vector<size_t> narrow;
  };

  Bytes build(Fields* fields = nullptr) const {
    Fields ignored;
    Image image{{}, fields != nullptr ? *fields : ignored};
    image.bytes = {std::byte{'G'}, std::byte{'G'}, std::byte{'U'}, std::byte{'F'}};
    image.put_narrow(version_);
    image.put_wide(claimed_tensors_.value_or(tensors_.size()));
    image.put_wide(claimed_entries_.value_or(entries_.size()));
    for (const Entry& entry : entries_) put_entry(image, entry);
    uint64_t offset = 0;
    for (const Tensor& tensor : tensors_) {
      put_tensor_entry(image, tensor, offset);
      offset += padded(tensor.bytes.size());
    }
    // Without tensors nothing follows: padding is part of the data section.
    for (const Tensor& tensor : tensors_) {
      image.bytes.resize(padded(image.bytes.size()));
      image.bytes.insert(image.bytes.end(), tensor.bytes.begin(), tensor.bytes.end());
    }
    return image.bytes;
  }

  void write_file(const std::filesystem::path& path) const { write_bytes(path, build()); }

  static void write_bytes(const std::filesystem::path& path, std::span<const std::byte> bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
  }

 private:
  struct Entry {
    std::string key;
    uint32_t type_id;
    Bytes payload;
    std::vector<size_t> wide;  // fields in the payload
    std::vector<size_t> narrow;
  };
  struct Tensor {
    std::string name;
    uint32_t type_id;
    std::vector<uint64_t> ne;
    Bytes bytes;
    std::optional<uint64_t> claimed_offset;
  };
  struct Image {
    Bytes bytes;
    Fields& fields;

    void put_wide(uint64_t value) {
      fields.wide.push_back(bytes.size());
      append(bytes, value);
    }
    void put_narrow(uint32_t value) {
      fields.narrow.push_back(bytes.size());
      append(bytes, value);
    }
    void put_text(std::string_view text) {
      put_wide(text.size());
      for (const char c : text) append(bytes, c);
    }
  };

  Entry& new_entry(std::string_view key, uint32_t type_id) {
    entries_.push_back({std::string(key), type_id, {}, {}, {}});
    return entries_.back();
  }
  Entry& new_array(std::string_view key, uint32_t element_type, uint64_t n) {
    Entry& entry = new_entry(key, 9);
    entry.narrow.push_back(0);
    append(entry.payload, element_type);
    entry.wide.push_back(entry.payload.size());
    append(entry.payload, n);
    return entry;
  }
  static void put_string(Entry& entry, std::string_view text) {
    entry.wide.push_back(entry.payload.size());
    append(entry.payload, uint64_t{text.size()});
    for (const char c : text) append(entry.payload, c);
  }

  static void put_entry(Image& image, const Entry& entry) {
    image.put_text(entry.key);
    image.put_narrow(entry.type_id);
    for (const size_t at : entry.wide) image.fields.wide.push_back(image.bytes.size() + at);
    for (const size_t at : entry.narrow) image.fields.narrow.push_back(image.bytes.size() + at);
    image.bytes.insert(image.bytes.end(), entry.payload.begin(), entry.payload.end());
  }

  static void put_tensor_entry(Image& image, const Tensor& tensor, uint64_t offset) {
    image.put_text(tensor.name);
    image.put_narrow(static_cast<uint32_t>(tensor.ne.size()));
    for (const uint64_t ne : tensor.ne) image.put_wide(ne);
    image.put_narrow(tensor.type_id);
    image.put_wide(tensor.claimed_offset.value_or(offset));
  }

  uint64_t padded(uint64_t n) const { return (n + alignment_ - 1) / alignment_ * alignment_; }

  uint32_t version_ = 3;
  uint64_t alignment_ = 32;
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
  std::optional<uint64_t> claimed_entries_;
  std::optional<uint64_t> claimed_tensors_;
};

}  // namespace tandem::test
