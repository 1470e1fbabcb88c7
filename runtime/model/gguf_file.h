// A GGUF file (v2 or v3, little-endian) as typed metadata and located tensors.
// Format: the GGUF specification in the ggml project's docs/gguf.md.
//
// The file is hostile until read: every count, offset and product is bounded before use, and
// whatever does not fit is a FileError that names the file, the key or tensor, what was expected
// and what was found. Owns the mappings; views point into them. Immutable after opening, so any
// thread may read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tandem {

// An array keeps its element type; strings are views into the file.
struct GgufArray {
  uint32_t element_type = 0;  // GGUF value type id
  std::variant<std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>,
               std::vector<std::string_view>>
      values;  // unsigned and bool; signed; float; string
  size_t size() const;
};

// Integers widen to 64 bits; f32 and f64 to double.
using GgufValue = std::variant<bool, uint64_t, int64_t, double, std::string_view, GgufArray>;

// A ggml tensor type, whether or not a kernel here reads it.
struct GgmlTypeInfo {
  uint32_t id;
  const char* name;
  uint32_t block_elems;
  uint32_t block_bytes;
};
const GgmlTypeInfo* ggml_type_info(uint32_t id);  // nullptr: unknown id

struct GgufTensor {
  std::string_view name;
  uint32_t type_id = 0;
  uint32_t n_dims = 0;
  uint64_t ne[4] = {1, 1, 1, 1};  // ne[0] is the fastest (a row's length)
  const std::byte* data = nullptr;
  uint64_t size_bytes = 0;
  uint32_t part = 0;  // index of the split file that holds it
};

class GgufFile {
 public:
  // Follows `-00001-of-0000N` to the other parts, whichever part is named first.
  static GgufFile open(const std::filesystem::path& path);
  // `bytes` must outlive the object. `name` stands for the path in messages.
  static GgufFile from_memory(std::span<const std::byte> bytes, std::string name);

  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& name() const;  // path as given, for messages
  uint32_t version() const;
  uint32_t n_parts() const;
  uint64_t file_bytes() const;  // of all parts
  uint64_t alignment() const;

  // Of the first part; the split.* bookkeeping included. Ordered as in the file.
  const std::vector<std::pair<std::string_view, GgufValue>>& metadata() const;
  const GgufValue* find(std::string_view key) const;

  // nullopt when absent; FileError when present with another type or out of range.
  std::optional<uint64_t> get_uint(std::string_view key) const;  // any integer type, >= 0
  std::optional<double> get_float(std::string_view key) const;   // f32, f64 or an integer
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string_view> get_string(std::string_view key) const;
  const std::vector<std::string_view>* get_string_array(std::string_view key) const;
  std::optional<std::vector<double>> get_float_array(std::string_view key) const;
  std::optional<std::vector<int64_t>> get_int_array(std::string_view key) const;

  // As above, but absence is a FileError.
  uint64_t need_uint(std::string_view key) const;
  std::string_view need_string(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const;  // all parts, in file order
  const GgufTensor* find_tensor(std::string_view name) const;

  // Tells the kernel that these bytes are not needed for now. A no-op for memory that is not a
  // mapping.
  void advise_dont_need(const GgufTensor& tensor) const;
  // A part of a tensor: one expert of a merged one.
  void advise_dont_need(std::span<const std::byte> range) const;

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
