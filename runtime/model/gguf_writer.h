// Writes a GGUF file, version 3: metadata first, then tensors that are streamed, so that a file may
// be larger than memory. Under another name, renamed when it is whole. Format: the GGUF
// specification in the ggml project's docs/gguf.md. Used by one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/gguf_file.h"

namespace tandem {

class GgufWriter {
 public:
  using Sink = std::function<void(std::span<const std::byte>)>;
  // Gives the tensor's bytes to the sink, in order, in pieces of any size.
  using Source = std::function<void(const Sink&)>;

  // Keys are written in the order of the calls, each once.
  void add_u32(std::string_view key, uint32_t value);
  void add_string(std::string_view key, std::string_view value);
  // As another file has it. Not general.alignment, which is 32 here, nor split.*.
  void add_raw(std::string_view key, const GgufRawValue& value);

  // ne[0] is the length of a row. Checked: whole blocks, no dimension of 0.
  void add_tensor(std::string_view name, uint32_t type_id, std::vector<uint64_t> ne, Source source);

  struct Hooks {
    std::function<void(int64_t done, int64_t total)> progress{};  // bytes of tensors
    std::function<bool()> interrupted{};                          // asked before each tensor
  };
  // False when it was interrupted: there is no file then, and what was there before still is.
  // FileError when it cannot be written. Checked: sources give what their tensors take.
  bool write(const std::filesystem::path& path, const Hooks& hooks) const;

  int64_t tensor_bytes() const;  // without padding

 private:
  struct Tensor {
    std::string name;
    uint32_t type_id;
    std::vector<uint64_t> ne;
    uint64_t size_bytes;
    Source source;
  };

  std::string header() const;

  std::string metadata_;
  uint64_t n_entries_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace tandem
