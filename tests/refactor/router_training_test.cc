#include "runtime/refactor/router_training.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "runtime/error.h"
#include "tests/support/catch.h"
#include "tests/support/decoupled_reference.h"

namespace tandem::test {
namespace {

constexpr int32_t kVocab = 12;
constexpr int32_t kExperts = 4;
constexpr float kSure = 0.7F;  // of a target's best expert; the others share the rest

DecoupledShape small_shape() {
  DecoupledShape shape;
  shape.n_vocab = kVocab;
  shape.width = 32;
  shape.n_heads = 2;
  shape.ff = 64;
  shape.n_experts = kExperts;
  shape.n_layers = 3;
  shape.window = 24;
  return shape;
}

RouterTrainingSettings quick_settings() {
  RouterTrainingSettings settings;
  settings.window = 24;
  settings.batch = 8;
  settings.steps = 400;
  settings.warm_up = 20;
  settings.learning_rate = 5e-3F;
  settings.seed = 7;
  return settings;
}

// Texts of random tokens; who is best is a made-up table of a token and the one before it.
std::vector<RoutedText> two_token_texts(int n_texts, int64_t n_tokens, uint32_t seed) {
  std::vector<size_t> table;
  std::mt19937 random(99);
  for (int i = 0; i < kVocab * kVocab; ++i) table.push_back(random() % kExperts);
  std::vector<RoutedText> texts;
  for (int i = 0; i < n_texts; ++i) {
    RoutedText text;
    text.tokens = random_tokens(n_tokens, kVocab, seed + static_cast<uint32_t>(i));
    int32_t before = 0;
    for (const int32_t token : text.tokens) {
      const size_t best = table[static_cast<size_t>(before * kVocab + token)];
      for (size_t e = 0; e < kExperts; ++e) {
        text.targets.push_back(e == best ? kSure : (1 - kSure) / (kExperts - 1));
      }
      before = token;
    }
    texts.push_back(text);
  }
  return texts;
}

size_t best_of(const std::vector<float>& targets, size_t token) {
  const float* row = targets.data() + token * kExperts;
  return static_cast<size_t>(std::max_element(row, row + kExperts) - row);
}

std::string error_with(const std::vector<RoutedText>& texts, const DecoupledShape& shape,
                       const RouterTrainingSettings& settings) {
  try {
    train_decoupled_router(texts, texts, shape, settings, serial_for, {});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

// Each task on a thread of its own, the last first.
void backwards_for(int64_t n_tasks, Task task) {
  std::vector<std::thread> threads;
  for (int64_t i = n_tasks - 1; i >= 0; --i) threads.emplace_back([&task, i] { task(i); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_CASE("a router learns which expert two tokens want") {
  const auto training = two_token_texts(20, 1000, 1000);
  const auto validation = two_token_texts(3, 60, 2000);
  std::vector<double> losses;
  const auto result =
      train_decoupled_router(training, validation, small_shape(), quick_settings(), serial_for,
                             {[&](int64_t, double loss) { losses.push_back(loss); }, {}});
  REQUIRE(result.has_value());
  CHECK(losses.size() == 400);
  CHECK(result->validation_accuracy > 0.95);
  CHECK(result->majority_accuracy < 0.45);
  CHECK(result->router.training_tokens == 400 * 8 * 24);
  CHECK(result->router.validation_accuracy == static_cast<float>(result->validation_accuracy));
  CHECK(losses.back() < losses.front() - 0.2);

  // The same figures from float64: 0.75 CE(argmax, smoothing 0.5) + 0.25 CE(targets).
  double loss = 0;
  int n = 0;
  int right = 0;
  for (const RoutedText& text : validation) {
    const std::vector<Doubles> logits = reference_logits(result->router, text.tokens);
    for (size_t t = 0; t < logits.size(); ++t, ++n) {
      const size_t best = best_of(text.targets, t);
      const auto top = std::max_element(logits[t].begin(), logits[t].end());
      right += static_cast<size_t>(top - logits[t].begin()) == best ? 1 : 0;
      double sum = 0;
      for (const double v : logits[t]) sum += std::exp(v);
      for (size_t e = 0; e < kExperts; ++e) {
        const double log_p = logits[t][e] - std::log(sum);
        const double hard = (e == best ? 0.5 : 0.0) + 0.5 / kExperts;
        const auto soft = static_cast<double>(text.targets[t * kExperts + e]);
        loss -= (0.75 * hard + 0.25 * soft) * log_p;
      }
    }
  }
  CHECK(std::abs(loss / n - result->validation_loss) < 1e-4);
  CHECK(std::abs(static_cast<double>(right) / n - result->validation_accuracy) < 0.011);
}

TEST_CASE("a trained router is the same on any number of threads, and another for another seed") {
  const auto texts = two_token_texts(4, 30, 1);
  RouterTrainingSettings settings = quick_settings();
  settings.steps = 5;
  const auto hash = [&](ParallelFor parallel) {
    return decoupled_hash(
        train_decoupled_router(texts, texts, small_shape(), settings, parallel, {})->router);
  };
  const std::string serial = hash(serial_for);
  CHECK(hash(serial_for) == serial);
  CHECK(hash(backwards_for) == serial);
  settings.seed = 8;
  CHECK(hash(serial_for) != serial);
}

TEST_CASE("texts shorter than a window, and of one token, are trained on") {
  auto texts = two_token_texts(2, 5, 1);
  texts.push_back(two_token_texts(1, 1, 3)[0]);
  texts.emplace_back();  // and none
  RouterTrainingSettings settings = quick_settings();
  settings.steps = 3;
  const auto result = train_decoupled_router(texts, texts, small_shape(), settings, serial_for, {});
  REQUIRE(result.has_value());
  CHECK(result->router.training_tokens <= 3 * 8 * 5);
}

TEST_CASE("training begins from an embedding that is given") {
  const auto texts = two_token_texts(1, 10, 1);
  RouterTrainingSettings settings = quick_settings();
  settings.steps = 1;
  settings.learning_rate = 0;
  settings.embed.assign(static_cast<size_t>(kVocab) * 32, 0.5F);
  settings.embed[3] = -0.5F;
  const auto result = train_decoupled_router(texts, texts, small_shape(), settings, serial_for, {});
  REQUIRE(result.has_value());
  const std::vector<float>& embed = result->router.embed;
  CHECK(embed[3] == -embed[0]);
  CHECK(embed[0] > 0);
  CHECK(std::count(embed.begin(), embed.end(), embed[0]) == kVocab * 32 - 1);
}

TEST_CASE("training that is interrupted gives no router") {
  const auto texts = two_token_texts(1, 10, 1);
  int64_t done = 0;
  const auto result =
      train_decoupled_router(texts, texts, small_shape(), quick_settings(), serial_for,
                             {[&](int64_t n, double) { done = n; }, [&] { return done == 3; }});
  CHECK(!result.has_value());
  CHECK(done == 3);
}

TEST_CASE("what a router cannot be trained on is named") {
  const auto texts = two_token_texts(1, 4, 1);
  RouterTrainingSettings settings = quick_settings();
  settings.steps = 1;
  const DecoupledShape shape = small_shape();
  CHECK(error_with(texts, shape, settings) == "no error");
  CHECK(error_with({}, shape, settings) ==
        "router training: expected training texts with tokens, got none");
  auto bad = texts;
  bad[0].tokens[2] = kVocab;
  CHECK(error_with(bad, shape, settings) ==
        "router training: training text 0: expected tokens from 0 to 11, got 12");
  bad = texts;
  bad[0].targets.pop_back();
  CHECK(error_with(bad, shape, settings) ==
        "router training: training text 0: expected 4 targets for each of 4 tokens, got 15 in all");
  bad = texts;
  bad[0].targets[5] += 0.5F;
  CHECK_THAT(error_with(bad, shape, settings), contains("token 1: expected targets that sum to 1"));
  bad[0].targets[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THAT(error_with(bad, shape, settings), contains("expected a target of at least 0"));
  DecoupledShape other = shape;
  other.n_heads = 3;
  CHECK(error_with(texts, other, settings) ==
        "router training: width: expected a multiple of twice the 3 heads, got 32");
  RouterTrainingSettings wrong = settings;
  wrong.window = 0;
  CHECK(error_with(texts, shape, wrong) == "router training: window: expected 1 to 65536, got 0");
  wrong = settings;
  wrong.label_smoothing = 1.5F;
  CHECK(error_with(texts, shape, wrong) ==
        "router training: label smoothing: expected 0 to 1, got 1.5");
  wrong = settings;
  wrong.embed.assign(5, 1.0F);
  CHECK(error_with(texts, shape, wrong) ==
        "router training: the embedding: expected 384 numbers, got 5");
}

}  // namespace tandem::test
