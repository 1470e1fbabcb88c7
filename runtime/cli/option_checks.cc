#include "runtime/cli/option_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <utility>

#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_items_expected_max() == 0) return "";
    return " " + option->get_type_name();
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    if (option->get_items_expected_max() == 0 || option->get_default_str().empty()) return text;
    return text + fmt::format(" (default: {})", option->get_default_str());
  }
};

}  // namespace

CLI::Validator whole_number(int64_t least, int64_t most) {
  const auto check = [least, most](const std::string& text) -> std::string {
    int64_t value = 0;
    const char* const end = text.data() + text.size();
    const size_t digits = text.rfind('-', 0) == 0 ? 1 : 0;
    if (text.size() > digits + 1 && text[digits] == '0') {
      // CLI11 would read it in base 8.
      return fmt::format("\"{}\" begins with 0; expected a whole number from {} to {}", text, least,
                         most);
    }
    const auto [rest, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc{} && rest == end && value >= least && value <= most) return {};
    return fmt::format("\"{}\" is not a whole number from {} to {}", text, least, most);
  };
  return CLI::Validator(check, "");
}

CLI::Validator number(double least, double most) {
  const auto check = [least, most](const std::string& text) -> std::string {
    char* rest = nullptr;
    const double value = std::strtod(text.c_str(), &rest);
    const bool is_number = !text.empty() && rest == text.c_str() + text.size();
    if (is_number && value >= least && value <= most) return {};
    return fmt::format("\"{}\" is not a number from {} to {}", text, least, most);
  };
  return CLI::Validator(check, "");
}

CLI::Validator one_of(std::vector<std::string> names) {
  const auto check = [names = std::move(names)](const std::string& text) -> std::string {
    if (std::find(names.begin(), names.end(), text) != names.end()) return {};
    return fmt::format("\"{}\" is not one of {}", text, list_text(names));
  };
  return CLI::Validator(check, "");
}

CLI::Validator not_empty() {
  return CLI::Validator(
      [](const std::string& text) { return std::string(text.empty() ? "is empty" : ""); }, "");
}

void need(const CLI::Option* option) {
  if (option->count() == 0) throw ConfigError(option->get_name() + " is required");
}

std::shared_ptr<CLI::FormatterBase> help_formatter() {
  const auto formatter = std::make_shared<HelpFormatter>();
  constexpr size_t kColumn = 34;
  formatter->column_width(kColumn);
  return formatter;
}

}  // namespace tandem
