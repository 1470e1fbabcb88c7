// Checks of option values, with messages that say what was expected, and the shape of --help.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tandem {

CLI::Validator whole_number(int64_t least, int64_t most);
CLI::Validator number(double least, double most);  // refuses NaN
CLI::Validator one_of(std::vector<std::string> names);
// An empty value is a forgotten shell variable rather than a wish for the default.
CLI::Validator not_empty();

// ConfigError when the option was given neither on the command line nor in a file. Call after
// ModelOptions::apply_config; CLI11's own required() would look too early.
void need(const CLI::Option* option);

// Names, what it is, "(default: …)"; without CLI11's notes on types and checks.
std::shared_ptr<CLI::FormatterBase> help_formatter();

}  // namespace tandem
