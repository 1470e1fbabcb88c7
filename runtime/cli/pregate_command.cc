// tandem pregate: collects what routers see and say, and fits a lookahead to it.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/fit_report.h"
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
  Engine engine(model, machine, options.model.engine_settings(&progress));
  check_prompts_fit(prompts, engine.n_ctx());
  if (!model.config().decoupled_router.empty()) {
    throw ConfigError("the model's layers have no routers: there is nothing to guess");
  }
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
  const FitReport report{*result,     options.out, static_cast<int64_t>(bytes.size()),
                         pool.size(), task_bytes,  options.settings.epochs};
  if (options.json) {
    print_out(json_text(fit_json(report), 2) + "\n");
  } else {
    std::fputs(fit_text(report).c_str(), stderr);
  }
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
      "table.\nBeside the lookahead the file gets tables for the predictors pair-table, "
      "token-table "
      "and\ndraft-free of policy files (runtime/pregate/README.md).");
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
