// tandem simulate: the engine's planner, cache and prefetcher on a virtual clock.
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/simulate_rows.h"
#include "runtime/cli/simulate_sweep.h"
#include "runtime/cli/text_io.h"
#include "scheduler/placement.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

void run_simulate(const SimulateOptions& options) {
  if (!options.timeline.empty()) check_writable(options.timeline);
  Sweep sweep(options);
  const std::vector<SimulateRow> rows = sweep.run();
  if (!options.timeline.empty()) write_file(options.timeline, timeline_json(sweep.timeline()));
  print_out(rows_text(rows, options.output));
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

void add_simulate_command(CLI::App* program) {
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
  add_list(app, "--model-shape", &options->models, "M,..", "a name in configs/models or a file")
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
  app->add_option("--recall", options->recall, "of the lookahead, one layer ahead")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_option("--recall-drop", options->recall_drop, "of the recall, each further layer")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_flag("--recorded", options->recorded,
                "use the lookahead that the trace recorded, not one of the given recall");
  app->add_option("-s,--seed", options->seed, "of synthetic traces and of the lookahead's errors")
      ->check(whole_number(0, INT64_MAX))
      ->capture_default_str();
  app->add_flag("--no-bounds", options->no_bounds, "leave out clairvoyant and strict bound");
  app->add_option("--timeline", options->timeline,
                  "write the first row's decoding as a trace that Perfetto opens")
      ->type_name("FILE");
  app->add_option("-o,--output", options->output, "form of the results")
      ->type_name("md|csv|json|jsonl")
      ->check(one_of({"md", "csv", "json", "jsonl"}))
      ->capture_default_str();
  app->add_flag("--json", options->json, "the same as -o json");
  app->callback([options] {
    if (options->json) options->output = "json";
    run_simulate(*options);
  });
}

}  // namespace tandem
