// What the readers of side-cars share: the keys and tensors of a safetensors file whose metadata
// says tandem-pregate, and in what way they fail. README.md describes the files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/pregate/safetensors.h"

namespace tandem {

inline constexpr const char* kSideCarFormat = "tandem-pregate";
inline constexpr const char* kSideCarVersion = "2";
inline constexpr const char* kBareSideCarVersion = "1";  // is read, too: it has no tables
inline constexpr int64_t kMostTrainingTokens = int64_t{1} << 48;

// A view: the bytes and `where`, which opens every message, outlive it. Every fault is a FileError.
class SideCar {
 public:
  // Format and version are checked.
  SideCar(std::span<const std::byte> file, const std::string& where);

  bool bare() const { return text("version") == kBareSideCarVersion; }
  const SafeTensors& content() const { return content_; }
  [[noreturn]] void fail(const std::string& what) const;

  // One of the kinds that there are (pregate_file.h).
  const std::string& kind() const;
  void expect_kind(std::string_view kind) const;

  // From the metadata.
  const std::string& text(const char* key) const;
  void expect(const char* key, std::string_view value) const;
  int64_t number(const char* key, int64_t least, int64_t most) const;
  float real(const char* key) const;  // finite

  // Tensors of this name and this very shape, [shape...], whose numbers are all finite.
  std::vector<float> floats(const std::string& name, const std::vector<int64_t>& shape) const;
  std::vector<uint16_t> halves(const std::string& name, const std::vector<int64_t>& shape) const;
  // There are so many tensors.
  void expect_tensors(size_t n) const;

 private:
  const std::string& where_;
  SafeTensors content_;
};

}  // namespace tandem
