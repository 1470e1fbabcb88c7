// What `tandem refactor` reads texts for: which channels are active, what a router should say, how
// well the model predicts. A text is read in windows, each by itself.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/parallel.h"
#include "runtime/pregate/decoupled_router.h"
#include "runtime/refactor/dense_model.h"
#include "runtime/refactor/masks.h"
#include "runtime/refactor/router_training.h"

namespace tandem {

struct DomainText {
  std::string name;
  std::vector<int32_t> training;
  std::vector<int32_t> held_out;  // not looked at before the end
};

// The last tenth is held out; of both parts the first are taken, of the training part most_tokens
// at most and of the other a ninth of that. ConfigError when a part is shorter than a window.
DomainText split_text(std::string name, std::span<const int32_t> tokens, int64_t window,
                      int64_t most_tokens);

struct PassHooks {
  std::function<void(int64_t done, int64_t total)> progress{};  // tokens
  std::function<bool()> interrupted{};                          // asked layer by layer
};

struct PassSettings {
  int64_t window = 256;
  std::optional<int32_t> bos{};  // in the place of each scored window's first token
};

// Memory that a pass takes, texts and what it finds apart.
int64_t pass_bytes(const DenseModel& model, const PassSettings& settings);

// nullopt, of this and the others: interrupted. FileError where a mean is not finite.
std::optional<ChannelMeans> measure_channels(const DenseModel& model,
                                             std::span<const DomainText> domains,
                                             const PassSettings& settings, const PassHooks& hooks,
                                             ParallelFor parallel);

struct RoutedTexts {
  std::vector<RoutedText> training;  // one a domain
  std::vector<RoutedText> held_out;  // one a window: what has no text in front of it
};
// Targets of every token (route_targets.h).
std::optional<RoutedTexts> route_texts(const DenseModel& model, const ExpertMasks& masks,
                                       std::span<const DomainText> domains,
                                       const PassSettings& settings, const PassHooks& hooks,
                                       ParallelFor parallel);

// Perplexities of a domain's held-out text: windows whose second halves are scored, as
// `tandem perplexity` does.
struct DomainPerplexity {
  int64_t windows = 0;
  double dense = 0;                    // all channels
  double own = 0;                      // every token with the domain's own expert
  double routed = 0;                   // each token with the expert that the router says
  std::vector<int64_t> routed_tokens;  // [n_experts]: how many the router gave to each
};
std::optional<std::vector<DomainPerplexity>> score_domains(
    const DenseModel& model, const ExpertMasks& masks, const DecoupledRouter& router,
    std::span<const DomainText> domains, const PassSettings& settings, const PassHooks& hooks,
    ParallelFor parallel);

}  // namespace tandem
