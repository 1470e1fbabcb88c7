// tandem pregate: collects what routers see and say, and fits a lookahead to it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/prompt_file.h"
#include "runtime/cli/sampling_options.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/device/cpu_quota.h"
#include "runtime/device/cpu_topology.h"
#include "runtime/device/thread_count.h"
#include "runtime/engine/generate.h"
#include "runtime/error.h"
#include "runtime/model/available_memory.h"
#include "runtime/model/router_hash.h"
#include "runtime/model/sha256.h"
#include "runtime/model/shape_of_model.h"
#include "runtime/pregate/collection.h"
#include "runtime/pregate/fit.h"
#include "runtime/pregate/pregate_file.h"
#include "runtime/words.h"

namespace tandem {
namespace {

struct CollectOptions {
  ModelOptions model;
  SamplingOptions sampling{0.8F, 1};  // the same seed again, so that it can go on
  std::string prompts;
  std::string out;
  int64_t max_tokens = 256;
  int64_t most_mib = 20480;
  std::string tap = "router-input";
  bool json = false;
};

struct FitOptions {
  ModelOptions model;
  std::string data;
  std::string out;
  PregateFitSettings settings;
  bool json = false;
};

std::string hash_of(const Prompts& prompts) {
  Sha256 hash;
  for (const auto& prompt : prompts) {
    const auto n = static_cast<uint64_t>(prompt.size());
    hash.add(std::as_bytes(std::span(&n, 1)));
    hash.add(std::as_bytes(std::span(prompt)));
  }
  return hash.hex();
}

CollectionInfo info_of(const CollectOptions& options, const SamplingSettings& sampling,
                       const Engine& engine, const Prompts& prompts) {
  const Model& model = engine.model();
  CollectionInfo info;
  info.model = printable(shape_of(model).name);
  info.router_hash = router_hash(model);
  info.shape = tap_shape(model.config());
  info.shape.before_attention = options.tap == "both";
  info.n_prompts = static_cast<int64_t>(prompts.size());
  info.made_with = fmt::format(
      "prompts {}, {} bytes of weights, {}, -n {}, -c {}, K {}, V {}, {}", hash_of(prompts),
      model.file().file_bytes(), engine.device().info().name, options.max_tokens, engine.n_ctx(),
      options.model.kv_type_k, options.model.kv_type_v, sampling_text(sampling));
  return info;
}

// What a prompt's answer makes routers see goes to `taps`, and nothing of the prompt itself.
void tap_answer(Engine* engine, int64_t prompt_tokens, bool before_attention, TapBuffer* taps) {
  const ModelConfig& c = engine->model().config();
  engine->set_tap_hook(
      [taps, prompt_tokens, d = c.d_model, e = c.routing.n_experts](const RouterTap& tap) {
        if (tap.first_pos < prompt_tokens) return;
        for (size_t t = 0; t < tap.tokens.size(); ++t) {
          const auto row = static_cast<int64_t>(t);
          taps->add(tap.layer.value, tap.tokens[t], tap.inputs + row * d, tap.logits + row * e,
                    tap.before_attention ? tap.before_attention + row * d : nullptr);
        }
      },
      before_attention);
}

struct Collected {
  int64_t prompts = 0;  // of this run
  int64_t tokens = 0;
  bool full = false;  // the bound of the disk was reached
  bool interrupted = false;
};

Collected collect_all(const CollectOptions& options, const SamplingSettings& first,
                      const Prompts& prompts, const Tokenizer& tokenizer,
                      const Collection& collection, const InterruptGuard& guard, Engine* engine) {
  Progress progress;
  Collected done;
  TapBuffer taps(collection.info().shape);
  int64_t bytes = collection.bytes();
  const int64_t most_bytes = options.most_mib << 20;
  const auto full = [&] {
    return bytes + taps.file_bytes() + TapBuffer::token_bytes(collection.info().shape) > most_bytes;
  };
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto prompt = static_cast<int64_t>(i);
    if (collection.has(prompt)) continue;
    const std::string which = fmt::format("prompt {} of {}", i + 1, prompts.size());
    GenerationHooks hooks;
    taps.clear();
    done.full = full();
    if (done.full) return done;
    hooks.interrupted = [&] { return guard.interrupted() || full(); };
    int64_t written = 0;
    hooks.on_text = [&](std::string_view) {
      progress.show_count(which + ", writing", written++, options.max_tokens);
    };
    engine->rewind(0);
    tap_answer(engine, static_cast<int64_t>(prompts[i].size()),
               collection.info().shape.before_attention, &taps);
    SamplingSettings sampling = first;
    sampling.seed += static_cast<uint32_t>(i);  // the same whether it was resumed or not
    Sampler sampler(sampling, engine->model().config().n_vocab, engine->n_ctx());
    const GenerationResult result =
        generate(*engine, tokenizer, sampler, {prompts[i], options.max_tokens, false}, hooks);
    engine->set_tap_hook({});
    if (result.stop == StopReason::kInterrupted) {
      done.interrupted = guard.interrupted();
      done.full = !done.interrupted;
      return done;
    }
    taps.write(collection.file(prompt).string());
    bytes += taps.file_bytes();
    ++done.prompts;
    done.tokens += taps.n_tokens();
  }
  return done;
}

void report_collected(const CollectOptions& options, const Collection& collection,
                      const Collected& done) {
  const auto there = static_cast<int64_t>(collection.prompts().size());
  const int64_t bytes = collection.bytes();
  if (options.json) {
    print_out(json_text({{"folder", options.out},
                         {"prompts", there},
                         {"of_prompts", collection.info().n_prompts},
                         {"new_prompts", done.prompts},
                         {"new_tokens", done.tokens},
                         {"bytes", bytes},
                         {"full", done.full},
                         {"interrupted", done.interrupted}},
                        2) +
              "\n");
    return;
  }
  std::fprintf(stderr, "  wrote         %s: %s\n", printable(options.out).c_str(),
               fmt::format("{} of {} prompts, {} of them now with {} tokens, {}{}{}", there,
                           collection.info().n_prompts, done.prompts, done.tokens,
                           bytes_text(bytes), done.full ? "; stopped at --max-size" : "",
                           done.interrupted ? "; interrupted, the same command goes on" : "")
                   .c_str());
}

int collect(const CollectOptions& options) {
  Progress progress;
  const Model model = options.model.load_model(&progress);
  const Tokenizer tokenizer = options.model.load_tokenizer(model);
  const Prompts prompts = read_prompts(options.prompts, tokenizer);
  const MachineProfile machine = options.model.machine();
  Engine engine(model, machine, options.model.engine_settings());
  check_prompts_fit(prompts, engine.n_ctx());
  const SamplingSettings sampling = options.sampling.settings();
  const Collection collection =
      Collection::begin(options.out, info_of(options, sampling, engine, prompts));
  progress.clear();
  const InterruptGuard guard;
  if (!options.json) {
    std::fputs(settings_text(options.model.effective(engine, machine)).c_str(), stderr);
  }
  const Collected done =
      collect_all(options, sampling, prompts, tokenizer, collection, guard, &engine);
  report_collected(options, collection, done);
  return done.interrupted ? kExitInterrupted : 0;
}

// Means over source layers, by distance.
std::map<int32_t, LinkScore> by_distance(const FitResult& result) {
  std::map<int32_t, LinkScore> means;
  for (const LinkScore& s : result.scores) {
    LinkScore& mean = means[s.distance];
    const double links = result.pregate.n_layers - s.distance;  // with a layer so far ahead
    mean.fitted += s.fitted / links;
    mean.gate_reuse += s.gate_reuse / links;
    mean.previous_token += s.previous_token / links;
    mean.hot_list += s.hot_list / links;
    mean.brier += s.brier / links;
  }
  return means;
}

nlohmann::ordered_json ridge_json(double ridge) {
  return std::isinf(ridge) ? nlohmann::ordered_json("none") : nlohmann::ordered_json(ridge);
}

// A guess that refinement has not made better is as it was.
std::string refined_text(const FitOptions& options, const FitResult& result) {
  if (!result.refines) return "no guess: its router's selection has a bias";
  const std::vector<LinkScore>& all = result.scores;
  const auto refined = std::count_if(all.begin(), all.end(), [](auto& s) { return s.epochs > 0; });
  return fmt::format("{} of {} guesses, {} epochs at most", refined, all.size(),
                     options.settings.epochs);
}

// A fit's threads, and the memory of each.
struct FitMemory {
  int threads = 0;
  int64_t thread_bytes = 0;
};

void report_fit(const FitOptions& options, const FitResult& result, const FitMemory& memory,
                int64_t file_bytes) {
  if (options.json) {
    auto links = nlohmann::ordered_json::array();
    for (const LinkScore& s : result.scores) {
      links.push_back({{"layer", s.source + s.distance},
                       {"distance", s.distance},
                       {"fitted", s.fitted},
                       {"gate_reuse", s.gate_reuse},
                       {"previous_token", s.previous_token},
                       {"hot_list", s.hot_list},
                       {"brier", s.brier},
                       {"ridge", ridge_json(s.ridge)},
                       {"epochs", s.epochs}});
    }
    print_out(json_text({{"file", options.out},
                         {"bytes", file_bytes},
                         {"threads", memory.threads},
                         {"thread_bytes", memory.thread_bytes},
                         {"training_tokens", result.training_tokens},
                         {"validation_tokens", result.validation_tokens},
                         {"test_tokens", result.test_tokens},
                         {"recall", links}},
                        2) +
              "\n");
    return;
  }
  std::string text = fmt::format("  threads       {}, {} each at most\n", memory.threads,
                                 bytes_text(memory.thread_bytes));
  text += fmt::format(
      "  tokens        {} fitted, {} to choose with, {} held back; recall on those:\n"
      "  distance      fitted  gate reuse  previous token  hot list   Brier\n",
      result.training_tokens, result.validation_tokens, result.test_tokens);
  for (const auto& [distance, mean] : by_distance(result)) {
    text +=
        fmt::format("  {:<13} {:>6.3f}  {:>10.3f}  {:>14.3f}  {:>8.3f}  {:>6.4f}\n", distance,
                    mean.fitted, mean.gate_reuse, mean.previous_token, mean.hot_list, mean.brier);
  }
  if (result.scores.front().distance == 0) {
    text +=
        "  0: of the residual before the layer's own attention. Not in the file: no run uses it\n";
  }
  text += fmt::format("  refined       {}\n", refined_text(options, result));
  text += fmt::format("  wrote         {}: {}\n", printable(options.out), bytes_text(file_bytes));
  std::fputs(text.c_str(), stderr);
}

int fit(const FitOptions& options) {
  check_writable(options.out);
  Progress progress;
  const Model model = Model::load(options.model.open_model());
  if (options.model.check_tensors) model.check_finite();
  const Collection data = Collection::open(options.data);
  const int64_t task_bytes = fit_task_bytes(model, data, options.settings);
  const ThreadCount threads =
      thread_count(options.model.n_threads, CpuTopology::of_this_machine(), cpu_quota());
  const int64_t room = std::max<int64_t>(1, available_host_bytes() / task_bytes);
  ThreadPool pool(static_cast<int>(std::min<int64_t>(threads.n, room)), nullptr);
  const InterruptGuard guard;
  const auto show = [&](int64_t done, int64_t of) {
    progress.show_count("fitting, layers", done, of);
  };
  const std::optional<FitResult> result =
      fit_pregate(model, data, options.settings, pool, {show, [&] { return guard.interrupted(); }});
  progress.clear();
  if (!result) {
    std::fprintf(stderr, "tandem pregate fit: interrupted; %s was not written\n",
                 printable(options.out).c_str());
    return kExitInterrupted;
  }
  const std::string bytes = pregate_bytes(result->pregate);
  write_file(options.out, bytes);
  report_fit(options, *result, {pool.size(), task_bytes}, static_cast<int64_t>(bytes.size()));
  return 0;
}

void add_collect(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<CollectOptions>();
  CLI::App* app = program->add_subcommand("collect", "Write down what routers see and say");
  app->footer(
      "Example:\n  tandem pregate collect -m model.gguf -f prompts.txt -n 256 --out taps\n"
      "Prompts stand between lines that hold nothing but ---; only answers are written down, of\n"
      "each prompt a file. The same command again goes on where it was interrupted.");
  options->model.add_model(app);
  const CLI::Option* prompts = app->add_option("-f,--file", options->prompts,
                                               "text file with prompts; -: standard input "
                                               "(required)")
                                   ->type_name("FILE")
                                   ->check(not_empty());
  const CLI::Option* out = app->add_option("--out", options->out, "folder for the files (required)")
                               ->type_name("DIR")
                               ->check(not_empty());
  app->add_option("-n,--predict,--n-predict", options->max_tokens,
                  "most tokens to write after each prompt")
      ->type_name("N")
      ->check(whole_number(2, int64_t{1} << 20))  // the last one is not evaluated
      ->capture_default_str();
  app->add_option("--max-size", options->most_mib, "most MiB that the folder may take")
      ->type_name("MIB")
      ->check(whole_number(1, int64_t{1} << 30))
      ->capture_default_str();
  app->add_option("--tap", options->tap,
                  "router-input, or both: also the residual before attention (fit then says how "
                  "well that guesses its own layer)")
      ->type_name("TAP")
      ->check(one_of({"router-input", "both"}))
      ->capture_default_str();
  options->model.add_engine(app);
  options->sampling.add_to(app);
  app->add_flag("--json", options->json, "print what was collected as JSON");
  app->callback([app, options, exit_code, prompts, out] {
    options->model.apply_config(app);
    need(prompts);
    need(out);
    *exit_code = collect(*options);
  });
}

void add_fit(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<FitOptions>();
  CLI::App* app = program->add_subcommand("fit", "Fit a lookahead to what was collected");
  app->footer(
      "Example:\n  tandem pregate fit -m model.gguf --data taps "
      "--out model.pregate.safetensors\n"
      "Of every five prompts three are fitted, one chooses how much, one is held back for the "
      "table.");
  options->model.add_model(app);
  const CLI::Option* data = app->add_option("--data", options->data, "folder of collect (required)")
                                ->type_name("DIR")
                                ->check(not_empty());
  const CLI::Option* out = app->add_option("--out", options->out, "the side-car (required)")
                               ->type_name("FILE")
                               ->check(not_empty());
  app->add_option("--distances", options->settings.n_distances, "layers ahead that are guessed")
      ->type_name("N")
      ->check(whole_number(1, Pregate::kMostDistances))
      ->capture_default_str();
  app->add_option("--refine", options->settings.epochs,
                  "most epochs of logistic regression behind the ridge regression; 0: none")
      ->type_name("EPOCHS")
      ->check(whole_number(0, 1000))
      ->capture_default_str();
  app->add_option("-t,--threads", options->model.n_threads, "threads; 0: all physical cores")
      ->type_name("N")
      ->check(whole_number(0, 512))
      ->capture_default_str();
  app->add_flag("--json", options->json, "print the table by layer as JSON");
  app->callback([app, options, exit_code, data, out] {
    options->model.apply_config(app);
    need(data);
    need(out);
    *exit_code = fit(*options);
  });
}

}  // namespace

void add_pregate_commands(CLI::App* program, int* exit_code) {
  CLI::App* app = program->add_subcommand(
      "pregate", "Fit a lookahead that guesses which experts later layers use");
  app->require_subcommand(1);
  add_collect(app, exit_code);
  add_fit(app, exit_code);
}

}  // namespace tandem
