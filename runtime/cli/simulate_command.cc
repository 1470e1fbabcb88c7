// tandem simulate: the engine's planner, cache and prefetcher on a virtual clock.
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/report_page.h"
#include "runtime/cli/simulate_rows.h"
#include "runtime/cli/simulate_sweep.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/hot_set.h"
#include "scheduler/placement.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

// As it is where a shell takes it so, else in single quotes.
std::string shell_quoted(const std::string& text) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:=@_";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// What was asked for, in a form that a shell reads back.
std::string command_line(const CLI::App& app) {
  std::string text = "tandem " + app.get_name();
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0) continue;
    const std::string name = " " + option->get_name();
    if (option->get_items_expected_max() == 0) {
      text += name;
      continue;
    }
    const bool list = option->get_delimiter() != '\0';
    std::string joined;
    for (const std::string& value : option->results()) {
      if (list && !joined.empty()) {
        joined += option->get_delimiter() + value;
      } else {
        if (!joined.empty()) text += name + " " + shell_quoted(joined);
        joined = value;
      }
    }
    text += name + " " + shell_quoted(joined);
  }
  return text;
}

int run_simulate(const SimulateOptions& options, const std::string& command) {
  for (const std::string& path : {options.timeline, options.report, options.save_hot_set}) {
    if (!path.empty()) check_writable(path);
  }
  Sweep sweep(options);
  const std::vector<SimulateRow> rows = sweep.run();
  {
    const InterruptGuard guard;  // Ctrl-C waits for a file that is being written
    if (!options.timeline.empty()) write_file(options.timeline, timeline_json(sweep.timeline()));
    if (!options.save_hot_set.empty()) {
      write_file(options.save_hot_set, hot_set_text(sweep.hot_set()));
    }
    if (!options.report.empty()) {
      Report report = sweep.report();
      report.command = command;
      report.rows = rows;
      write_file(options.report, report_page(report));
    }
    if (guard.interrupted()) return kExitInterrupted;
  }
  print_out(rows_text(rows, options.output));
  return 0;
}

CLI::Option* add_list(CLI::App* app, const char* flags, std::vector<std::string>* list,
                      const char* type, const char* what) {
  return app->add_option(flags, *list, what)
      ->type_name(type)
      ->delimiter(',')
      ->allow_extra_args(false);
}

std::vector<std::string> names(std::span<const std::string_view> from) {
  return {from.begin(), from.end()};
}

}  // namespace

void add_simulate_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<SimulateOptions>();
  CLI::App* app = program->add_subcommand(
      "simulate", "Predict speed on a machine you may not have, from a routing trace");
  app->footer(
      "Example:\n  tandem simulate --trace synthetic:qwen2-57b --model-shape qwen2-57b-a14b "
      "--machine rtx4090-ddr5 --cache 25%,50% --policy tandem,hybrimoe\n"
      "Comma lists are products. Speeds are modelled, never measured.");
  // A synthetic trace has commas of its own.
  app->add_option("--trace", options->traces,
                  "routing: a file, or synthetic[:PRESET][,KEY=VALUE..]; may be repeated")
      ->type_name("T")
      ->allow_extra_args(false)
      ->default_str("synthetic");
  add_list(app, "--model-shape", &options->models, "M,..",
           "a name in configs/models, a TOML or a GGUF file")
      ->default_str(options->models.front());
  add_list(app, "--machine", &options->machines, "P,..", "a name in configs/machines or a file")
      ->default_str(options->machines.front());
  add_list(app, "--policy", &options->policies, "A,..", "a name in configs/policies or a file")
      ->default_str(options->policies.front());
  add_list(app, "--planner", &options->planners, "N,..", "instead of the policies' own")
      ->check(one_of(names(placement_rule_names())));
  add_list(app, "--predictor", &options->predictors, "N,..", "instead of the policies' own")
      ->check(one_of(names(predictor_names())));
  add_list(app, "--cache,--vram", &options->cache, "C,..",
           "expert cache: a share of all experts (25%) or MiB")
      ->default_str(options->cache.front());
  app->add_option("--prefill", options->prefill, "also read prompts of N tokens")
      ->type_name("N,..")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(whole_number(2, 1 << 20));
  CLI::Option* recall =
      app->add_option("--recall", options->recall, "of an oracle for a lookahead, one layer ahead")
          ->check(CLI::Range(0.0, 1.0))
          ->capture_default_str();
  CLI::Option* drop =
      app->add_option("--recall-drop", options->recall_drop, "of the recall, each further layer")
          ->check(CLI::Range(0.0, 1.0))
          ->capture_default_str();
  app->add_flag("--recorded", options->recorded,
                "use the predictions that the trace recorded, not an oracle's; the rows say whose "
                "they are")
      ->excludes(recall, drop);
  app->add_option("--expert-bytes", options->expert_bytes,
                  "whose sizes of experts: the trace's, if it has them, or the model shape's")
      ->type_name("trace|shape")
      ->check(one_of({"trace", "shape"}))
      ->capture_default_str();
  app->add_option("-s,--seed", options->seed, "of synthetic traces and of the lookahead's errors")
      ->check(whole_number(0, INT64_MAX))
      ->capture_default_str();
  app->add_flag("--no-bounds", options->no_bounds, "leave out clairvoyant and strict bound");
  app->add_option("--hot-set", options->hot_set,
                  "start with the experts of a saved hot set, not with those learned from the "
                  "first part of the trace")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_option("--save-hot-set", options->save_hot_set,
                  "write the experts that the first row's policy values at the end of decoding")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_option("--timeline", options->timeline,
                  "write the first row's decoding as a trace that Perfetto opens")
      ->type_name("FILE");
  app->add_option("--report", options->report,
                  "write a page (HTML) with charts of all rows, hit rates beside Belady's, and one "
                  "token's timeline for the first two policies")
      ->type_name("FILE");
  app->add_option("-o,--output", options->output, "form of the results")
      ->type_name("md|csv|json|jsonl")
      ->check(one_of({"md", "csv", "json", "jsonl"}))
      ->capture_default_str();
  app->add_flag("--json", options->json, "the same as -o json");
  app->callback([app, options, exit_code] {
    if (options->json) options->output = "json";
    *exit_code = run_simulate(*options, command_line(*app));
  });
}

}  // namespace tandem
