// Parses one GGUF image: one part of a model, or all of it. Internal to GgufFile.
//
// Nothing in the image is trusted. A count is checked against the bytes that are left before
// anything is allocated for it, sums and products are checked for overflow, and the first thing
// that does not fit is a FileError. Pure: no files, no state; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/gguf_file.h"
#include "runtime/model/gguf_metadata.h"

namespace tandem {

// Views point into the image.
struct GgufImage {
  uint32_t version = 0;
  uint64_t alignment = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in file order; names unique, data disjoint; part is 0
};

// `where` opens every message: the path, or what stands for it.
GgufImage parse_gguf(std::span<const std::byte> image, const std::string& where);

}  // namespace tandem
