#include "runtime/refactor/router_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/throwing_tasks.h"
#include "runtime/refactor/adamw.h"
#include "runtime/refactor/router_checks.h"
#include "runtime/refactor/router_gradient.h"

namespace tandem {
namespace {

using Random = std::mt19937_64;

constexpr float kLastRate = 0.1F;   // share of the learning rate that is left at the end
constexpr double kEmbedSize = 0.1;  // root mean square of an embedding's numbers at the start

// Even in [-1, 1) times sqrt(3) size: its standard deviation is `size`.
void fill(std::vector<float>* values, double size, Random* random) {
  for (float& v : *values) {
    const double unit = std::ldexp(static_cast<double>((*random)() >> 11), -52) - 1;
    v = static_cast<float>(std::numbers::sqrt3 * size * unit);
  }
}

// As large as a random one would be: what follows normalises it, so only steps would differ.
void take_embed(const std::vector<float>& from, std::vector<float>* embed) {
  double squares = 0;
  for (const float v : from) squares += static_cast<double>(v) * static_cast<double>(v);
  const double rms = std::sqrt(squares / static_cast<double>(from.size()));
  const double scale = rms > 0 ? kEmbedSize / rms : 0;
  for (size_t i = 0; i < from.size(); ++i) {
    (*embed)[i] = static_cast<float>(scale * static_cast<double>(from[i]));
  }
}

// Products keep the size of their inputs, scores of attention begin with a variance of 1 whatever
// their scale, and what blocks add shrinks with their number.
DecoupledRouter first_router(const DecoupledShape& shape, const RouterTrainingSettings& settings) {
  DecoupledRouter router = zero_router(shape);
  Random random(settings.seed);
  const auto ones = [](std::vector<float>* gain) { std::fill(gain->begin(), gain->end(), 1.0F); };
  fill(&router.embed, kEmbedSize, &random);
  if (!settings.embed.empty()) take_embed(settings.embed, &router.embed);
  const double width = 1 / std::sqrt(static_cast<double>(shape.width));
  const double head = static_cast<double>(shape.width) / static_cast<double>(shape.n_heads);
  const double score = 1 / std::sqrt(static_cast<double>(shape.attention_scale) * std::sqrt(head));
  const double added = 1 / std::sqrt(2.0 * static_cast<double>(shape.n_blocks));
  for (auto& block : router.blocks) {
    ones(&block.attn_norm);
    ones(&block.ffn_norm);
    fill(&block.wq, width * score, &random);
    fill(&block.wk, width * score, &random);
    fill(&block.wv, width, &random);
    fill(&block.wo, width * added, &random);
    fill(&block.w1, width, &random);
    fill(&block.w2, added / std::sqrt(static_cast<double>(shape.ff)), &random);
  }
  ones(&router.out_norm);
  fill(&router.out, width, &random);
  return router;
}

size_t argmax(std::span<const float> row) {
  return static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// What the loss compares with: both of its cross-entropies are of one softmax, so their targets can
// be mixed. targets, out: [n, n_experts]
void mix_targets(std::span<const float> targets, int32_t n_experts,
                 const RouterTrainingSettings& settings, std::span<float> out) {
  const auto n = static_cast<size_t>(n_experts);
  const float even = settings.hard_share * settings.label_smoothing / static_cast<float>(n_experts);
  for (size_t at = 0; at < targets.size(); at += n) {
    const auto row = targets.subspan(at, n);
    for (size_t e = 0; e < n; ++e) out[at + e] = (1 - settings.hard_share) * row[e] + even;
    out[at + argmax(row)] += settings.hard_share * (1 - settings.label_smoothing);
  }
}

// Of the steps so far.
float learning_rate(const RouterTrainingSettings& s, int64_t step) {
  if (step < s.warm_up) {
    return s.learning_rate * static_cast<float>(step + 1) / static_cast<float>(s.warm_up);
  }
  const double way = static_cast<double>(step - s.warm_up) /
                     static_cast<double>(std::max<int64_t>(1, s.steps - s.warm_up));
  const auto cosine = static_cast<float>((1 + std::cos(std::numbers::pi * way)) / 2);
  return s.learning_rate * (kLastRate + (1 - kLastRate) * cosine);
}

class Trainer {
 public:
  Trainer(std::span<const RoutedText> texts, const DecoupledShape& shape,
          const RouterTrainingSettings& settings)
      : texts_(texts),
        settings_(settings),
        router_(first_router(shape, settings)),
        total_(zero_router(shape)),
        optimizer_(&router_, total_),
        random_(settings.seed + 1) {
    for (const RoutedText& text : texts) {
      n_tokens_ += static_cast<int64_t>(text.tokens.size());
      ends_.push_back(n_tokens_);
    }
    const auto rows = static_cast<size_t>(settings.window) * static_cast<size_t>(shape.n_experts);
    for (int32_t i = 0; i < settings.batch; ++i) {
      windows_.push_back(
          {{}, {}, std::vector<float>(rows), 0, RouterGradient(shape, settings.window)});
    }
  }

  // The mean loss of a token.
  double step(ParallelFor parallel) {
    for (Window& window : windows_) draw(&window);
    run_throwing(parallel, std::ssize(windows_), [&](int64_t task) {
      Window& window = windows_[static_cast<size_t>(task)];
      const auto mixed = std::span(window.mixed).first(window.targets.size());
      mix_targets(window.targets, router_.shape.n_experts, settings_, mixed);
      window.loss = window.gradient.run(router_, window.tokens, mixed);
    });
    double loss = 0;
    int64_t n = 0;
    for (const Window& window : windows_) {
      loss += window.loss;
      n += std::ssize(window.tokens);
    }
    add_gradients(parallel);
    const auto mean = static_cast<float>(1.0 / static_cast<double>(n));
    const auto norm = static_cast<float>(optimizer_.gradient_norm(parallel)) * mean;
    const float clip = std::min(1.0F, settings_.clip_norm / norm);
    const float rate = learning_rate(settings_, steps_done_);
    optimizer_.step(mean * clip, rate, settings_.weight_decay, parallel);
    ++steps_done_;
    router_.training_tokens += n;
    return loss / static_cast<double>(n);
  }

  DecoupledRouter take() { return std::move(router_); }

 private:
  struct Window {
    std::span<const int32_t> tokens;  // [n]
    std::span<const float> targets;   // [n, E]
    std::vector<float> mixed;         // [window, E]
    double loss;                      // its sum
    RouterGradient gradient;
  };

  // Around any token of all, so that each is seen about equally often.
  void draw(Window* window) {
    const auto any = static_cast<int64_t>(random_() % static_cast<uint64_t>(n_tokens_));
    const auto text =
        static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), any) - ends_.begin());
    const auto size = static_cast<int64_t>(texts_[text].tokens.size());
    const int64_t n = std::min<int64_t>(size, settings_.window);
    const int64_t place = any - (ends_[text] - size);
    const auto before = static_cast<int64_t>(random_() % static_cast<uint64_t>(n));
    const auto first = static_cast<size_t>(std::clamp<int64_t>(place - before, 0, size - n));
    const auto n_experts = static_cast<size_t>(router_.shape.n_experts);
    window->tokens = std::span(texts_[text].tokens).subspan(first, static_cast<size_t>(n));
    window->targets = std::span(texts_[text].targets)
                          .subspan(first * n_experts, static_cast<size_t>(n) * n_experts);
  }

  // Of all windows, in their order, whichever thread a tensor falls to.
  void add_gradients(ParallelFor parallel) {
    std::vector<std::vector<float>*> sums;
    for_each_decoupled_tensor(
        total_, [&](const auto&, const auto&, auto& values) { sums.push_back(&values); });
    std::vector<std::vector<const std::vector<float>*>> parts;
    for (const Window& window : windows_) {
      parts.emplace_back();
      for_each_decoupled_tensor(
          window.gradient.gradient(),
          [&](const auto&, const auto&, const auto& values) { parts.back().push_back(&values); });
    }
    parallel(std::ssize(sums), [&](int64_t task) {
      const auto i = static_cast<size_t>(task);
      std::vector<float>& sum = *sums[i];
      std::fill(sum.begin(), sum.end(), 0.0F);
      if (&sum == &total_.embed) return add_rows();
      for (const auto& part : parts) {
        for (size_t k = 0; k < sum.size(); ++k) sum[k] += (*part[i])[k];
      }
    });
  }

  void add_rows() {
    const auto width = static_cast<size_t>(router_.shape.width);
    for (const Window& window : windows_) {
      const auto rows = window.gradient.row_gradients();
      for (size_t t = 0; t < window.tokens.size(); ++t) {
        float* to = total_.embed.data() + static_cast<size_t>(window.tokens[t]) * width;
        for (size_t k = 0; k < width; ++k) to[k] += rows[t * width + k];
      }
    }
  }

  std::span<const RoutedText> texts_;
  const RouterTrainingSettings& settings_;
  std::vector<int64_t> ends_;  // tokens of all texts up to each one's end
  int64_t n_tokens_ = 0;
  DecoupledRouter router_;
  DecoupledRouter total_;  // gradient of a step
  AdamW optimizer_;
  std::vector<Window> windows_;
  Random random_;
  int64_t steps_done_ = 0;
};

size_t commonest(std::span<const RoutedText> texts, size_t n_experts) {
  std::vector<int64_t> uses(n_experts, 0);
  for (const RoutedText& text : texts) {
    for (size_t at = 0; at < text.targets.size(); at += n_experts) {
      ++uses[argmax(std::span(text.targets).subspan(at, n_experts))];
    }
  }
  return static_cast<size_t>(std::max_element(uses.begin(), uses.end()) - uses.begin());
}

// -sum over experts of target log softmax(logits)
double cross_entropy(std::span<const float> logits, std::span<const float> target) {
  const auto most = static_cast<double>(logits[argmax(logits)]);
  double sum = 0;
  for (const float v : logits) sum += std::exp(static_cast<double>(v) - most);
  double loss = 0;
  for (size_t e = 0; e < logits.size(); ++e) {
    loss -=
        static_cast<double>(target[e]) * (static_cast<double>(logits[e]) - most - std::log(sum));
  }
  return loss;
}

void check_loss(double loss, const RouterTrainingSettings& settings) {
  if (std::isfinite(loss)) return;
  throw ConfigError(
      fmt::format("router training: learning rate: expected one that keeps the loss "
                  "finite, got {}",
                  settings.learning_rate));
}

struct Tally {
  int64_t n = 0;
  int64_t right = 0;
  int64_t common = 0;
  double loss = 0;
};

void validate_text(const RoutedText& text, size_t common, const RouterTrainingSettings& settings,
                   int64_t chunk, DecoupledState* state, ParallelFor parallel, Tally* tally) {
  const size_t n_experts = text.targets.size() / text.tokens.size();
  std::vector<float> mixed(n_experts);
  state->rewind(0);
  for (size_t first = 0; first < text.tokens.size(); first += static_cast<size_t>(chunk)) {
    const size_t n = std::min(static_cast<size_t>(chunk), text.tokens.size() - first);
    const auto logits = state->append(std::span(text.tokens).subspan(first, n), parallel);
    for (size_t t = 0; t < n; ++t) {
      const auto row = logits.subspan(t * n_experts, n_experts);
      const auto target = std::span(text.targets).subspan((first + t) * n_experts, n_experts);
      mix_targets(target, static_cast<int32_t>(n_experts), settings, mixed);
      tally->loss += cross_entropy(row, mixed);
      tally->right += argmax(row) == argmax(target) ? 1 : 0;
      tally->common += argmax(target) == common ? 1 : 0;
      ++tally->n;
    }
  }
}

}  // namespace

std::optional<RouterTrainingResult> train_decoupled_router(std::span<const RoutedText> training,
                                                           std::span<const RoutedText> validation,
                                                           const DecoupledShape& shape,
                                                           const RouterTrainingSettings& settings,
                                                           ParallelFor parallel,
                                                           const RouterTrainingHooks& hooks) {
  check_router_training(training, validation, shape, settings);
  Trainer trainer(training, shape, settings);
  for (int64_t step = 0; step < settings.steps; ++step) {
    if (hooks.interrupted && hooks.interrupted()) return std::nullopt;
    const double loss = trainer.step(parallel);
    check_loss(loss, settings);
    if (hooks.progress) hooks.progress(step + 1, loss);
  }

  RouterTrainingResult result;
  result.router = trainer.take();
  int64_t longest = 0;
  for (const RoutedText& text : validation) longest = std::max(longest, std::ssize(text.tokens));
  constexpr int64_t kMostChunk = 256;
  const int64_t chunk = std::min(kMostChunk, longest);
  DecoupledState state(result.router, longest, chunk);
  const size_t common = commonest(training, static_cast<size_t>(shape.n_experts));
  Tally tally;
  for (const RoutedText& text : validation) {
    if (hooks.interrupted && hooks.interrupted()) return std::nullopt;
    if (text.tokens.empty()) continue;
    validate_text(text, common, settings, chunk, &state, parallel, &tally);
  }
  const auto n = static_cast<double>(tally.n);
  result.validation_loss = tally.loss / n;
  check_loss(result.validation_loss, settings);
  result.validation_accuracy = static_cast<double>(tally.right) / n;
  result.majority_accuracy = static_cast<double>(tally.common) / n;
  result.router.validation_accuracy = static_cast<float>(result.validation_accuracy);
  return result;
}

int64_t router_training_bytes(const DecoupledShape& shape, const RouterTrainingSettings& settings) {
  int64_t n = 0;
  DecoupledRouter empty;
  empty.shape = shape;
  empty.blocks.resize(static_cast<size_t>(shape.n_blocks));
  for_each_decoupled_tensor(empty, [&](const auto&, const std::vector<int64_t>& sides, auto&) {
    int64_t size = 1;
    for (const int64_t side : sides) size *= side;
    n += size;
  });
  constexpr int64_t kCopies = 4;  // values, their gradient, two moments
  return kCopies * n * static_cast<int64_t>(sizeof(float)) +
         settings.batch * RouterGradient::bytes(shape, settings.window);
}

}  // namespace tandem
