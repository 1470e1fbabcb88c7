// Shared by the tests of the GGUF reader.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/gguf_file.h"
#include "tests/support/file_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/read_file.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {

inline const std::filesystem::path kFixtures =
    std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/fixtures/gguf";
inline const std::filesystem::path kDemoModel =
    std::filesystem::path(TANDEM_SOURCE_DIR) / "demo/hearthside-q8_0.gguf";

inline Bytes read_bytes(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline std::string parse_error(std::span<const std::byte> image) {
  return error_of([&] { GgufFile::from_memory(image, "memory"); });
}

inline std::string open_error(const std::filesystem::path& path) {
  return error_of([&] { GgufFile::open(path); });
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

inline std::span<const std::byte> data_of(const GgufTensor& tensor) {
  return {tensor.data, tensor.size_bytes};
}

}  // namespace tandem::test
