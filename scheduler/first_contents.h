// What a cache holds before the first step of a replay. Whole experts, as many as there are slots;
// the cache's statistics start at nothing afterwards.
#pragma once

#include <cstdint>
#include <span>

#include "cache/expert_cache.h"
#include "scheduler/hot_set.h"
#include "scheduler/trace.h"

namespace tandem {

enum class Contents : uint8_t {
  kEmpty,      // nothing
  kFirst,      // experts 0, 1, 2 … of every layer, as HybriMoE's code starts
  kLayers,     // whole layers from the last one, as llama.cpp's --n-cpu-moe leaves on the GPU
  kHot,        // the most used of rows of a trace
  kSaved,      // the best of a saved hot set
  kEverything  // all of them, in a cache that holds them: the bound of no miss ever
};

// What contents are learned from.
struct ContentsSource {
  const Trace* trace = nullptr;  // kHot
  std::span<const int32_t> rows;
  const HotSet* saved = nullptr;  // kSaved
};
void fill_cache(Contents contents, const ContentsSource& source, ExpertCache* cache);

// Experts 0, 1, 2 … of every layer.
void fill_first(ExpertCache* cache);
// Whole layers from the last one to the first, as many as there are slots for among the layers with
// experts of that size; the remaining slots stay free. CHECKs that layers share their slots.
void fill_last_layers(ExpertCache* cache);
// Those that these rows of the trace use most; ties as fill_first() has them.
void fill_most_used(const Trace& trace, std::span<const int32_t> rows, ExpertCache* cache);
// The most valuable of a hot set; of equal ones the better of its layer, then the earlier layer.
// CHECKs that it has the cache's layers and experts.
void fill_saved(const HotSet& hot, ExpertCache* cache);

}  // namespace tandem
