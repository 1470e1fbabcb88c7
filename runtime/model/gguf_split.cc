#include "runtime/model/gguf_split.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "runtime/error.h"

namespace tandem {
namespace {

constexpr size_t kDigits = 5;

bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

std::optional<uint64_t> take_number(std::string_view& text) {
  if (text.size() < kDigits) return std::nullopt;
  const std::string_view digits = text.substr(text.size() - kDigits);
  uint64_t value = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  text.remove_suffix(kDigits);
  return value;
}

}  // namespace

std::optional<SplitName> parse_split_name(const std::filesystem::path& path) {
  const std::string file_name = path.filename().string();
  std::string_view rest = file_name;
  if (!take_suffix(rest, ".gguf")) return std::nullopt;
  const auto count = take_number(rest);
  if (!count || !take_suffix(rest, "-of-")) return std::nullopt;
  const auto part = take_number(rest);
  if (!part || !take_suffix(rest, "-")) return std::nullopt;
  if (*part < 1 || *part > *count) return std::nullopt;
  return SplitName{std::string(rest), *part, *count};
}

std::filesystem::path split_path(const std::filesystem::path& any_part, const SplitName& name,
                                 uint64_t part) {
  std::filesystem::path path = any_part;
  return path.replace_filename(
      fmt::format("{}-{:05}-of-{:05}.gguf", name.prefix, part, name.count));
}

SplitKeys read_split_keys(const GgufMetadata& metadata, const std::string& where) {
  SplitKeys keys;
  keys.count = std::max<uint64_t>(get_uint(metadata, "split.count", where).value_or(1), 1);
  keys.n_tensors = get_uint(metadata, "split.tensors.count", where);
  const auto no = get_uint(metadata, "split.no", where);
  if (keys.count > 1 && !no) {
    throw FileError(where, fmt::format("it is one of {} parts, but the key \"split.no\" that says "
                                       "which is missing",
                                       keys.count));
  }
  keys.no = no.value_or(0);
  if (keys.no >= keys.count) {
    fail_key(where, "split.no", fmt::format("less than split.count ({})", keys.count),
             fmt::format("{}", keys.no));
  }
  return keys;
}

}  // namespace tandem
