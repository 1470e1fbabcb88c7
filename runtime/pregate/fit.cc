#include "runtime/pregate/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/router_hash.h"
#include "runtime/model/throwing_tasks.h"
#include "runtime/pregate/fit_tables.h"
#include "runtime/pregate/source_fit.h"

namespace tandem {
namespace {

constexpr int64_t kFold = 5;  // prompts: three of these train, one validates, one tests
constexpr int64_t kValidates = 3;
constexpr int64_t kTests = 4;

TapSplit split_answers(const Collection& data) {
  TapSplit split;
  int64_t n = 0;
  for (const int64_t prompt : data.prompts()) {
    auto file = std::make_unique<TapFile>(data.file(prompt).string(), data.info().shape);
    if (file->n_tokens() == 0) continue;
    const int64_t part = n++ % kFold;
    auto& to = part == kTests ? split.test : part == kValidates ? split.validation : split.training;
    to.push_back(std::move(file));
  }
  if (n < kFold) {
    throw ConfigError(
        fmt::format("the folder holds taps of {} answers; expected at least {}", n, kFold));
  }
  return split;
}

int64_t tokens_of(const TapFiles& files) {
  int64_t n = 0;
  for (const auto& file : files) n += file->n_tokens();
  return n;
}

void check_data(const Model& model, const Collection& data) {
  const TapShape shape = tap_shape(model.config());
  if (data.info().shape != shape || data.info().router_hash != router_hash(model)) {
    throw ConfigError(fmt::format("the taps were collected with another model, {}",
                                  tandem::quoted(data.info().model)));
  }
  if (shape.n_layers < 2) throw ConfigError("the model has one layer: there is none to guess");
}

Pregate empty_pregate(const Collection& data, const ModelConfig& config, int32_t n_distances) {
  Pregate out;
  out.model = data.info().model;
  out.router_hash = data.info().router_hash;
  out.n_layers = data.info().shape.n_layers;
  out.n_experts = data.info().shape.n_experts;
  out.top_k = config.routing.top_k;
  out.d_model = data.info().shape.d_model;
  out.n_distances = std::min(n_distances, out.n_layers - 1);
  return out;
}

// Tasks in parallel that an interrupt stops, or an error of one of them.
class StoppableTasks {
 public:
  StoppableTasks(ParallelFor parallel, const FitHooks& hooks)
      : parallel_(parallel), hooks_(hooks) {}

  // From any thread.
  bool go_on() {
    if (hooks_.interrupted && hooks_.interrupted()) stopped_ = true;
    return !stopped_;
  }

  // Whether all were done; a task that was stopped says false.
  bool run(int64_t n, FunctionRef<bool(int64_t)> task) {
    const int64_t before = done_;
    run_throwing(parallel_, n, [&](int64_t i) {
      if (!go_on()) return;
      try {
        if (!task(i)) return;
      } catch (...) {
        stopped_ = true;
        throw;
      }
      const std::lock_guard lock(mutex_);
      ++done_;
      if (hooks_.progress) hooks_.progress(done_);
    });
    return done_ == before + n;
  }

 private:
  ParallelFor parallel_;
  const FitHooks& hooks_;
  std::mutex mutex_;
  int64_t done_ = 0;
  std::atomic<bool> stopped_ = false;
};

void take_tables(FittedTables tables, FitResult* result) {
  for (size_t i = 0; i < result->scores.size(); ++i) {
    result->scores[i].pair_table = tables.pairs[i].recall;
    result->scores[i].pair_brier = tables.pairs[i].brier;
  }
  for (const TableScore& score : tables.tokens) {
    result->token_scores.push_back({score.recall, score.brier});
  }
  result->known_tokens = tables.known;
  result->pregate.tables = std::move(tables.tables);
}

}  // namespace

int64_t fit_tasks(const ModelConfig& config) { return config.n_layers - 1 + n_table_tasks(config); }

int64_t fit_task_bytes(const Model& model, const Collection& data,
                       const PregateFitSettings& settings) {
  check_data(model, data);
  const TapSplit split = split_answers(data);
  const int64_t validation = tokens_of(split.validation);
  const TapShape& shape = data.info().shape;
  return std::max(SourceFit::bytes(shape, settings.n_distances, validation),
                  table_task_bytes(shape, validation));
}

std::optional<FitResult> fit_pregate(const Model& model, const Collection& data,
                                     const PregateFitSettings& settings, ParallelFor parallel,
                                     const FitHooks& hooks) {
  check_data(model, data);
  const TapSplit split = split_answers(data);
  FitResult result;
  result.training_tokens = tokens_of(split.training);
  result.validation_tokens = tokens_of(split.validation);
  result.test_tokens = tokens_of(split.test);
  Pregate& out = result.pregate;
  out = empty_pregate(data, model.config(), settings.n_distances);
  out.training_tokens = result.training_tokens;

  StoppableTasks tasks(parallel, hooks);
  const int64_t n_sources = out.n_layers - 1;  // the last layer has none behind it
  std::vector<std::vector<FittedLink>> fitted(static_cast<size_t>(n_sources));
  const bool linked = tasks.run(n_sources, [&](int64_t source) {
    SourceFit fit(model, split, static_cast<int32_t>(source), out.n_distances);
    auto& links = fitted[static_cast<size_t>(source)];
    links = fit.run([&] { return tasks.go_on(); });
    return !links.empty();
  });
  if (!linked) return std::nullopt;
  for (auto& source : fitted) {
    for (FittedLink& link : source) {
      out.links.push_back(std::move(link.link));
      result.scores.push_back(link.score);
    }
  }
  const auto run = [&](int64_t n, FunctionRef<bool(int64_t)> task) { return tasks.run(n, task); };
  std::optional<FittedTables> tables = fit_tables(model, split, out.n_distances, run);
  if (!tables) return std::nullopt;
  take_tables(std::move(*tables), &result);
  return result;
}

}  // namespace tandem
