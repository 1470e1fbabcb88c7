// A recorded future: what clairvoyant policies and prefetchers may know and nobody else.
#pragma once

#include <cstdint>
#include <span>

#include "cache/eviction_policy.h"

namespace tandem {

class Future : public FutureUses {
 public:
  // The experts of the layer visit `ahead` visits from now (0: the current one), and its layer.
  // Empty beyond the end.
  struct Visit {
    LayerId layer;
    std::span<const ExpertId> used;
  };
  virtual Visit visit(int32_t ahead) const = 0;
};

}  // namespace tandem
