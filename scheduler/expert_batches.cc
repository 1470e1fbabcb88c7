#include "scheduler/expert_batches.h"

#include <algorithm>

#include "cache/check.h"

namespace tandem {

ExpertBatches::ExpertBatches(const ExpertBatchLimits& limits)
    : limits_(limits),
      capacity_(std::max<int64_t>(limits.max_tokens,
                                  int64_t{limits.max_tokens} * (int64_t{limits.max_age} + 1) / 2)) {
  TANDEM_CHECK(limits.n_experts > 0 && limits.max_tokens > 0 && limits.max_age >= 0 &&
                   limits.max_requests > 0,
               "%d experts, %d tokens, age %d, %d requests", limits.n_experts, limits.max_tokens,
               limits.max_age, limits.max_requests);
  waiting_.reserve(static_cast<size_t>(capacity_));
  batch_.reserve(static_cast<size_t>(limits.max_tokens));
  in_batch_.resize(static_cast<size_t>(limits.n_experts));
  queue_.resize(in_batch_.size());
  fronts_.resize(static_cast<size_t>(limits.max_requests));
}

bool ExpertBatches::add(const BatchToken& token) {
  TANDEM_CHECK(token.request >= 0 && token.request < limits_.max_requests &&
                   token.expert.value >= 0 && token.expert.value < limits_.n_experts,
               "request %d of %d, expert %d of %d", token.request, limits_.max_requests,
               token.expert.value, limits_.n_experts);
  if (waiting() == capacity_) return false;
  waiting_.push_back({token, n_batches_, false});
  return true;
}

std::span<const BatchToken> ExpertBatches::next() {
  n_chosen_ = 0;
  std::fill(in_batch_.begin(), in_batch_.end(), uint8_t{0});
  most_ = std::min<int64_t>(limits_.max_tokens, waiting());
  for (Waiting& w : waiting_) {
    if (batches_left(w) == 0) choose(&w);
  }
  while (take_ready() && n_chosen_ < most_) {
    in_batch_[static_cast<size_t>(longest_queue().value)] = 1;
  }
  for (Waiting& w : waiting_) {  // whoever is preferred now makes others late
    if (n_chosen_ < most_ && !w.chosen) choose(&w);
  }
  batch_.clear();
  for (const Waiting& w : waiting_) {
    if (w.chosen) batch_.push_back(w.token);
  }
  std::erase_if(waiting_, [](const Waiting& w) { return w.chosen; });
  ++n_batches_;
  return batch_;
}

// After this one, that it may still wait for.
int64_t ExpertBatches::batches_left(const Waiting& waiting) const {
  return waiting.arrived + limits_.max_age - n_batches_;
}

void ExpertBatches::choose(Waiting* waiting) {
  waiting->chosen = true;
  ++n_chosen_;
  in_batch_[static_cast<size_t>(waiting->token.expert.value)] = 1;
}

// Chooses it unless that would make another one late. What is left is in time if it is in time in
// the order of arrival, the oldest in the rest of this batch.
bool ExpertBatches::try_to_choose(Waiting* waiting) {
  waiting->chosen = true;
  int64_t left = 0;
  int64_t now = 0;  // of these at least, in this batch
  for (const Waiting& w : waiting_) {
    if (w.chosen) continue;
    ++left;
    now = std::max(now, left - batches_left(w) * limits_.max_tokens);
  }
  waiting->chosen = false;
  if (n_chosen_ + 1 + now > most_) return false;
  choose(waiting);
  return true;
}

// Tokens that need no further expert and whose predecessors are in the batch, oldest first. False
// when one of them would make another late.
bool ExpertBatches::take_ready() {
  ++pass_;
  for (Waiting& w : waiting_) {
    if (n_chosen_ == most_) break;
    if (w.chosen) continue;
    Front& front = fronts_[static_cast<size_t>(w.token.request)];
    if (front.pass == pass_) continue;  // behind one that stays
    if (in_batch_[static_cast<size_t>(w.token.expert.value)] == 0) {
      front.pass = pass_;
    } else if (!try_to_choose(&w)) {
      return false;
    }
  }
  return true;
}

// The expert that most tokens could be taken for, were it in the batch; of several the one of
// the oldest token.
ExpertId ExpertBatches::longest_queue() {
  ++pass_;
  std::fill(queue_.begin(), queue_.end(), int64_t{0});
  ExpertId longest;
  for (const Waiting& w : waiting_) {
    if (w.chosen) continue;
    Front& front = fronts_[static_cast<size_t>(w.token.request)];
    if (front.pass != pass_) front = {pass_, w.token.expert};
    if (!front.expert.valid()) continue;
    if (w.token.expert == front.expert || in_batch_[static_cast<size_t>(w.token.expert.value)]) {
      ++queue_[static_cast<size_t>(front.expert.value)];
    } else {
      front.expert = {};  // a second expert would be needed
    }
  }
  for (const Waiting& w : waiting_) {
    if (w.chosen) continue;
    const int64_t length = queue_[static_cast<size_t>(w.token.expert.value)];
    if (!longest.valid() || length > queue_[static_cast<size_t>(longest.value)]) {
      longest = w.token.expert;
    }
  }
  return longest;
}

}  // namespace tandem
