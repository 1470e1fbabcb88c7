// The program: parses the command line, runs one subcommand, turns an Error into one line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/version.h"
#include "runtime/error.h"

namespace {

// llama.cpp has flags of several letters behind one dash; CLI11 knows one letter or two dashes.
std::string long_form(std::string_view argument) {
  constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
      {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"}, {"-ngl", "--n-gpu-layers"},
      {"-ncmoe", "--n-cpu-moe"},  {"-cmoe", "--cpu-moe"},     {"-ub", "--ubatch-size"},
      {"-tb", "--threads-batch"}, {"-fa", "--flash-attn"},    {"-ot", "--override-tensor"},
      {"-sys", "--system-prompt"}};
  for (const auto& [from, to] : kAliases) {
    if (argument == from) return std::string(to);
  }
  return std::string(argument);
}

int run(int argc, char** argv) {
  CLI::App program{"Tandem runs mixture-of-experts language models that are bigger than the GPU."};
  program.set_version_flag("--version", tandem::version_text());
  program.require_subcommand(1);
  program.footer("Example:\n  tandem run -m model.gguf -p \"Once upon a time\" -n 128");
  int exit_code = 0;
  tandem::add_run_command(&program, &exit_code);
  tandem::add_chat_command(&program, &exit_code);
  tandem::add_inspect_command(&program);
  tandem::add_tokenize_commands(&program);
  tandem::add_logits_command(&program);
  tandem::add_perplexity_command(&program);
  tandem::add_bench_command(&program);

  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) arguments.push_back(long_form(argv[i]));
  try {
    program.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return program.exit(error);
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const tandem::Error& error) {
    std::fprintf(stderr, "tandem: %s\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "tandem: out of host memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tandem: %s\n", error.what());
  }
  return 1;
}
