#include "runtime/trace/trace_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/trace/trace_fault.h"

namespace tandem {
namespace {

// A trace is stored whole, so that gaps take memory too. A file may leave this many times as much
// out as it holds (a model whose routed layers are few, say) before it is refused.
constexpr uint64_t kMaxGaps = 16;
constexpr uint64_t kSmallTrace = 1 << 20;  // entries that are granted anyway

}  // namespace

TraceBuilder::TraceBuilder(TraceHeader header, const std::string& where)
    : header_(std::move(header)), where_(where) {}

void TraceBuilder::fail(const std::string& what) const {
  throw FileError(fmt::format("{}:{}", where_, line_), what);
}

int64_t TraceBuilder::checked(int64_t value, std::string_view name, int64_t least,
                              int64_t most) const {
  if (value >= least && value <= most) return value;
  fail(fmt::format("{}: expected {} to {}, got {}", name, least, most, value));
}

SelectedExpert TraceBuilder::checked_expert(int64_t expert, double weight) const {
  const int32_t n_experts = header_.n_experts > 0 ? header_.n_experts : TraceLimits::kExperts;
  checked(expert, "expert", 0, n_experts - 1);
  if (!(weight >= 0.0 && weight <= static_cast<double>(TraceLimits::kWeight))) {
    fail(fmt::format("weight: expected 0 to {}, got {}", TraceLimits::kWeight, weight));
  }
  return {static_cast<int16_t>(expert), static_cast<float>(weight)};
}

int32_t TraceBuilder::checked_layer(int64_t layer) const {
  const int32_t n_layers = header_.n_layers > 0 ? header_.n_layers : TraceLimits::kLayers;
  return static_cast<int32_t>(checked(layer, "layer", 0, n_layers - 1));
}

void TraceBuilder::add(const TokenKey& token, bool prefill, int32_t layer,
                       std::vector<SelectedExpert>& selection) {
  const auto n = static_cast<int32_t>(selection.size());
  if (const int32_t most = header_.top_k > 0 ? header_.top_k : TraceLimits::kTopK; n > most) {
    fail(fmt::format("expected at most {} experts of a token, got {}", most, n));
  }
  const auto index = static_cast<size_t>(layer);
  if (last_.size() <= index) last_.resize(index + 1);
  if (token <= last_[index]) {
    const TokenKey& last = last_[index];
    fail(fmt::format("layer {}: expected a token after token {} of sequence {}, got token {} of {}",
                     layer, last.index, last.sequence, token.index, token.sequence));
  }
  last_[index] = token;
  std::stable_sort(selection.begin(), selection.end(),
                   [](const auto& a, const auto& b) { return a.weight > b.weight; });
  for (size_t i = 0; i < selection.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (selection[i].expert == selection[j].expert) {
        fail(fmt::format("expert {} appears twice in a selection", selection[i].expert));
      }
    }
    largest_expert_ = std::max<int32_t>(largest_expert_, selection[i].expert);
  }
  longest_selection_ = std::max(longest_selection_, n);
  cells_.push_back({token, layer, n});
  experts_.insert(experts_.end(), selection.begin(), selection.end());
  if (tokens_.empty() || tokens_.back().key != token || tokens_.back().prefill != prefill) {
    tokens_.push_back({token, prefill, line_});
  }
}

Trace TraceBuilder::finish() {
  if (cells_.empty()) throw FileError(where_, "expected a routing trace, got one without a token");
  complete_header();
  sort_tokens();
  Trace trace;
  trace.header = header_;
  add_steps(trace);
  const uint64_t n_entries = static_cast<uint64_t>(tokens_.size()) *
                             static_cast<uint64_t>(header_.n_layers) *
                             static_cast<uint64_t>(header_.n_ranks);
  if (n_entries > kSmallTrace + kMaxGaps * experts_.size()) {
    throw FileError(where_, fmt::format("{} tokens x {} layers x top {} hold only {} experts; "
                                        "expected at least one in {}",
                                        tokens_.size(), header_.n_layers, header_.top_k,
                                        experts_.size(), kMaxGaps));
  }
  fill(trace);
  const auto fault = find_trace_fault(trace);
  TANDEM_CHECK(!fault, "%s", fault->what.c_str());
  return trace;
}

void TraceBuilder::complete_header() {
  if (header_.n_layers == 0) header_.n_layers = static_cast<int32_t>(last_.size());
  if (header_.n_experts == 0) header_.n_experts = largest_expert_ + 1;
  if (header_.top_k == 0) header_.top_k = longest_selection_;
  header_.n_ranks = header_.top_k;
  const std::string fault = find_header_fault(header_);
  if (!fault.empty()) throw FileError(where_, fault);
}

void TraceBuilder::sort_tokens() {
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const Token& a, const Token& b) { return a.key < b.key; });
  for (size_t i = 1; i < tokens_.size(); ++i) {
    const Token& token = tokens_[i];
    if (token.key != tokens_[i - 1].key || token.prefill == tokens_[i - 1].prefill) continue;
    throw FileError(fmt::format("{}:{}", where_, token.line),
                    fmt::format("token {} of sequence {}: expected the phase of line {}",
                                token.key.index, token.key.sequence, tokens_[i - 1].line));
  }
  const auto same = [](const Token& a, const Token& b) { return a.key == b.key; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
}

void TraceBuilder::add_steps(Trace& trace) const {
  for (size_t row = 0; row < tokens_.size(); ++row) {
    const Token& token = tokens_[row];
    const bool joins = row > 0 && token.prefill && tokens_[row - 1].prefill &&
                       token.key.sequence == tokens_[row - 1].key.sequence &&
                       token.key.part == tokens_[row - 1].key.part &&
                       trace.steps.back().n_tokens < std::numeric_limits<int32_t>::max();
    if (joins) {
      ++trace.steps.back().n_tokens;
    } else {
      trace.steps.push_back({token.key.sequence, token.prefill, static_cast<int64_t>(row), 1});
    }
  }
}

size_t TraceBuilder::row_of(const TokenKey& key) const {
  const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), key,
                                      [](const Token& t, const TokenKey& k) { return t.key < k; });
  return static_cast<size_t>(found - tokens_.begin());
}

void TraceBuilder::fill(Trace& trace) const {
  const auto n_layers = static_cast<size_t>(header_.n_layers);
  const auto n_ranks = static_cast<size_t>(header_.n_ranks);
  trace.ids.assign(tokens_.size() * n_layers * n_ranks, int16_t{-1});
  trace.weights.assign(trace.ids.size(), 0.0F);
  auto expert = experts_.begin();
  for (const Cell& cell : cells_) {
    const size_t at = (row_of(cell.token) * n_layers + static_cast<size_t>(cell.layer)) * n_ranks;
    for (size_t i = at; i < at + static_cast<size_t>(cell.n_experts); ++i, ++expert) {
      trace.ids[i] = expert->expert;
      trace.weights[i] = expert->weight;
    }
  }
}

}  // namespace tandem
