#include "runtime/refactor/passes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/error.h"
#include "runtime/refactor/dense_forward.h"
#include "runtime/refactor/masked_ffn.h"
#include "runtime/refactor/route_targets.h"

namespace tandem {
namespace {

using Tokens = std::span<const int32_t>;

constexpr int64_t kHeldOut = 10;    // one in so many tokens
constexpr int64_t kLogitRows = 64;  // at once

// The windows of a text in order; the last one may be shorter.
std::vector<Tokens> windows_of(Tokens text, int64_t window) {
  std::vector<Tokens> windows;
  const auto size = static_cast<size_t>(window);
  for (size_t at = 0; at < text.size(); at += size) {
    windows.push_back(text.subspan(at, std::min(size, text.size() - at)));
  }
  return windows;
}

// Counts tokens for the hooks.
class Count {
 public:
  Count(const PassHooks& hooks, int64_t total) : hooks_(hooks), total_(total) { show(); }
  void add(size_t tokens) {
    done_ += static_cast<int64_t>(tokens);
    show();
  }

 private:
  void show() const {
    if (hooks_.progress) hooks_.progress(done_, total_);
  }

  const PassHooks& hooks_;
  int64_t total_;
  int64_t done_ = 0;
};

int64_t all_tokens(std::span<const DomainText> domains, bool training, bool held_out) {
  size_t n = 0;
  for (const DomainText& domain : domains) {
    n += (training ? domain.training.size() : 0) + (held_out ? domain.held_out.size() : 0);
  }
  return static_cast<int64_t>(n);
}

// -ln p(token), from one row of logits.
double negative_log_likelihood(std::span<const float> row, int32_t token) {
  const float top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit - top));
  return std::log(sum) - static_cast<double>(row[static_cast<size_t>(token)] - top);
}

// Scores windows with all channels or with experts of the tokens.
class Scorer {
 public:
  Scorer(const DenseModel& model, const ExpertMasks& masks, int64_t window,
         const std::function<bool()>& interrupted, ParallelFor parallel)
      : interrupted_(interrupted),
        parallel_(parallel),
        vocab_(model.config().n_vocab),
        forward_(model, window),
        ffn_(model, masks, window, forward_.product()),
        logits_(static_cast<size_t>(kLogitRows * vocab_)) {}

  // Sum of the second half's -ln p. experts: of each token; empty: the dense model. nullopt:
  // interrupted.
  std::optional<double> operator()(Tokens window, std::span<const int32_t> experts) {
    const float* rows =
        experts.empty()
            ? forward_.run_dense(
                  window, [](int64_t, const float*, int64_t) {}, interrupted_, parallel_)
            : forward_.run(
                  window,
                  [&](int64_t layer, const float* x, int64_t, float* out) {
                    ffn_.run(layer, experts, x, out, parallel_);
                  },
                  interrupted_, parallel_);
    if (rows == nullptr) return std::nullopt;
    const auto n = static_cast<int64_t>(window.size());
    const int64_t d = forward_.width();
    double sum = 0;
    for (int64_t at = n / 2; at < n - 1; at += kLogitRows) {
      const int64_t count = std::min(kLogitRows, n - 1 - at);
      forward_.logits(rows + at * d, count, logits_.data(), parallel_);
      for (int64_t i = 0; i < count; ++i) {
        sum += negative_log_likelihood(std::span(logits_).subspan(static_cast<size_t>(i * vocab_),
                                                                  static_cast<size_t>(vocab_)),
                                       window[static_cast<size_t>(at + i + 1)]);
      }
    }
    return sum;
  }

 private:
  const std::function<bool()>& interrupted_;
  ParallelFor parallel_;
  int64_t vocab_;
  DenseForward forward_;
  MaskedFfn ffn_;
  std::vector<float> logits_;
};

// The router's expert of each token, ties to the lower id.
std::vector<int32_t> chosen_experts(DecoupledState* state, Tokens window, int32_t n_experts,
                                    ParallelFor parallel) {
  state->rewind(0);
  const std::span<const float> logits = state->append(window, parallel);
  std::vector<int32_t> experts;
  for (size_t t = 0; t < window.size(); ++t) {
    const auto row = logits.begin() + static_cast<int64_t>(t) * n_experts;
    experts.push_back(static_cast<int32_t>(std::max_element(row, row + n_experts) - row));
  }
  return experts;
}

// What is not finite has no order.
void check_finite(const DenseModel& model, const ChannelMeans& means) {
  for (int32_t d = 0; d < means.n_domains(); ++d) {
    for (int64_t layer = 0; layer < means.n_layers(); ++layer) {
      for (const double mean : means.means(d, layer)) {
        if (std::isfinite(mean)) continue;
        throw FileError(model.file().name(),
                        fmt::format("layer {} computes numbers that are not finite", layer));
      }
    }
  }
}

}  // namespace

DomainText split_text(std::string name, Tokens tokens, int64_t window, int64_t most_tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t held_out = n / kHeldOut;
  if (held_out < window) {
    throw ConfigError(
        fmt::format("{} has {} tokens; expected at least {}, so that the tenth that "
                    "is held out makes a window of {}",
                    name, n, window * kHeldOut, window));
  }
  const auto part = [&](int64_t from, int64_t size, int64_t most) {
    const Tokens taken =
        tokens.subspan(static_cast<size_t>(from), static_cast<size_t>(std::min(size, most)));
    return std::vector<int32_t>(taken.begin(), taken.end());
  };
  const int64_t most_held_out = std::max(window, most_tokens / (kHeldOut - 1));
  return {std::move(name), part(0, n - held_out, most_tokens),
          part(n - held_out, held_out, most_held_out)};
}

int64_t pass_bytes(const DenseModel& model, const PassSettings& settings) {
  const int64_t d = model.config().d_model;
  const int64_t ff = model.ff();
  // Beside the forward pass: keys of targets; or hidden values, gathered ones and a part's matrix.
  const int64_t targets = settings.window * ff * int64_t{sizeof(uint64_t)};
  const int64_t masked = (2 * settings.window * ff + settings.window * d + d * ff +
                          kLogitRows * model.config().n_vocab) *
                         int64_t{sizeof(float)};
  const int64_t widened = std::max(d * ff, d * model.config().n_vocab) * int64_t{sizeof(float)};
  return DenseForward::bytes(model, settings.window) + widened + std::max(targets, masked);
}

std::optional<ChannelMeans> measure_channels(const DenseModel& model,
                                             std::span<const DomainText> domains,
                                             const PassSettings& settings, const PassHooks& hooks,
                                             ParallelFor parallel) {
  ChannelMeans means(static_cast<int32_t>(domains.size()), model.config().n_layers, model.ff());
  DenseForward forward(model, settings.window);
  Count count(hooks, all_tokens(domains, true, false));
  for (int32_t d = 0; d < means.n_domains(); ++d) {
    for (const Tokens window :
         windows_of(domains[static_cast<size_t>(d)].training, settings.window)) {
      const float* rows = forward.run_dense(
          window,
          [&](int64_t layer, const float* hidden, int64_t n) {
            means.add(d, layer, hidden, n, parallel);
          },
          hooks.interrupted, parallel);
      if (rows == nullptr) return std::nullopt;
      means.count(d, static_cast<int64_t>(window.size()));
      count.add(window.size());
    }
  }
  check_finite(model, means);
  return means;
}

std::optional<RoutedTexts> route_texts(const DenseModel& model, const ExpertMasks& masks,
                                       std::span<const DomainText> domains,
                                       const PassSettings& settings, const PassHooks& hooks,
                                       ParallelFor parallel) {
  RoutedTexts texts;
  DenseForward forward(model, settings.window);
  RouteTargets targets(masks, settings.window);
  Count count(hooks, all_tokens(domains, true, true));
  const auto route = [&](Tokens window, RoutedText* to) {
    targets.begin(static_cast<int64_t>(window.size()));
    const float* rows = forward.run_dense(
        window,
        [&](int64_t layer, const float* hidden, int64_t) { targets.add(layer, hidden, parallel); },
        hooks.interrupted, parallel);
    if (rows == nullptr) return false;
    to->tokens.insert(to->tokens.end(), window.begin(), window.end());
    targets.append_rows(&to->targets);
    count.add(window.size());
    return true;
  };
  for (const DomainText& domain : domains) {
    RoutedText& training = texts.training.emplace_back();
    for (const Tokens window : windows_of(domain.training, settings.window)) {
      if (!route(window, &training)) return std::nullopt;
    }
    for (const Tokens window : windows_of(domain.held_out, settings.window)) {
      if (!route(window, &texts.held_out.emplace_back())) return std::nullopt;
    }
  }
  return texts;
}

std::optional<std::vector<DomainPerplexity>> score_domains(
    const DenseModel& model, const ExpertMasks& masks, const DecoupledRouter& router,
    std::span<const DomainText> domains, const PassSettings& settings, const PassHooks& hooks,
    ParallelFor parallel) {
  Scorer score(model, masks, settings.window, hooks.interrupted, parallel);
  DecoupledState state(router, settings.window, settings.window);
  Count count(hooks, all_tokens(domains, false, true));
  std::vector<DomainPerplexity> results;
  for (size_t d = 0; d < domains.size(); ++d) {
    DomainPerplexity& result = results.emplace_back();
    result.routed_tokens.resize(static_cast<size_t>(masks.n_experts()));
    double dense = 0;
    double own = 0;
    double routed = 0;
    double scored = 0;
    for (const Tokens part : windows_of(domains[d].held_out, settings.window)) {
      count.add(part.size());
      if (std::cmp_less(part.size(), settings.window)) continue;
      std::vector<int32_t> window(part.begin(), part.end());
      if (settings.bos) window.front() = *settings.bos;
      const std::vector<int32_t> one(window.size(), static_cast<int32_t>(d));
      const std::vector<int32_t> chosen =
          chosen_experts(&state, window, masks.n_experts(), parallel);
      for (const int32_t e : chosen) ++result.routed_tokens[static_cast<size_t>(e)];
      for (const auto& [sum, experts] :
           {std::pair{&dense, Tokens{}}, {&own, Tokens(one)}, {&routed, Tokens(chosen)}}) {
        const std::optional<double> nll = score(window, experts);
        if (!nll) return std::nullopt;
        *sum += *nll;
      }
      ++result.windows;
      const int64_t unscored = settings.window / 2 + 1;
      scored += static_cast<double>(settings.window - unscored);
    }
    result.dense = std::exp(dense / scored);
    result.own = std::exp(own / scored);
    result.routed = std::exp(routed / scored);
  }
  return results;
}

}  // namespace tandem
