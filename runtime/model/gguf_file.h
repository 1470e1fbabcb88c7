// A GGUF file (v2 or v3, little-endian) as typed metadata and located tensors.
// Format: the GGUF specification in the ggml project's docs/gguf.md.
//
// The file is hostile until read: every count, offset and product is bounded before use, and
// whatever does not fit is a FileError that names the file, the key or tensor, what was expected
// and what was found. Owns the mappings, or the memory that the weights are read into; views point
// into them. But for fill() it is immutable after opening, so any thread may read it.
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

#include "runtime/model/file_image.h"

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

// A value as the file has it: its type id and the bytes behind that, so that a copy is exact where
// GgufValue has widened it.
struct GgufRawValue {
  uint32_t type = 0;
  ByteRange bytes;
};

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
  ByteRange bytes() const { return {data, size_bytes}; }
  uint32_t part = 0;  // index of the split file that holds it
};

enum class FileAccess : uint8_t {
  kMapped,
  kRead,  // data of tensors is there once fill() has read it, and zeros before
};

class GgufFile {
 public:
  // Follows `-00001-of-0000N` to the other parts, whichever part is named first.
  static GgufFile open(const std::filesystem::path& path, FileAccess access = FileAccess::kMapped);
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
  const std::vector<GgufRawValue>& raw_metadata() const;  // in the same order

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

  bool in_memory() const;     // from_memory()
  FileAccess access() const;  // kMapped for memory

  // Of the following, a range lies in the data of tensors of one part.

  // kRead: reads the range to its place. FileError when the file has become shorter or cannot be
  // read. Ranges that do not overlap may be filled at the same time.
  void fill(ByteRange range);
  // The bytes of the range, read anew into *scratch whatever the access, or where they stand for
  // memory. Cheaper than mapped pages that are looked at once. Errors as fill().
  const std::byte* bytes_of(ByteRange range, std::vector<std::byte>* scratch) const;

  // Advice to the kernel, and nothing for memory that is no file's: that the range is needed soon;
  // that its pages are needed now (waits for them); that they are not needed for now.
  void advise_will_need(ByteRange range) const;
  void touch(ByteRange range) const;
  void advise_dont_need(ByteRange range) const;

 private:
  struct Impl;
  // The part of the range; nullptr for memory.
  FileImage* part_of(ByteRange range) const;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
