// Expert-aware batching after Read-ME (Algorithm 1; Cai et al., NeurIPS 2024, arXiv 2410.19123):
// tokens whose expert is known before they run wait in a queue for each expert, and a batch is
// filled from the longest queue, then from the next longest, so that it needs few experts.
// Besides, a request's tokens keep their order, since a later one reads what the earlier ones leave
// in the KV cache; and no more than `max_age` batches pass a token by.
// Used by one thread. Pure: the same calls give the same batches. Nothing allocates after
// construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/types.h"

namespace tandem {

struct BatchToken {
  int32_t request = 0;  // from 0 on, less than max_requests
  ExpertId expert;      // of all layers, or whichever the caller wants its queue to be
  int64_t id = 0;       // the caller's own
};

struct ExpertBatchLimits {
  int32_t n_experts = 0;
  int32_t max_tokens = 0;    // of a batch
  int32_t max_age = 0;       // batches that may pass a token by; 0: in order of arrival
  int32_t max_requests = 0;  // that may have tokens waiting at a time
};

class ExpertBatches {
 public:
  // Takes memory for capacity() tokens. CHECKs that the limits are positive, max_age not negative.
  explicit ExpertBatches(const ExpertBatchLimits& limits);

  // Tokens that may wait: half of max_tokens * (max_age + 1), with which every batch would have to
  // take the oldest; but at least max_tokens.
  int64_t capacity() const { return capacity_; }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }

  // A request's tokens come in their order. False, and nothing happens, where there is no room;
  // the caller tries again after a batch. CHECKs the ids.
  bool add(const BatchToken& token);

  // The next batch, in the order of arrival: of a request's waiting tokens always the first ones.
  // As many as are there, up to max_tokens. Valid until the next call.
  std::span<const BatchToken> next();

 private:
  struct Waiting {
    BatchToken token;
    int64_t arrived;  // batches before it
    bool chosen;
  };
  // The experts that a request waits for, as far as this pass has seen: of its tokens only those
  // up to the first that needs a second new one could be taken.
  struct Front {
    int64_t pass = 0;  // that this is of
    ExpertId expert;   // the one that is missing; none: the request is out
  };

  int64_t batches_left(const Waiting& waiting) const;
  void choose(Waiting* waiting);
  bool try_to_choose(Waiting* waiting);
  bool take_ready();
  ExpertId longest_queue();

  ExpertBatchLimits limits_;
  int64_t capacity_;
  int64_t n_batches_ = 0;
  int64_t pass_ = 0;
  std::vector<Waiting> waiting_;   // in the order of arrival
  std::vector<BatchToken> batch_;  // [max_tokens]
  int64_t most_ = 0;               // tokens of this batch
  int64_t n_chosen_ = 0;
  std::vector<uint8_t> in_batch_;  // [n_experts]
  std::vector<int64_t> queue_;     // [n_experts] tokens that could be taken
  std::vector<Front> fronts_;      // [max_requests]
};

}  // namespace tandem
