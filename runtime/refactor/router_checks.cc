#include "runtime/refactor/router_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace tandem {
namespace {

void check_settings(const DecoupledShape& shape, const RouterTrainingSettings& s) {
  const auto check = [](const char* what, double got, double least, double most) {
    if (got >= least && got <= most) return;
    throw ConfigError(
        fmt::format("router training: {}: expected {} to {}, got {}", what, least, most, got));
  };
  constexpr double kMostWindow = 1 << 16;
  constexpr double kMostBatch = 1 << 12;
  constexpr double kMostSteps = 1e9;
  constexpr double kMostClip = 1e9;
  check("window", s.window, 1, kMostWindow);
  check("batch", s.batch, 1, kMostBatch);
  check("steps", static_cast<double>(s.steps), 1, kMostSteps);
  check("warm-up steps", static_cast<double>(s.warm_up), 0, kMostSteps);
  check("learning rate", static_cast<double>(s.learning_rate), 0, 1);
  check("weight decay", static_cast<double>(s.weight_decay), 0, 1);
  check("largest norm", static_cast<double>(s.clip_norm), 0, kMostClip);
  check("hard share", static_cast<double>(s.hard_share), 0, 1);
  check("label smoothing", static_cast<double>(s.label_smoothing), 0, 1);
  if (s.embed.empty()) return;
  const auto expected = static_cast<size_t>(shape.n_vocab) * static_cast<size_t>(shape.width);
  if (s.embed.size() != expected) {
    throw ConfigError(fmt::format("router training: the embedding: expected {} numbers, got {}",
                                  expected, s.embed.size()));
  }
  if (!std::all_of(s.embed.begin(), s.embed.end(), [](float v) { return std::isfinite(v); })) {
    throw ConfigError("router training: the embedding: a number is not finite");
  }
}

// where: "training text 3"
void check_text(const RoutedText& text, const DecoupledShape& shape, const std::string& where) {
  const auto fail = [&](const std::string& what) {
    throw ConfigError(fmt::format("router training: {}: {}", where, what));
  };
  const auto n_experts = static_cast<size_t>(shape.n_experts);
  for (const int32_t token : text.tokens) {
    if (token >= 0 && token < shape.n_vocab) continue;
    fail(fmt::format("expected tokens from 0 to {}, got {}", shape.n_vocab - 1, token));
  }
  if (text.targets.size() != text.tokens.size() * n_experts) {
    fail(fmt::format("expected {} targets for each of {} tokens, got {} in all", n_experts,
                     text.tokens.size(), text.targets.size()));
  }
  constexpr double kRounding = 1e-3;
  for (size_t t = 0; t < text.tokens.size(); ++t) {
    double sum = 0;
    for (size_t e = 0; e < n_experts; ++e) {
      const float v = text.targets[t * n_experts + e];
      if (!(v >= 0)) fail(fmt::format("token {}: expected a target of at least 0, got {}", t, v));
      sum += static_cast<double>(v);
    }
    if (!(std::abs(sum - 1) <= kRounding)) {
      fail(fmt::format("token {}: expected targets that sum to 1, got {}", t, sum));
    }
  }
}

void check_texts(std::span<const RoutedText> texts, const DecoupledShape& shape, const char* what) {
  size_t n_tokens = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    check_text(texts[i], shape, fmt::format("{} text {}", what, i));
    n_tokens += texts[i].tokens.size();
  }
  if (n_tokens == 0) {
    throw ConfigError(
        fmt::format("router training: expected {} texts with tokens, got none", what));
  }
}

}  // namespace

void check_router_training(std::span<const RoutedText> training,
                           std::span<const RoutedText> validation, const DecoupledShape& shape,
                           const RouterTrainingSettings& settings) {
  const std::string fault = decoupled_shape_fault(shape);
  if (!fault.empty()) throw ConfigError(fmt::format("router training: {}", fault));
  check_settings(shape, settings);
  check_texts(training, shape, "training");
  check_texts(validation, shape, "validation");
}

}  // namespace tandem
