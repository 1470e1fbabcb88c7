// Trains a decoupled router (runtime/pregate/decoupled_router.h) on what it should say of each
// token of some texts. Loss of a token, as in Read-ME (arXiv 2410.19123, its published code), with
// p the router's softmax and t the target:
//
//   hard_share CE(p, smoothed one-hot of argmax t) + (1 - hard_share) CE(p, t)
//
// where smoothing gives 1 - label_smoothing to the argmax and label_smoothing evenly to all
// experts. AdamW (Loshchilov and Hutter, arXiv 1711.05101), warm-up and cosine decay, the gradient
// clipped by its norm. The result is the same to the bit for a seed, whatever the number of
// threads.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kernels/parallel.h"
#include "runtime/pregate/decoupled_router.h"

namespace tandem {

struct RoutedText {
  std::vector<int32_t> tokens;
  std::vector<float> targets;  // [tokens, n_experts], each row sums to 1
};

struct RouterTrainingSettings {
  // Tokens that are seen together, from a random place of a text on. What the router was not shown
  // it does not understand: a shape whose own window is larger, or 0, runs worse than it trained.
  int32_t window = 256;
  int32_t batch = 8;  // windows of a step
  int64_t steps = 1000;
  int64_t warm_up = 50;         // steps of them, in which the rate rises from 0
  float learning_rate = 1e-3F;  // at most; falls to a tenth
  float weight_decay = 0.01F;   // of matrices
  float clip_norm = 1;          // largest norm of a step's gradient
  float hard_share = 0.75F;
  float label_smoothing = 0.5F;
  uint64_t seed = 1;
  // [n_vocab, width] where the embedding begins (Read-ME: the leading columns of the model's own);
  // empty: random.
  std::vector<float> embed{};
};

struct RouterTrainingResult {
  DecoupledRouter router;  // .model is the caller's to fill
  // On the validation texts, each run whole as the engine would (DecoupledState):
  double validation_loss = 0;      // mean of a token
  double validation_accuracy = 0;  // share of tokens whose argmax agrees
  double majority_accuracy = 0;    // of always saying the commonest expert of the training texts
};

struct RouterTrainingHooks {
  std::function<void(int64_t steps_done, double loss)>
      progress{};                       // the step's mean loss of a token
  std::function<bool()> interrupted{};  // asked before each step
};

// The shape has the router's width, heads, blocks and so on. ConfigError for settings, a shape or
// texts that cannot be: no tokens to train on or to validate with, a token outside the vocabulary,
// targets of another size, negative or not summing to 1; and for a loss that is not finite, since
// the learning rate is too large. nullopt when it was interrupted.
std::optional<RouterTrainingResult> train_decoupled_router(std::span<const RoutedText> training,
                                                           std::span<const RoutedText> validation,
                                                           const DecoupledShape& shape,
                                                           const RouterTrainingSettings& settings,
                                                           ParallelFor parallel,
                                                           const RouterTrainingHooks& hooks);

// Memory that it takes, beside the texts and the DecoupledState of the longest validation text.
int64_t router_training_bytes(const DecoupledShape& shape, const RouterTrainingSettings& settings);

}  // namespace tandem
