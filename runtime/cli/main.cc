// The program: parses the command line, runs one subcommand, turns an Error into one line.
// Exit codes: 0, 1 (files, memory, devices), 2 (flags and settings), 130 (Ctrl-C).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/llama_flags.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/text_io.h"
#include "runtime/cli/version.h"
#include "runtime/error.h"
#include "runtime/words.h"

namespace {

using tandem::instead_of;
using tandem::long_form;
using tandem::with_value;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

int report(const std::string& where, const std::string& what, int exit_code) {
  tandem::end_out_line();
  std::fprintf(stderr, "%s: %s\n", where.c_str(), tandem::printable(what).c_str());
  return exit_code;
}

bool takes_value(const CLI::App* command, const std::string& argument) {
  if (command == nullptr || argument.rfind('-', 0) != 0) return false;
  const CLI::Option* option = command->get_option_no_throw(argument);
  return option != nullptr && option->get_items_expected_max() > 0;
}

// An argument as the user spelt it and as CLI11 can read it.
struct Argument {
  std::string typed;
  std::string readable;
};

// A value stays as it is even where it looks like a flag.
std::vector<Argument> readable(const CLI::App& program, const std::vector<std::string>& typed) {
  std::vector<Argument> arguments;
  const CLI::App* command = nullptr;
  bool is_value = false;
  bool after_flag = false;
  for (const std::string& argument : typed) {
    const std::string both =
        after_flag ? with_value(arguments.back().readable, argument) : std::string();
    if (!both.empty()) {
      arguments.back().readable = both;
      after_flag = false;
      continue;
    }
    arguments.push_back({argument, is_value ? argument : long_form(argument)});
    const CLI::App& outer = command == nullptr ? program : *command;
    for (const CLI::App* each : outer.get_subcommands({})) {
      if (!is_value && each->get_name() == argument) command = each;
    }
    after_flag = !is_value;
    is_value = !is_value && takes_value(command, arguments.back().readable);
  }
  return arguments;
}

// The first argument that nothing took, as the user spelt it.
std::string first_unknown(const CLI::App& program, const std::vector<std::string>& typed) {
  const std::vector<std::string> left = program.remaining(true);
  for (const Argument& argument : readable(program, typed)) {
    if (std::find(left.begin(), left.end(), argument.readable) != left.end()) return argument.typed;
  }
  return {};
}

// One line instead of CLI11's two.
std::string usage_text(const CLI::App& program, const CLI::App* command,
                       const CLI::ParseError& error, const std::vector<std::string>& typed) {
  const std::string unknown = first_unknown(program, typed);
  const std::vector<const CLI::App*> choices =
      (command == nullptr ? program : *command).get_subcommands({});
  if (!choices.empty()) {
    std::vector<std::string> names;
    names.reserve(choices.size());
    for (const CLI::App* each : choices) names.push_back(each->get_name());
    return (unknown.empty() ? "no command" : "\"" + unknown + "\" is not a command") +
           "; expected one of " + tandem::list_text(names);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    const std::string what = error.what();  // "--prompt: 1 required TEXT missing"
    return what.substr(0, what.find(':')) + " needs one value";
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr || unknown.empty()) {
    return error.what();
  }
  const std::string_view instead = instead_of(unknown);
  return "unknown argument " + unknown + (instead.empty() ? "" : ": ") + std::string(instead);
}

void add_commands(CLI::App* program, int* exit_code) {
  tandem::add_run_command(program, exit_code);
  tandem::add_chat_command(program, exit_code);
  tandem::add_inspect_command(program);
  tandem::add_plan_command(program);
  tandem::add_tokenize_commands(program);
  tandem::add_logits_command(program);
  tandem::add_perplexity_command(program, exit_code);
  tandem::add_bench_command(program);
  tandem::add_calibrate_command(program);
  tandem::add_selftest_command(program, exit_code);
  tandem::add_trace_command(program, exit_code);
  tandem::add_pregate_commands(program, exit_code);
  tandem::add_refactor_command(program, exit_code);
  tandem::add_simulate_command(program, exit_code);
}

int run(const std::vector<std::string>& typed) {
  CLI::App program{"Tandem runs mixture-of-experts language models that are bigger than the GPU.",
                   "tandem"};
  program.formatter(tandem::help_formatter());
  program.set_version_flag("--version", tandem::version_text());
  program.require_subcommand(1);
  program.footer("Example:\n  tandem run -m model.gguf -p \"Once upon a time\" -n 128");
  int exit_code = 0;
  add_commands(&program, &exit_code);

  std::vector<std::string> arguments;
  for (const Argument& argument : readable(program, typed)) arguments.push_back(argument.readable);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  try {
    program.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    tandem::print_out(program.help());
  } catch (const CLI::CallForVersion& version) {
    tandem::print_out(std::string(version.what()) + "\n");
  } catch (const CLI::ParseError& error) {
    const CLI::App* command = nullptr;  // the innermost
    std::string where = "tandem";
    for (auto commands = program.get_subcommands(); !commands.empty();
         commands = command->get_subcommands()) {
      command = commands.front();
      where += " " + command->get_name();
    }
    return report(where, usage_text(program, command, error, typed) + "; see " + where + " --help",
                  kExitUsage);
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + std::min(argc, 1), argv + argc});
  } catch (const tandem::ConfigError& error) {
    return report("tandem", error.what(), kExitUsage);
  } catch (const std::bad_alloc&) {
    return report("tandem", "out of host memory", kExitFailure);
  } catch (const std::exception& error) {
    return report("tandem", error.what(), kExitFailure);
  }
}
