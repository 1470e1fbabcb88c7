// The subcommands. Each adds itself to the program; its callback throws Error for what the user
// can mend, and leaves the exit code in *exit_code otherwise.
#pragma once

#include <CLI/CLI.hpp>

namespace tandem {

inline constexpr int kExitInterrupted = 130;  // as shells report Ctrl-C

void add_plan_command(CLI::App* program);
void add_run_command(CLI::App* program, int* exit_code);
void add_chat_command(CLI::App* program, int* exit_code);
void add_inspect_command(CLI::App* program);
void add_tokenize_commands(CLI::App* program);
void add_logits_command(CLI::App* program);
void add_perplexity_command(CLI::App* program, int* exit_code);
void add_calibrate_command(CLI::App* program);
void add_bench_command(CLI::App* program);
void add_selftest_command(CLI::App* program, int* exit_code);
void add_trace_command(CLI::App* program, int* exit_code);
void add_pregate_commands(CLI::App* program, int* exit_code);
void add_refactor_command(CLI::App* program, int* exit_code);
void add_simulate_command(CLI::App* program, int* exit_code);

}  // namespace tandem
