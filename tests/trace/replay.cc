#include "tests/trace/replay.h"

#include <algorithm>
#include <set>
#include <span>
#include <vector>

namespace tandem::test {
namespace {

struct Entry {
  bool resident = false;
  int64_t last_use = -1;
  double score = 0.0;
};

struct Count {
  int64_t n_hits = 0;
  int64_t n_lookups = 0;
  double percent() const {
    return 100.0 * static_cast<double>(n_hits) / static_cast<double>(n_lookups);
  }
};

std::span<const int16_t> selection(const Trace& trace, int64_t token, int32_t layer) {
  return trace.ids_of(token, layer).first(static_cast<size_t>(trace.header.top_k));
}

bool holds(std::span<const int16_t> ids, int16_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Throws out the resident entry that is least by `before` and not in `kept`.
template <typename Before>
void throw_out(std::vector<Entry>& entries, std::span<const int16_t> kept, const Before& before) {
  Entry* victim = nullptr;
  for (size_t e = 0; e < entries.size(); ++e) {
    if (!entries[e].resident || holds(kept, static_cast<int16_t>(e))) continue;
    if (victim == nullptr || before(entries[e], *victim)) victim = &entries[e];
  }
  victim->resident = false;
}

bool older(const Entry& a, const Entry& b) { return a.last_use < b.last_use; }

bool lighter(const Entry& a, const Entry& b) {
  return a.score < b.score || (a.score == b.score && older(a, b));
}

// Calls serve(layer, ids, weights, is_counted, clock) for every decode token and layer.
template <typename Serve>
void replay_decode(const Trace& trace, int32_t first_sequence, const Serve& serve) {
  int64_t clock = 0;
  for (const TraceStep& step : trace.steps) {
    if (step.prefill) continue;
    for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
      clock += trace.header.n_experts;
      serve(static_cast<size_t>(layer), selection(trace, step.first_token, layer),
            step.sequence >= first_sequence, clock, step.first_token);
    }
  }
}

double mrs(const Trace& trace, int32_t n_slots, int32_t first_sequence, bool is_protected) {
  std::vector<std::vector<Entry>> layers(
      static_cast<size_t>(trace.header.n_layers),
      std::vector<Entry>(static_cast<size_t>(trace.header.n_experts)));
  const size_t n_scored = std::min(2 * static_cast<size_t>(trace.header.top_k),
                                   static_cast<size_t>(trace.header.n_ranks));
  Count count;
  replay_decode(trace, first_sequence,
                [&](size_t layer, auto ids, bool is_counted, int64_t clock, int64_t token) {
                  std::vector<Entry>& entries = layers[layer];
                  const auto all = trace.ids_of(token, static_cast<int32_t>(layer));
                  const auto weights = trace.weights_of(token, static_cast<int32_t>(layer));
                  for (Entry& entry : entries) entry.score *= 0.5;
                  for (size_t i = 0; i < n_scored; ++i) {
                    entries[static_cast<size_t>(all[i])].score +=
                        0.5 * static_cast<double>(weights[i]);
                  }
                  std::vector<int16_t> missed;
                  for (const int16_t id : ids) {
                    Entry& entry = entries[static_cast<size_t>(id)];
                    if (is_counted) {
                      ++count.n_lookups;
                      count.n_hits += entry.resident ? 1 : 0;
                    }
                    if (!entry.resident) missed.push_back(id);
                    entry.last_use = clock--;  // of one token's experts, the heaviest is the latest
                  }
                  int64_t n = std::count_if(entries.begin(), entries.end(),
                                            [](const Entry& e) { return e.resident; });
                  for (const int16_t id : missed) {
                    if (n == n_slots) {
                      throw_out(entries, is_protected ? ids : ids.first(0), lighter);
                      --n;
                    }
                    entries[static_cast<size_t>(id)].resident = true;
                    ++n;
                  }
                });
  return count.percent();
}

}  // namespace

double lru_hits(const Trace& trace, int32_t n_slots, int32_t first_sequence) {
  std::vector<std::vector<Entry>> layers(
      static_cast<size_t>(trace.header.n_layers),
      std::vector<Entry>(static_cast<size_t>(trace.header.n_experts)));
  Count count;
  replay_decode(trace, first_sequence,
                [&](size_t layer, auto ids, bool is_counted, int64_t clock, int64_t) {
                  std::vector<Entry>& entries = layers[layer];
                  for (const int16_t id : ids) {
                    if (!is_counted) continue;
                    ++count.n_lookups;
                    count.n_hits += entries[static_cast<size_t>(id)].resident ? 1 : 0;
                  }
                  for (const int16_t id : ids) {
                    entries[static_cast<size_t>(id)].resident = true;
                    entries[static_cast<size_t>(id)].last_use = clock--;
                  }
                  int64_t n = std::count_if(entries.begin(), entries.end(),
                                            [](const Entry& e) { return e.resident; });
                  for (; n > n_slots; --n) throw_out(entries, ids.first(0), older);
                });
  return count.percent();
}

double mrs_hits(const Trace& trace, int32_t n_slots, int32_t first_sequence) {
  return mrs(trace, n_slots, first_sequence, false);
}

double mrs_hits_protected(const Trace& trace, int32_t n_slots, int32_t first_sequence) {
  return mrs(trace, n_slots, first_sequence, true);
}

double global_lru_hits(const Trace& trace, int64_t n_bytes) {
  const auto n_experts = static_cast<size_t>(trace.header.n_experts);
  const std::vector<int64_t>& expert_bytes = trace.header.expert_bytes;
  std::vector<Entry> entries(static_cast<size_t>(trace.header.n_layers) * n_experts);
  std::set<std::pair<int64_t, size_t>> resident;  // by last use
  int64_t n_used = 0;
  int64_t clock = 0;
  Count count;
  for (const TraceStep& step : trace.steps) {
    for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
      std::set<int16_t> asked;
      for (int64_t t = step.first_token; t < step.first_token + step.n_tokens; ++t) {
        for (const int16_t id : selection(trace, t, layer)) {
          if (id >= 0) asked.insert(id);
        }
      }
      for (const int16_t id : asked) {
        const size_t at = static_cast<size_t>(layer) * n_experts + static_cast<size_t>(id);
        ++count.n_lookups;
        count.n_hits += entries[at].resident ? 1 : 0;
        if (!entries[at].resident) n_used += expert_bytes[static_cast<size_t>(layer)];
        resident.erase({entries[at].last_use, at});
        entries[at] = {true, ++clock, 0.0};
        resident.insert({clock, at});
      }
      while (n_used > n_bytes) {
        const size_t at = resident.begin()->second;
        resident.erase(resident.begin());
        entries[at].resident = false;
        n_used -= expert_bytes[at / n_experts];
      }
    }
  }
  return count.percent();
}

double adjacent_reuse(const Trace& trace) {
  Count count;
  for (size_t i = 1; i < trace.steps.size(); ++i) {
    const TraceStep& step = trace.steps[i];
    if (step.prefill || step.sequence != trace.steps[i - 1].sequence) continue;
    for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
      const auto before = selection(trace, step.first_token - 1, layer);
      for (const int16_t id : selection(trace, step.first_token, layer)) {
        ++count.n_lookups;
        count.n_hits += holds(before, id) ? 1 : 0;
      }
    }
  }
  return count.percent();
}

}  // namespace tandem::test
