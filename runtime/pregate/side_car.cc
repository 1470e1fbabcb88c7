#include "runtime/pregate/side_car.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/pregate/pregate_file.h"

namespace tandem {
namespace {

struct Kind {
  std::string_view name;
  const char* what;
};
constexpr Kind kKinds[] = {{kLinearKind, "a fitted lookahead"},
                           {kDecoupledKind, "the router of a refactored model"}};

// For messages.
std::string explained(std::string_view name) {
  for (const Kind& kind : kKinds) {
    if (kind.name == name) return fmt::format("{} ({})", name, kind.what);
  }
  return tandem::quoted(name);
}

}  // namespace

SideCar::SideCar(std::span<const std::byte> file, const std::string& where)
    : where_(where), content_(parse_safetensors(file, where)) {
  expect("format", kSideCarFormat);
  if (!bare()) expect("version", kSideCarVersion);
}

void SideCar::fail(const std::string& what) const { throw FileError(where_, what); }

const std::string& SideCar::kind() const {
  const std::string& got = text("kind");
  for (const Kind& kind : kKinds) {
    if (kind.name == got) return got;
  }
  fail(fmt::format("__metadata__: kind: expected {} or {}, got {}", kLinearKind, kDecoupledKind,
                   tandem::quoted(got)));
}

void SideCar::expect_kind(std::string_view kind) const {
  const std::string& got = text("kind");
  if (got == kind) return;
  fail(fmt::format("__metadata__: kind: expected {}, got {}", explained(kind), explained(got)));
}

const std::string& SideCar::text(const char* key) const {
  const auto at = content_.metadata.find(key);
  if (at == content_.metadata.end()) fail(fmt::format("__metadata__: expected the key {}", key));
  return at->second;
}

void SideCar::expect(const char* key, std::string_view value) const {
  if (text(key) == value) return;
  fail(fmt::format("__metadata__: {}: expected {}, got {}", key, value, tandem::quoted(text(key))));
}

int64_t SideCar::number(const char* key, int64_t least, int64_t most) const {
  const std::string& digits = text(key);
  int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  if (error == std::errc() && stop == end && value >= least && value <= most) return value;
  fail(fmt::format("__metadata__: {}: expected a whole number from {} to {}, got {}", key, least,
                   most, tandem::quoted(digits)));
}

float SideCar::real(const char* key) const {
  const std::string& digits = text(key);
  float value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  if (error == std::errc() && stop == end && std::isfinite(value)) return value;
  fail(fmt::format("__metadata__: {}: expected a number, got {}", key, tandem::quoted(digits)));
}

std::vector<float> SideCar::floats(const std::string& name,
                                   const std::vector<int64_t>& shape) const {
  return tensor_values<float>(content_, name, "F32", shape, where_);
}

std::vector<uint16_t> SideCar::halves(const std::string& name,
                                      const std::vector<int64_t>& shape) const {
  return tensor_values<uint16_t>(content_, name, "F16", shape, where_);
}

void SideCar::expect_tensors(size_t n) const {
  if (content_.tensors.size() == n) return;
  fail(fmt::format("expected {} tensors, got {}", n, content_.tensors.size()));
}

}  // namespace tandem
