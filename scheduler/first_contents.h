// What a cache holds before the first step of a replay. Whole experts, as many as there are slots;
// the cache's statistics start at nothing afterwards.
#pragma once

#include <cstdint>
#include <span>

#include "cache/expert_cache.h"
#include "scheduler/trace.h"

namespace tandem {

// Experts 0, 1, 2 … of every layer.
void fill_first(ExpertCache* cache);
// Those that these rows of the trace use most; ties as fill_first() has them.
void fill_most_used(const Trace& trace, std::span<const int32_t> rows, ExpertCache* cache);

}  // namespace tandem
