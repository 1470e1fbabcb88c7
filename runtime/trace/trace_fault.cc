#include "runtime/trace/trace_fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <bitset>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "runtime/model/byte_reader.h"

namespace tandem {
namespace {

using Part = TraceFault::Part;

std::string range_fault(const char* name, int32_t value, int32_t least, int32_t most) {
  if (value >= least && value <= most) return "";
  return fmt::format("{}: expected {} to {}, got {}", name, least, most, value);
}

std::string bytes_fault(const TraceHeader& h) {
  if (h.expert_bytes.empty()) return "";
  if (h.expert_bytes.size() != static_cast<size_t>(h.n_layers)) {
    return fmt::format("expert_bytes: expected one for each of {} layers, got {}", h.n_layers,
                       h.expert_bytes.size());
  }
  for (const int64_t bytes : h.expert_bytes) {
    if (bytes < 1 || bytes > kMaxExpertBytes) {
      return fmt::format("expert_bytes: expected 1 to {}, got {}", kMaxExpertBytes, bytes);
    }
  }
  return "";
}

std::string text_fault(const char* name, const std::string& text) {
  if (text.size() > kMaxModelName) {
    return fmt::format("{}: expected at most {} bytes, got {}", name, kMaxModelName, text.size());
  }
  try {
    static_cast<void>(nlohmann::json(text).dump());
  } catch (const nlohmann::json::exception&) {
    return fmt::format("{}: expected UTF-8, got {}", name, tandem::quoted(text));
  }
  return "";
}

std::string lookahead_fault(const TraceHeader& h) {
  const std::string& name = h.lookahead;
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789-";
  if (name.empty() || name.size() > TraceLimits::kLookaheadName ||
      name.find_first_not_of(kLetters) != std::string::npos) {
    return fmt::format("lookahead: expected 1 to {} small letters, digits and hyphens, got {}",
                       TraceLimits::kLookaheadName, tandem::quoted(name));
  }
  if ((name == LookaheadName::kNone) == (h.n_ahead == 0)) return "";
  return fmt::format("lookahead: expected \"none\" with n_ahead 0 and only there, got {} with {}",
                     tandem::quoted(name), h.n_ahead);
}

std::string steps_fault(const Trace& trace) {
  if (trace.steps.empty()) return "expected at least one step";
  int64_t n_tokens = 0;
  int32_t sequence = 0;
  for (size_t i = 0; i < trace.steps.size(); ++i) {
    const TraceStep& step = trace.steps[i];
    if (step.sequence < sequence) {
      return fmt::format("step {}: expected sequence {} or a later one, got {}", i, sequence,
                         step.sequence);
    }
    if (step.n_tokens < 1) {
      return fmt::format("step {}: expected at least one token, got {}", i, step.n_tokens);
    }
    if (step.first_token != n_tokens) {
      return fmt::format("step {}: expected it to begin at token {}, got {}", i, n_tokens,
                         step.first_token);
    }
    sequence = step.sequence;
    n_tokens += step.n_tokens;
  }
  return "";
}

std::string sizes_fault(const Trace& trace) {
  const TraceHeader& h = trace.header;
  const auto n_cells = static_cast<size_t>(trace.n_tokens()) * static_cast<size_t>(h.n_layers);
  const size_t n_ids = n_cells * static_cast<size_t>(h.n_ranks);
  const size_t n_predicted =
      n_cells * static_cast<size_t>(h.n_ahead) * static_cast<size_t>(h.top_k);
  if (trace.ids.size() == n_ids && trace.weights.size() == n_ids &&
      trace.predicted.size() == n_predicted) {
    return "";
  }
  return fmt::format("{} tokens: expected {} ids, {} weights and {} predictions, got {}, {} and {}",
                     trace.n_tokens(), n_ids, n_ids, n_predicted, trace.ids.size(),
                     trace.weights.size(), trace.predicted.size());
}

using Seen = std::bitset<static_cast<size_t>(TraceLimits::kExperts)>;

// Experts of `ids` are added to `seen`.
std::string ids_fault(std::span<const int16_t> ids, int32_t n_experts, Seen& seen) {
  bool missing = false;
  for (const int16_t id : ids) {
    if (id == -1) {
      missing = true;
      continue;
    }
    if (id < 0 || id >= n_experts) {
      return fmt::format("expected an expert from 0 to {}, got {}", n_experts - 1, id);
    }
    if (missing) return fmt::format("expected no expert after a missing one, got {}", id);
    if (seen[static_cast<size_t>(id)]) return fmt::format("expert {} appears twice", id);
    seen.set(static_cast<size_t>(id));
  }
  return "";
}

std::string selection_fault(const Trace& trace, int64_t token, int32_t layer) {
  Seen seen;
  const auto ids = trace.ids_of(token, layer);
  const auto top_k = static_cast<size_t>(trace.header.top_k);
  std::string what = ids_fault(ids.first(top_k), trace.header.n_experts, seen);
  return what.empty() ? ids_fault(ids.subspan(top_k), trace.header.n_experts, seen) : what;
}

std::string weights_fault(const Trace& trace, int64_t token, int32_t layer) {
  const auto ids = trace.ids_of(token, layer);
  const auto weights = trace.weights_of(token, layer);
  for (size_t i = 0; i < ids.size(); ++i) {
    const float most = ids[i] < 0 ? 0.0F : TraceLimits::kWeight;
    if (weights[i] >= 0.0F && weights[i] <= most) continue;  // false for NaN
    return fmt::format("expected a weight from 0 to {} for {}, got {}", most,
                       ids[i] < 0 ? "no expert" : fmt::format("expert {}", ids[i]), weights[i]);
  }
  return "";
}

std::string predicted_fault(const Trace& trace, int64_t token, int32_t layer) {
  for (int32_t ahead = 1; ahead <= trace.header.n_ahead; ++ahead) {
    Seen seen;
    const std::string what =
        ids_fault(trace.predicted_of(token, layer, ahead), trace.header.n_experts, seen);
    if (!what.empty()) return fmt::format("prediction {} ahead: {}", ahead, what);
  }
  return "";
}

std::optional<TraceFault> cell_fault(const Trace& trace, int64_t token, int32_t layer) {
  std::string what = selection_fault(trace, token, layer);
  if (!what.empty()) return TraceFault{Part::kIds, token, layer, std::move(what)};
  what = weights_fault(trace, token, layer);
  if (!what.empty()) return TraceFault{Part::kWeights, token, layer, std::move(what)};
  what = predicted_fault(trace, token, layer);
  if (!what.empty()) return TraceFault{Part::kPredicted, token, layer, std::move(what)};
  return std::nullopt;
}

}  // namespace

std::string find_header_fault(const TraceHeader& h) {
  for (const std::string& what :
       {range_fault("layers", h.n_layers, 1, TraceLimits::kLayers),
        range_fault("experts", h.n_experts, 1, TraceLimits::kExperts),
        range_fault("top_k", h.top_k, 1, std::min(TraceLimits::kTopK, h.n_experts)),
        range_fault("n_ranks", h.n_ranks, h.top_k, std::min(TraceLimits::kRanks, h.n_experts)),
        range_fault("n_ahead", h.n_ahead, 0, TraceLimits::kAhead), bytes_fault(h),
        text_fault("model", h.model), text_fault("model_hash", h.model_hash), lookahead_fault(h)}) {
    if (!what.empty()) return what;
  }
  return "";
}

std::optional<TraceFault> find_trace_fault(const Trace& trace) {
  std::string what = find_header_fault(trace.header);
  if (!what.empty()) return TraceFault{Part::kHeader, 0, 0, std::move(what)};
  what = steps_fault(trace);
  if (what.empty()) what = sizes_fault(trace);
  if (!what.empty()) return TraceFault{Part::kSteps, 0, 0, std::move(what)};
  for (int64_t token = 0; token < trace.n_tokens(); ++token) {
    for (int32_t layer = 0; layer < trace.header.n_layers; ++layer) {
      auto fault = cell_fault(trace, token, layer);
      if (fault) return fault;
    }
  }
  return std::nullopt;
}

}  // namespace tandem
