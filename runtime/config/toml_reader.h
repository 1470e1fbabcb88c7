// A TOML table read key by key: every key must be asked for, so that a misspelt one is an error
// and nothing is silently ignored. Messages name the file and the key.
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class TomlReader {
 public:
  // ConfigError with the line when the text is not TOML.
  TomlReader(std::string_view text, std::string file);

  // `key` is dotted ("link.h2d_gbps"). ConfigError when it is there with another type or outside
  // [least, most].
  std::optional<double> number(std::string_view key, double least, double most);
  std::optional<int64_t> integer(std::string_view key, int64_t least, int64_t most);
  std::optional<std::string> text(std::string_view key);
  std::optional<bool> flag(std::string_view key);
  // A list of numbers; messages count its elements from 0.
  std::optional<std::vector<double>> numbers(std::string_view key, double least, double most);
  std::optional<std::vector<int64_t>> integers(std::string_view key, int64_t least, int64_t most);
  // A string, number or boolean, as text.
  std::optional<std::string> scalar(std::string_view key);
  // As number() and integer(), but absence is a ConfigError.
  double need_number(std::string_view key, double least, double most);
  int64_t need_integer(std::string_view key, int64_t least, int64_t most);

  // ConfigError naming the first key that nobody asked for.
  void done() const;
  [[noreturn]] void fail(std::string_view key, const std::string& what) const;

 private:
  toml::node_view<const toml::node> find(std::string_view key);
  double checked_number(std::string_view key, const toml::node& node, double least,
                        double most) const;
  int64_t checked_integer(std::string_view key, const toml::node& node, int64_t least,
                          int64_t most) const;

  std::string file_;
  toml::table table_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace tandem
