// Caches replayed by brute force, to measure what traces are like. Access is event-atomic: the
// experts of a step in a layer are looked up together, then put in, then others thrown out.
#pragma once

#include <cstdint>

#include "scheduler/trace.h"

namespace tandem::test {

// Per cent of lookups that hit, in decode steps of sequences from first_sequence on; what comes
// before them warms the caches. Each layer has a cache of n_slots.
double lru_hits(const Trace& trace, int32_t n_slots, int32_t first_sequence);

// The same with HybriMoE's scores, S <- p(s) / 2 + S / 2 where p keeps the 2 * top_k largest
// scores of a token. Every missed expert is put in; for each, the one with the smallest S in the
// layer goes, which may be one that the same token used. Ties: the least recently used.
double mrs_hits(const Trace& trace, int32_t n_slots, int32_t first_sequence);

// The same, never throwing out what the token uses.
double mrs_hits_protected(const Trace& trace, int32_t n_slots, int32_t first_sequence);

// Of lookups in all steps, for one cache of all layers that holds this many bytes and throws out
// what was least recently used. A prompt's step asks once for each expert that its tokens use.
double global_lru_hits(const Trace& trace, int64_t n_bytes);

// Per cent of a decode token's experts that the token before it used, over all layers.
double adjacent_reuse(const Trace& trace);

}  // namespace tandem::test
