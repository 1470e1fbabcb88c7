#include "runtime/engine/next_token_guess.h"

#include <algorithm>

#include "runtime/engine/host_vector.h"

namespace tandem {
namespace {

// Until something is known, a longer match is as good as a shorter one.
constexpr float kFirstShare = 0.5F;
constexpr float kRightRate = 0.05F;
constexpr float kAgainRate = 0.01F;  // of a layer
// Below this the cache's own forecast of the next token is the better guide.
constexpr float kLeastShare = 0.1F;

}  // namespace

NextTokenGuess::NextTokenGuess(const ModelConfig& config, const ExpertTables& tables, int64_t n_ctx,
                               Device& device)
    : tables_(tables),
      n_layers_(static_cast<size_t>(config.n_layers)),
      top_k_(static_cast<size_t>(config.routing.top_k)),
      of_token_(static_cast<size_t>(config.routing.n_experts)) {
  resize_host(&text_, n_ctx, device, "lookahead");
  resize_host(&used_, n_ctx * config.n_layers * config.routing.top_k, device, "lookahead");
  right_.fill(kFirstShare);
}

void NextTokenGuess::begin_step(const Batch& batch) {
  const bool one = batch.tokens.size() == 1;
  came_true_ = {};
  if (one && match_.length > 0 && batch.first_pos == n_text_) {
    const bool right = batch.tokens.front() == token();
    float& share = right_[static_cast<size_t>(match_.length)];
    share += kRightRate * ((right ? 1.0F : 0.0F) - share);
    if (right) came_true_ = match_;
  }
  first_ = batch.first_pos;
  std::copy(batch.tokens.begin(), batch.tokens.end(), text_.begin() + first_);
  n_text_ = first_ + static_cast<int64_t>(batch.tokens.size());
  match_ = {};
  if (!one) return;
  match_ = longest_match(std::span(text_).first(static_cast<size_t>(n_text_)), kLongest);
  row_ = match_.length > 0 ? tables_.tokens.row(token()) : -1;
}

std::span<const uint16_t> NextTokenGuess::used_at(int64_t position, int32_t layer) const {
  const size_t at = static_cast<size_t>(position) * n_layers_ + static_cast<size_t>(layer);
  return std::span(used_).subspan(at * top_k_, top_k_);
}

void NextTokenGuess::observe(const RoutingDecision& routing) {
  const int32_t layer = routing.layer.value;
  for (size_t t = 0; t < static_cast<size_t>(routing.n_tokens); ++t) {
    const size_t at = (static_cast<size_t>(first_) + t) * n_layers_ + static_cast<size_t>(layer);
    for (size_t i = 0; i < top_k_; ++i) {
      used_[at * top_k_ + i] = static_cast<uint16_t>(routing.ids[t * top_k_ + i].value);
    }
  }
  if (came_true_.length == 0) return;
  const auto before = used_at(came_true_.position, layer);
  const auto same = std::count_if(routing.ids.begin(), routing.ids.end(), [&](ExpertId id) {
    return std::find(before.begin(), before.end(), id.value) != before.end();
  });
  again_ += kAgainRate * (static_cast<float>(same) / static_cast<float>(top_k_) - again_);
}

bool NextTokenGuess::guess(int32_t layer, std::span<float> use) {
  const float right = right_[static_cast<size_t>(match_.length)];
  if (match_.length == 0 || right < kLeastShare) return false;
  token_use(tables_, layer, row_, of_token_);
  std::fill(use.begin(), use.end(), -1.0F);
  for (const uint16_t e : used_at(match_.position, layer)) use[e] = again_;
  share_rest(of_token_, static_cast<float>(top_k_), use);
  for (float& p : use) p *= right;  // if it is another token, nothing is known
  return true;
}

}  // namespace tandem
