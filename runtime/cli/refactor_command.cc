// tandem refactor: a dense model becomes experts, one a domain of text, with a router of its own.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/model_options.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/refactor_report.h"
#include "runtime/cli/summary.h"
#include "runtime/cli/text_io.h"
#include "runtime/device/cpu_quota.h"
#include "runtime/device/cpu_topology.h"
#include "runtime/device/thread_count.h"
#include "runtime/device/thread_pool.h"
#include "runtime/error.h"
#include "runtime/model/model_config.h"
#include "runtime/pregate/decoupled_file.h"
#include "runtime/refactor/dense_forward.h"
#include "runtime/refactor/extract.h"
#include "runtime/words.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kRouterHead = 64;        // values of a head
constexpr int32_t kWidestRouter = 512;     // Read-ME's
constexpr int64_t kDefaultTokens = 65536;  // of a domain, Read-ME's

struct RefactorOptions {
  ModelOptions model;
  std::vector<std::string> texts;
  std::string out;
  double keep = 0.5;
  int64_t most_tokens = kDefaultTokens;
  int64_t window = 256;
  int32_t router_width = 0;
  RouterTrainingSettings training;
  bool json = false;
};

class Interrupted {};  // ends a run whose Ctrl-C was seen

class Refactoring {
 public:
  Refactoring(const RefactorOptions& options, const DenseModel& model, const Tokenizer& tokenizer)
      : options_(options),
        model_(model),
        pool_(
            thread_count(options.model.n_threads, CpuTopology::of_this_machine(), cpu_quota()).n) {
    settings_.window = options.window;
    read_texts(tokenizer);
    if (tokenizer.adds_bos()) settings_.bos = tokenizer.bos();
    describe();
  }

  // Files are whole where it throws Interrupted, or not there; written() says which.
  void run() {
    choose_channels();
    train_router();
    write();
    score();
  }
  const RefactorReport& report() const { return report_; }
  bool written() const { return report_.side_car_bytes > 0; }

 private:
  ParallelFor parallel() { return pool_; }

  PassHooks hooks(const std::string& what) {
    return {[this, what](int64_t done, int64_t total) { progress_.show_count(what, done, total); },
            [this] { return guard_.interrupted(); }};
  }
  template <typename T>
  T unless_interrupted(std::optional<T> result) {
    progress_.clear();
    if (!result) throw Interrupted();
    return std::move(*result);
  }

  void read_texts(const Tokenizer& tokenizer) {
    for (const std::string& path : options_.texts) {
      progress_.show("tokenizing " + printable(path));
      const std::vector<TokenId> tokens = tokenizer.encode(read_text(path), false, false);
      report_.domains.push_back(split_text(fs::path(path).stem().string(), tokens, options_.window,
                                           options_.most_tokens));
    }
    progress_.clear();
  }

  void describe() {
    const ModelConfig& c = model_.config();
    report_.model = fmt::format("{}: {}, {} layers, width {}, feed-forward {}", c.name, c.arch,
                                c.n_layers, c.d_model, model_.ff());
    report_.dense_bytes = static_cast<int64_t>(model_.file().file_bytes());
    report_.window = options_.window;
    report_.threads = pool_.size();
    report_.keep = options_.keep;
    report_.masks.kept = kept_channels(options_.keep, model_.ff());
    report_.training = options_.training;
    report_.training.window = static_cast<int32_t>(options_.window);
    int64_t tokens = 0;
    for (const DomainText& d : report_.domains) {
      tokens += static_cast<int64_t>(d.training.size() + d.held_out.size());
    }
    const auto n = static_cast<int64_t>(report_.domains.size());
    const int64_t text_bytes = tokens * (2 * int64_t{sizeof(int32_t)} + n * int64_t{sizeof(float)});
    const int64_t channel_bytes = n * c.n_layers * model_.ff() * int64_t{sizeof(double)};
    report_.memory_bytes = text_bytes + channel_bytes +
                           std::max(pass_bytes(model_, settings_),
                                    router_training_bytes(router_shape(), report_.training));
  }

  DecoupledShape router_shape() const {
    const ModelConfig& c = model_.config();
    DecoupledShape shape;
    shape.n_vocab = static_cast<int32_t>(c.n_vocab);
    shape.width = options_.router_width;
    if (shape.width == 0) {
      const auto most = static_cast<int32_t>(std::min<int64_t>(kWidestRouter, c.d_model));
      shape.width = most >= kRouterHead ? most / kRouterHead * kRouterHead : most / 2 * 2;
    }
    shape.n_heads = shape.width % kRouterHead == 0 ? shape.width / kRouterHead : 1;
    shape.ff = shape.width;
    shape.window = static_cast<int32_t>(options_.window);
    shape.n_experts = static_cast<int32_t>(report_.domains.size());
    shape.n_layers = static_cast<int32_t>(c.n_layers);
    return shape;
  }

  // The leading columns of the model's own embedding, as far as the router has as many.
  std::vector<float> leading_embedding(int32_t width) const {
    const WeightView& embedding = model_.embedding();
    if (width > embedding.cols) return {};
    std::vector<float> leading(static_cast<size_t>(embedding.rows * width));
    for (int64_t r = 0; r < embedding.rows; ++r) {
      dequantize(embedding.type, embedding.data + r * embedding.run_stride(),
                 leading.data() + r * width, width);
    }
    return leading;
  }

  void choose_channels() {
    const ChannelMeans means = unless_interrupted(measure_channels(
        model_, report_.domains, settings_, hooks("measuring channels, tokens"), parallel()));
    report_.masks = choose_masks(means, report_.masks.kept);
  }

  void train_router() {
    const RoutedTexts texts =
        unless_interrupted(route_texts(model_, report_.masks, report_.domains, settings_,
                                       hooks("what a router should say, tokens"), parallel()));
    const DecoupledShape shape = router_shape();
    RouterTrainingSettings settings = report_.training;
    settings.embed = leading_embedding(shape.width);
    settings.warm_up = std::min(settings.warm_up, settings.steps / 2);
    const auto show = [&](int64_t done, double loss) {
      progress_.show_count(fmt::format("training the router, loss {:.4f}, steps", loss), done,
                           settings.steps);
    };
    report_.router = unless_interrupted(
        train_decoupled_router(texts.training, texts.held_out, shape, settings, parallel(),
                               {show, [this] { return guard_.interrupted(); }}));
    report_.router.router.model = printable(model_.config().name);
  }

  void write() {
    const DecoupledRouter& router = report_.router.router;
    const GgufWriter::Hooks writing{[this](int64_t done, int64_t total) {
                                      progress_.show_count("writing, MiB", done >> 20, total >> 20);
                                    },
                                    [this] { return guard_.interrupted(); }};
    const bool whole =
        write_refactored(model_, report_.masks, decoupled_hash(router), options_.out, writing);
    progress_.clear();
    if (!whole) throw Interrupted();
    const std::string bytes = decoupled_bytes(router);
    report_.side_car = pregate_beside(options_.out);
    write_file(report_.side_car, bytes);
    report_.out = options_.out;
    report_.out_bytes = static_cast<int64_t>(fs::file_size(options_.out));
    report_.side_car_bytes = static_cast<int64_t>(bytes.size());
  }

  void score() {
    report_.perplexities = unless_interrupted(
        score_domains(model_, report_.masks, report_.router.router, report_.domains, settings_,
                      hooks("scoring held-out text, tokens"), parallel()));
  }

  const RefactorOptions& options_;
  const DenseModel& model_;
  ThreadPool pool_;
  InterruptGuard guard_;
  Progress progress_;
  PassSettings settings_;
  RefactorReport report_;
};

void check(const RefactorOptions& options) {
  if (options.model.built_in()) {
    throw ConfigError(
        "the built-in demo model is none to refactor: it has experts; give a dense "
        "model with -m");
  }
  const auto n = static_cast<int64_t>(options.texts.size());
  if (n < 2 || n > kMostDomains) {
    throw ConfigError(
        fmt::format("-f names {} texts; expected 2 to {}, one a domain", n, kMostDomains));
  }
  std::error_code error;
  if (fs::equivalent(options.model.model_path, options.out, error)) {
    throw ConfigError("--out is the dense model's own file");
  }
  check_writable(options.out);
  check_writable(pregate_beside(options.out));
}

int refactor(const RefactorOptions& options) {
  check(options);
  const DenseModel model = DenseModel::load(options.model.open_model());
  const Tokenizer tokenizer = options.model.load_tokenizer(model.file());
  if (std::cmp_not_equal(tokenizer.n_vocab(), model.config().n_vocab)) {
    throw FileError(model.file().name(),
                    fmt::format("its tokenizer has {} tokens, its embedding {}",
                                tokenizer.n_vocab(), model.config().n_vocab));
  }
  if (options.window > model.config().n_ctx_train) {
    throw ConfigError(fmt::format("-c is {}, more than the {} tokens that the model was trained on",
                                  options.window, model.config().n_ctx_train));
  }
  if (options.model.check_tensors) model.check_finite();
  Refactoring work(options, model, tokenizer);
  if (!options.json) std::fputs(refactor_begin_text(work.report()).c_str(), stderr);
  bool interrupted = false;
  try {
    work.run();
  } catch (const Interrupted&) {
    interrupted = true;
  }
  if (interrupted && !work.written()) {
    std::fprintf(stderr, "tandem refactor: interrupted; %s was not written\n",
                 printable(options.out).c_str());
    return kExitInterrupted;
  }
  if (options.json) {
    print_out(json_text(refactor_json(work.report()), 2) + "\n");
  } else {
    std::fputs(refactor_end_text(work.report()).c_str(), stderr);
  }
  return interrupted ? kExitInterrupted : 0;
}

void add_numbers(RefactorOptions* options, CLI::App* app) {
  app->add_option("--keep", options->keep, "share of feed-forward channels that a token has left")
      ->type_name("P")
      ->check(number(0.01, 1))
      ->capture_default_str();
  app->add_option("--max-tokens", options->most_tokens, "tokens of a domain to learn from, at most")
      ->type_name("N")
      ->check(whole_number(256, int64_t{1} << 30))
      ->capture_default_str();
  app->add_option("-c,--ctx-size", options->window, "tokens that are read together")
      ->type_name("N")
      ->check(whole_number(8, 4096))
      ->capture_default_str();
  app->add_option("--steps", options->training.steps, "steps of the router's training")
      ->type_name("N")
      ->check(whole_number(1, int64_t{1} << 30))
      ->capture_default_str();
  app->add_option("--router-width", options->router_width,
                  "width of the router; 0: the model's, at most 512")
      ->type_name("N")
      ->check(whole_number(0, 4096))
      ->capture_default_str();
  app->add_option("-s,--seed", options->training.seed, "of the router's training")
      ->type_name("N")
      ->check(whole_number(0, int64_t{1} << 32))
      ->capture_default_str();
  app->add_option("-t,--threads", options->model.n_threads, "threads; 0: all physical cores")
      ->type_name("N")
      ->check(whole_number(0, 512))
      ->capture_default_str();
}

}  // namespace

void add_refactor_command(CLI::App* program, int* exit_code) {
  const auto options = std::make_shared<RefactorOptions>();
  CLI::App* app = program->add_subcommand("refactor", "Make experts of a dense model");
  app->footer(
      "Example:\n  tandem refactor -m dense.gguf -f stories.txt,code.txt --out moe.gguf\n"
      "Each text is a domain and becomes an expert; its last tenth is held out. Also writes\n"
      "moe.pregate.safetensors, the router, which the model cannot run without.");
  options->model.add_model(app);
  const CLI::Option* texts =
      app->add_option("-f,--file", options->texts, "texts, one a domain, by commas (required)")
          ->type_name("FILES")
          ->delimiter(',')
          ->check(not_empty());
  const CLI::Option* out = app->add_option("--out", options->out, "the model to write (required)")
                               ->type_name("FILE")
                               ->check(not_empty());
  add_numbers(options.get(), app);
  app->add_flag("--json", options->json, "print what was done and found as JSON");
  app->callback([app, options, exit_code, texts, out] {
    options->model.apply_config(app);
    need(texts);
    need(out);
    *exit_code = refactor(*options);
  });
}

}  // namespace tandem
