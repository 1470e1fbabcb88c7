// Names and bookkeeping of a model that is split over several files. Internal to GgufFile.
// Convention: NAME-00001-of-0000N.gguf with the keys split.no (from 0), split.count and
// split.tensors.count, as the ggml project's gguf-split tool writes them. Pure; any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "runtime/model/gguf_metadata.h"

namespace tandem {

struct SplitName {
  std::string prefix;  // of the file name
  uint64_t part = 0;   // from 1
  uint64_t count = 0;
};

// nullopt: the name does not follow the convention.
std::optional<SplitName> parse_split_name(const std::filesystem::path& path);

// The same folder and prefix, another part (from 1).
std::filesystem::path split_path(const std::filesystem::path& any_part, const SplitName& name,
                                 uint64_t part);

struct SplitKeys {
  uint64_t no = 0;  // from 0
  uint64_t count = 1;
  std::optional<uint64_t> n_tensors;  // of all parts
};

// FileError for keys of another type, or for a part whose number is missing or past the count.
SplitKeys read_split_keys(const GgufMetadata& metadata, const std::string& where);

}  // namespace tandem
