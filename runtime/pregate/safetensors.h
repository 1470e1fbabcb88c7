// Files in the safetensors format (github.com/huggingface/safetensors, README, "Format"): a u64
// with the bytes of a JSON header, the header, then the tensors' bytes back to back. Little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

struct SafeTensor {
  std::string dtype;           // "F16", "F32", "I32", …
  std::vector<int64_t> shape;  // row-major
  std::span<const std::byte> bytes;
};

// A view: the bytes that it was parsed from outlive it.
struct SafeTensors {
  std::map<std::string, std::string, std::less<>> metadata;  // of "__metadata__"
  std::map<std::string, SafeTensor, std::less<>> tensors;
};

// FileError, opened by `where`, for whatever is not the format: a header that is cut, too long
// (more than 4 MiB) or no object of such entries, a key twice, a shape that does not fit its
// bytes, bytes that no tensor or two tensors own.
SafeTensors parse_safetensors(std::span<const std::byte> file, const std::string& where);

// The numbers of a tensor. FileError, opened by `where`, unless it is there, of this type and
// shape, and finite where it is F16 or F32.
template <typename T>
std::vector<T> tensor_values(const SafeTensors& content, const std::string& name, const char* dtype,
                             const std::vector<int64_t>& shape, const std::string& where);

// The file's bytes; tensors in the order of their names.
std::string safetensors_bytes(const SafeTensors& content);

}  // namespace tandem
