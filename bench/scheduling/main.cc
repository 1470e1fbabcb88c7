// Studies of scheduling on modelled machines. bench/README.md has the commands and the results.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "bench/scheduling/studies.h"

namespace tandem::bench {
namespace {

void add_grid(CLI::App* app, GridOptions* grid) {
  const auto list = [&](const char* flag, auto* values, const char* what) {
    app->add_option(flag, *values, what)->delimiter(',')->capture_default_str();
  };
  app->add_option("--real", grid->real, "a recorded trace: FILE=SHAPE[:FROM-TO sequences]");
  list("--models", &grid->models, "models with synthetic routing");
  list("--machines", &grid->machines, "machine profiles");
  list("--seeds", &grid->seeds, "of synthetic traces");
  list("--shares", &grid->shares, "of the experts that fit the cache");
  app->add_option("--prompt", grid->prompt, "tokens of a synthetic prompt");
  app->add_option("--decode", grid->decode, "tokens decoded after it");
  app->add_option("--sequences", grid->sequences, "synthetic sequences");
  app->add_option("--recall", grid->recall, "of the lookahead, one layer ahead");
  app->add_option("--recall-drop", grid->recall_drop, "of the recall, each further layer");
}

// As it was given, the program without its folder.
std::string command(int argc, char** argv) {
  std::string text = "scheduling_study";
  for (int i = 1; i < argc; ++i) text += std::string(" ") + argv[i];
  return text;
}

int run(int argc, char** argv) {
  CLI::App app("Studies of scheduling; all speeds are modelled");
  StudyOptions options;
  options.grid.models = {"mixtral-8x7b",    "deepseek-v2-lite", "qwen2-57b-a14b", "qwen3-30b-a3b",
                         "qwen3-235b-a22b", "gpt-oss-20b",      "gpt-oss-120b",   "olmoe-1b-7b",
                         "glm-4.5-air",     "deepseek-v3"};
  options.grid.machines = {
      "a6000-xeon5220r-paper", "a6000-xeon5220r-tuned", "rtx3060-ddr4", "rtx3090-ddr4",
      "rtx4090-ddr5",          "rtx5090-ddr5",          "laptop-8gb"};
  options.grid.seeds = {101};
  std::string csv;
  app.require_subcommand(1);
  CLI::App* speed = app.add_subcommand("speed", "ours beside HybriMoE, static and the bounds");
  add_grid(speed, &options.grid);
  speed->add_option("--prefill", options.prefill, "prompts of so many tokens instead of decoding");
  speed->add_option("--policy", options.ours, "ours: a policy's name or file");
  speed->add_option("--systems", options.systems, "only these beside ours")->delimiter(',');
  speed->add_option("--csv", csv, "file for the raw rows");
  CLI::App* parts = app.add_subcommand("parts", "what each part of ours is worth alone");
  add_grid(parts, &options.grid);
  parts->add_option("--prefill", options.prefill, "prompts of so many tokens instead of decoding");
  parts->add_option("--policy", options.ours, "ours: a policy's name or file");
  parts->add_option("--csv", csv, "file for the raw rows");
  CLI::App* lookahead = app.add_subcommand("lookahead", "what looking ahead is worth, by recall");
  std::vector<double> recalls{0, 0.1, 0.25, 0.5, 0.67, 0.85, 0.95, 1};
  add_grid(lookahead, &options.grid);
  lookahead->add_option("--recalls", recalls, "one layer ahead")->delimiter(',');
  lookahead->add_option("--policy", options.ours, "ours: a policy's name or file");
  lookahead->add_option("--csv", csv, "file for the raw rows");
  CLI::App* handover = app.add_subcommand("handover", "what a prompt leaves for decoding");
  add_grid(handover, &options.grid);
  handover->add_option("--policy", options.ours, "ours: a policy's name or file");
  handover->add_option("--csv", csv, "file for the raw rows");
  CLI::App* hits = app.add_subcommand("hits", "hit rates of recorded traces, no times");
  std::vector<double> hit_shares{0.1, 0.25, 0.5, 0.75};
  HitsOptions hits_options;
  hits->add_option("--real", options.grid.real, "a recorded trace: FILE, or FILE=SHAPE")
      ->required();
  hits->add_flag("--prompts", hits_options.prompts, "their tokens as well, one by one");
  hits->add_option("--users", hits_options.users,
                   "at a time: the tokens of so many sequences take turns")
      ->check(CLI::Range(int64_t{1}, int64_t{4096}));
  hits->add_option("--windows", hits_options.windows, "of windowed-belady, tokens that are known")
      ->delimiter(',')
      ->check(CLI::Range(0, 1000000));
  hits->add_option("--shares", hit_shares, "of the experts that fit the cache")->delimiter(',');
  hits->add_option("--csv", csv, "file for the raw rows");
  CLI::App* paper = app.add_subcommand("paper", "HybriMoE's Table III on its own machine");
  std::vector<int64_t> paper_seeds{101, 102, 103};
  paper->add_option("--seeds", paper_seeds, "of synthetic traces")->delimiter(',');
  paper->add_option("--csv", csv, "file for the raw rows");
  CLI::App* thinking = app.add_subcommand("thinking", "host time of planning, measured here");
  std::string machine = "rtx4090-ddr5";
  thinking->add_option("--machine", machine, "a machine profile to plan for");
  thinking->add_option("--policy", options.ours, "a policy's name or file");
  thinking->add_option("--csv", csv, "file for the raw rows");
  CLI::App* robustness = app.add_subcommand("robustness", "ours with a profile that is wrong");
  double error = 0.3;
  GridOptions few = options.grid;
  few.models = {"qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-120b"};
  few.decode = 32;
  few.sequences = 3;
  add_grid(robustness, &few);
  robustness->add_option("--error", error, "of each term, a share of 1")->check(CLI::Range(0., .9));
  robustness->add_option("--prefill", options.prefill, "prompts of so many tokens, not decoding");
  robustness->add_option("--policy", options.ours, "ours: a policy's name or file");
  robustness->add_option("--csv", csv, "file for the raw rows");
  CLI11_PARSE(app, argc, argv);
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(nullptr, std::fclose);
  if (!csv.empty()) {
    file.reset(std::fopen(csv.c_str(), "w"));
    if (!file) throw std::runtime_error("cannot write " + csv);
  }
  options.csv = file.get();
  if (options.csv != nullptr) fmt::print(options.csv, "# {}\n", command(argc, argv));
  if (speed->parsed()) speed_study(options);
  if (parts->parsed()) parts_study(options);
  if (lookahead->parsed()) lookahead_study(options, recalls);
  if (handover->parsed()) handover_study(options);
  if (paper->parsed()) {
    options.grid.seeds = paper_seeds;
    options.grid.machines = {"a6000-xeon5220r-paper", "a6000-xeon5220r-tuned"};
    paper_study(options);
  }
  if (thinking->parsed()) {
    options.grid.machines = {machine};
    thinking_study(options);
  }
  if (hits->parsed()) {
    options.grid.shares = hit_shares;
    options.grid.models.clear();
    options.grid.needs_shapes = false;
    hits_study(options, hits_options);
  }
  if (robustness->parsed()) {
    options.grid = few;
    robustness_study(options, error);
  }
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  try {
    return tandem::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "scheduling_study: {}\n", error.what());
    return 1;
  }
}
