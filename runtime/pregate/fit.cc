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
#include "runtime/pregate/source_fit.h"

namespace tandem {
namespace {

constexpr int64_t kFold = 5;  // prompts: three of these train, one validates, one tests
constexpr int64_t kValidates = 3;
constexpr int64_t kTests = 4;

TapSplit split_prompts_of(const Collection& data) {
  TapSplit split;
  const std::vector<int64_t> prompts = data.prompts();
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto file = std::make_unique<TapFile>(data.file(prompts[i]).string(), data.info().shape);
    if (file->n_tokens() == 0) continue;
    const auto part = static_cast<int64_t>(i) % kFold;
    auto& to = part == kTests ? split.test : part == kValidates ? split.validation : split.training;
    to.push_back(std::move(file));
  }
  return split;
}

int64_t tokens_of(const TapFiles& files) {
  int64_t n = 0;
  for (const auto& file : files) n += file->n_tokens();
  return n;
}

void check_data(const Model& model, const Collection& data, const TapSplit& split) {
  const ModelConfig& c = model.config();
  const TapShape shape{static_cast<int32_t>(c.n_layers), c.routing.n_experts,
                       static_cast<int32_t>(c.d_model)};
  if (data.info().shape != shape || data.info().router_hash != router_hash(model)) {
    throw ConfigError(fmt::format("the taps were collected with another model, {}",
                                  tandem::quoted(data.info().model)));
  }
  if (split.test.empty()) {
    throw ConfigError(fmt::format("the folder holds taps of {} prompts; expected at least {}",
                                  data.prompts().size(), kFold));
  }
}

}  // namespace

int64_t fit_task_bytes(const TapShape& shape, const PregateFitSettings& settings) {
  return SourceFit::bytes(shape, settings.n_distances);
}

FitResult fit_pregate(const Model& model, const Collection& data,
                      const PregateFitSettings& settings, ParallelFor parallel,
                      const std::function<bool(int64_t done)>& progress) {
  const TapSplit split = split_prompts_of(data);
  check_data(model, data, split);
  const ModelConfig& c = model.config();
  FitResult result;
  result.training_tokens = tokens_of(split.training);
  result.validation_tokens = tokens_of(split.validation);
  result.test_tokens = tokens_of(split.test);
  Pregate& out = result.pregate;
  out.model = data.info().model;
  out.router_hash = data.info().router_hash;
  out.n_layers = static_cast<int32_t>(c.n_layers);
  out.n_experts = c.routing.n_experts;
  out.top_k = c.routing.top_k;
  out.d_model = static_cast<int32_t>(c.d_model);
  out.n_distances = std::min(settings.n_distances, out.n_layers - 1);
  out.training_tokens = result.training_tokens;

  const int64_t n_sources = c.n_layers - 1;  // the last layer has none behind it
  std::vector<std::vector<FittedLink>> fitted(static_cast<size_t>(n_sources));
  std::mutex mutex;
  int64_t done = 0;
  std::atomic<bool> stopped = false;
  run_throwing(parallel, n_sources, [&](int64_t source) {
    if (stopped) return;
    SourceFit fit(model, split, static_cast<int32_t>(source), out.n_distances);
    fitted[static_cast<size_t>(source)] = fit.run([&] { return !stopped; });
    const std::lock_guard lock(mutex);
    if (progress && !progress(++done)) stopped = true;
  });
  if (stopped) return {};
  for (auto& source : fitted) {
    for (FittedLink& link : source) {
      out.links.push_back(std::move(link.link));
      result.scores.push_back(link.score);
    }
  }
  return result;
}

}  // namespace tandem
