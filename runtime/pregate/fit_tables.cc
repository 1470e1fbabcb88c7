#include "runtime/pregate/fit_tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <span>
#include <utility>

#include "kernels/quant.h"
#include "runtime/pregate/platt.h"
#include "scheduler/routing.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = 512;    // tokens that are read at once
constexpr int64_t kLeastSeen = 2;  // times, of a token that has a row
// Tokens that a layer's rates of use count as, beside what was seen of one token.
constexpr std::array kPriors{0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0};
constexpr double kPairPrior = 8;  // the same, beside what was seen of one expert
// Of what a used expert adds: from all of it, as if experts said so independently of each other, to
// what is left where eight say the same.
constexpr std::array kWeights{1.0F, 0.5F, 0.25F, 0.125F};

// What the tokens of some texts used, one text behind the other.
struct Routes {
  int64_t n = 0;
  std::vector<int32_t> tokens;             // [n]
  std::vector<int64_t> rows;               // [n] of the token table
  std::vector<std::vector<ExpertId>> ids;  // [L] of [n, top_k]
};

struct LayerResult {
  std::vector<PairLink> pairs;  // that lead to it, by distance
  std::vector<TableScore> pair_scores;
  TableScore tokens;
};

Routes empty_routes(const TapFiles& files, size_t n_layers) {
  Routes out;
  out.ids.resize(n_layers);
  for (const auto& file : files) {
    const std::vector<int32_t> tokens = file->tokens();
    out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
  }
  out.n = static_cast<int64_t>(out.tokens.size());
  return out;
}

// The most frequent ones, of a number that keeps the table small, rising.
std::vector<int32_t> known_tokens(const std::vector<int32_t>& tokens) {
  std::map<int32_t, int64_t> seen;
  for (const int32_t token : tokens) ++seen[token];
  std::vector<std::pair<int64_t, int32_t>> by_count;
  for (const auto& [token, n] : seen) {
    if (n >= kLeastSeen && token >= 0) by_count.emplace_back(-n, token);
  }
  std::sort(by_count.begin(), by_count.end());
  if (std::ssize(by_count) > TokenTable::kMostTokens) by_count.resize(TokenTable::kMostTokens);
  std::vector<int32_t> ids;
  ids.reserve(by_count.size());
  for (const auto& entry : by_count) ids.push_back(entry.second);
  std::sort(ids.begin(), ids.end());
  return ids;
}

uint16_t to_half(float v) {
  constexpr float kLargest = 65504;
  return f32_to_f16(std::clamp(v, -kLargest, kLargest));
}

class Fit {
 public:
  Fit(const Model& model, const TapSplit& data, int32_t n_distances)
      : rules_(model.config().routing),
        n_layers_(static_cast<size_t>(model.config().n_layers)),
        n_experts_(static_cast<size_t>(rules_.n_experts)),
        top_k_(static_cast<size_t>(rules_.top_k)),
        n_distances_(n_distances),
        data_(data),
        training_(empty_routes(data.training, n_layers_)),
        validation_(empty_routes(data.validation, n_layers_)),
        test_(empty_routes(data.test, n_layers_)),
        results_(n_layers_) {
    ExpertTables& t = tables_;
    t.n_experts = rules_.n_experts;
    t.top_k = rules_.top_k;
    t.hot.resize(n_layers_);
    t.tokens.ids = known_tokens(training_.tokens);
    const size_t entries = t.tokens.ids.size() * n_layers_ * listed();
    t.tokens.experts.resize(entries);
    t.tokens.use.resize(entries);
    for (Routes* part : {&training_, &validation_, &test_}) {
      for (const int32_t token : part->tokens) part->rows.push_back(t.tokens.row(token));
    }
  }

  // Who was used in a layer; of different layers in parallel.
  void read(size_t layer) {
    read_part(data_.training, layer, &training_);
    read_part(data_.validation, layer, &validation_);
    read_part(data_.test, layer, &test_);
  }

  // After all have been read, likewise.
  void fit_layer(size_t layer) {
    LayerResult& result = results_[layer];
    tables_.hot[layer] = rates(layer);
    fit_tokens(layer);
    result.tokens = measure_tokens(test_, layer);
    for (size_t d = 1; d <= static_cast<size_t>(n_distances_) && d <= layer; ++d) {
      result.pairs.push_back(fit_pair(layer, d));
      result.pair_scores.push_back(measure_pair(test_, layer, result.pairs.back()));
    }
  }

  FittedTables take() {
    FittedTables out;
    for (size_t source = 0; source < n_layers_; ++source) {
      for (size_t d = 1; d <= static_cast<size_t>(n_distances_) && source + d < n_layers_; ++d) {
        tables_.pairs.push_back(std::move(results_[source + d].pairs[d - 1]));
        out.pairs.push_back(results_[source + d].pair_scores[d - 1]);
      }
    }
    for (const LayerResult& result : results_) out.tokens.push_back(result.tokens);
    const auto known =
        std::count_if(test_.rows.begin(), test_.rows.end(), [](int64_t row) { return row >= 0; });
    out.known = static_cast<double>(known) / static_cast<double>(std::max<int64_t>(1, test_.n));
    out.tables = std::move(tables_);
    return out;
  }

 private:
  size_t listed() const {
    return static_cast<size_t>(listed_experts(rules_.n_experts, rules_.top_k));
  }
  std::span<const ExpertId> used(const Routes& routes, size_t layer, int64_t token) const {
    return std::span(routes.ids[layer]).subspan(static_cast<size_t>(token) * top_k_, top_k_);
  }

  void read_part(const TapFiles& files, size_t layer, Routes* routes) const {
    Router router(rules_, static_cast<int32_t>(kChunk));
    std::vector<ExpertId>& ids = routes->ids[layer];
    std::vector<float> logits(static_cast<size_t>(kChunk) * n_experts_);
    for (const auto& file : files) {
      for (int64_t first = 0; first < file->n_tokens(); first += kChunk) {
        const int64_t n = std::min(kChunk, file->n_tokens() - first);
        file->read_logits(static_cast<int32_t>(layer), first, n, logits.data());
        const size_t before = ids.size();
        ids.resize(before + static_cast<size_t>(n) * top_k_);
        router.select(logits.data(), static_cast<int32_t>(n), std::span(ids).subspan(before));
      }
    }
  }

  std::vector<float> rates(size_t layer) const {
    std::vector<int64_t> uses(n_experts_, 0);
    for (const ExpertId id : training_.ids[layer]) ++uses[static_cast<size_t>(id.value)];
    std::vector<float> out;
    out.reserve(n_experts_);
    const double n = static_cast<double>(std::max<int64_t>(1, training_.n));
    for (const int64_t u : uses) out.push_back(static_cast<float>(static_cast<double>(u) / n));
    return out;
  }

  // The prior that is best on prompts that were not counted.
  void fit_tokens(size_t layer) {
    std::vector<uint32_t> uses(tables_.tokens.ids.size() * n_experts_, 0);
    std::vector<int64_t> seen(tables_.tokens.ids.size(), 0);
    for (int64_t t = 0; t < training_.n; ++t) {
      const int64_t row = training_.rows[static_cast<size_t>(t)];
      if (row < 0) continue;
      ++seen[static_cast<size_t>(row)];
      for (const ExpertId id : used(training_, layer, t)) {
        ++uses[static_cast<size_t>(row) * n_experts_ + static_cast<size_t>(id.value)];
      }
    }
    double best = kPriors.front();
    double least = INFINITY;
    for (const double prior : kPriors) {
      set_rows(layer, uses, seen, prior);
      const double brier = measure_tokens(validation_, layer).brier;
      if (brier < least) {
        least = brier;
        best = prior;
      }
    }
    set_rows(layer, uses, seen, best);
  }

  void set_rows(size_t layer, const std::vector<uint32_t>& uses, const std::vector<int64_t>& seen,
                double prior) {
    std::vector<float> use(n_experts_);
    std::vector<ExpertId> ids(listed());
    for (size_t row = 0; row < seen.size(); ++row) {
      for (size_t e = 0; e < n_experts_; ++e) {
        const double n = uses[row * n_experts_ + e];
        const auto rate = static_cast<double>(tables_.hot[layer][e]);
        use[e] = static_cast<float>((n + prior * rate) / (static_cast<double>(seen[row]) + prior));
      }
      largest(use, ids);
      const size_t first = (row * n_layers_ + layer) * listed();
      for (size_t i = 0; i < ids.size(); ++i) {
        const auto e = static_cast<size_t>(ids[i].value);
        tables_.tokens.experts[first + i] = static_cast<uint16_t>(e);
        tables_.tokens.use[first + i] = static_cast<uint8_t>(std::lround(use[e] * 255));
      }
    }
  }

  // guess(token, P(use), what selects): [E] each
  template <typename Guess>
  TableScore measure(const Routes& routes, size_t layer, Guess guess) const {
    std::vector<float> use(n_experts_);
    std::vector<float> scores(n_experts_);
    std::vector<ExpertId> ids(top_k_);
    std::vector<uint8_t> is_used(n_experts_);
    int64_t right = 0;
    double squares = 0;
    for (int64_t t = 0; t < routes.n; ++t) {
      guess(t, std::span(use), std::span(scores));
      largest(scores, ids);
      std::fill(is_used.begin(), is_used.end(), uint8_t{0});
      for (const ExpertId id : used(routes, layer, t)) is_used[static_cast<size_t>(id.value)] = 1;
      for (const ExpertId id : ids) right += is_used[static_cast<size_t>(id.value)];
      for (size_t e = 0; e < n_experts_; ++e) {
        squares += std::pow(static_cast<double>(use[e]) - is_used[e], 2);
      }
    }
    const auto n = static_cast<double>(std::max<int64_t>(1, routes.n));
    return {static_cast<double>(right) / (n * static_cast<double>(top_k_)),
            squares / (n * static_cast<double>(n_experts_))};
  }

  TableScore measure_tokens(const Routes& routes, size_t layer) const {
    return measure(routes, layer, [&](int64_t t, std::span<float> use, std::span<float> scores) {
      token_use(tables_, static_cast<int32_t>(layer), routes.rows[static_cast<size_t>(t)], use);
      std::copy(use.begin(), use.end(), scores.begin());
    });
  }

  TableScore measure_pair(const Routes& routes, size_t layer, const PairLink& link) const {
    std::vector<float> base(n_experts_);
    std::vector<float> scratch(n_experts_);
    log_odds(tables_.hot[layer], base);
    return measure(routes, layer, [&](int64_t t, std::span<float> use, std::span<float> scores) {
      const auto source = used(routes, static_cast<size_t>(link.source), t);
      pair_scores(link, base, source, scores, scratch);
      calibrated_use(link.calib_scale, link.calib_offset, rules_.top_k, scores, use, scratch);
    });
  }

  PairLink fit_pair(size_t layer, size_t distance) const {
    const std::vector<float> adds = pair_log_odds(layer, distance);
    PairLink best;
    double most = -1;
    for (const float weight : kWeights) {
      PairLink link;
      link.source = static_cast<int32_t>(layer - distance);
      link.distance = static_cast<int32_t>(distance);
      for (const float v : adds) link.adds.push_back(to_half(weight * v));
      const double recall = measure_pair(validation_, layer, link).recall;
      if (recall > most) {
        most = recall;
        best = std::move(link);
      }
    }
    calibrate(layer, &best);
    return best;
  }

  // [E, E]: of expert e' of the layer where e was used so many layers before, less those of its
  // rate.
  std::vector<float> pair_log_odds(size_t layer, size_t distance) const {
    std::vector<int64_t> both(n_experts_ * n_experts_, 0);
    std::vector<int64_t> uses(n_experts_, 0);
    for (int64_t t = 0; t < training_.n; ++t) {
      for (const ExpertId from : used(training_, layer - distance, t)) {
        const auto row = static_cast<size_t>(from.value);
        ++uses[row];
        for (const ExpertId to : used(training_, layer, t)) {
          ++both[row * n_experts_ + static_cast<size_t>(to.value)];
        }
      }
    }
    const std::vector<float>& hot = tables_.hot[layer];
    std::vector<float> base(n_experts_);
    log_odds(hot, base);
    std::vector<float> rates(n_experts_);
    std::vector<float> out(n_experts_ * n_experts_);
    for (size_t row = 0; row < n_experts_; ++row) {
      for (size_t e = 0; e < n_experts_; ++e) {
        const double n = static_cast<double>(both[row * n_experts_ + e]);
        rates[e] = static_cast<float>((n + kPairPrior * static_cast<double>(hot[e])) /
                                      (static_cast<double>(uses[row]) + kPairPrior));
      }
      const auto to = std::span(out).subspan(row * n_experts_, n_experts_);
      log_odds(rates, to);
      for (size_t e = 0; e < n_experts_; ++e) to[e] -= base[e];
    }
    return out;
  }

  // What a margin is worth, on the prompts that chose the weight.
  void calibrate(size_t layer, PairLink* link) const {
    const auto n = static_cast<size_t>(validation_.n) * n_experts_;
    std::vector<float> margins;
    std::vector<uint8_t> was_used(n, 0);
    margins.reserve(n);
    std::vector<float> base(n_experts_);
    std::vector<float> scores(n_experts_);
    std::vector<float> scratch(n_experts_);
    log_odds(tables_.hot[layer], base);
    for (int64_t t = 0; t < validation_.n; ++t) {
      const auto source = used(validation_, static_cast<size_t>(link->source), t);
      pair_scores(*link, base, source, scores, scratch);
      const float middle = selection_middle(scores, rules_.top_k, scratch);
      for (const float score : scores) margins.push_back(score - middle);
      for (const ExpertId id : used(validation_, layer, t)) {
        was_used[static_cast<size_t>(t) * n_experts_ + static_cast<size_t>(id.value)] = 1;
      }
    }
    const PlattCurve curve = fit_platt(margins, was_used);
    link->calib_scale = static_cast<float>(curve.scale);
    link->calib_offset = static_cast<float>(curve.offset);
  }

  RoutingRules rules_;
  size_t n_layers_;
  size_t n_experts_;
  size_t top_k_;
  int32_t n_distances_;
  const TapSplit& data_;
  Routes training_, validation_, test_;
  ExpertTables tables_;
  std::vector<LayerResult> results_;
};

}  // namespace

std::optional<FittedTables> fit_tables(const Model& model, const TapSplit& data,
                                       int32_t n_distances, TableTasks tasks) {
  const int64_t n = model.config().n_layers;
  Fit fit(model, data, n_distances);
  const auto read = [&](int64_t layer) {
    fit.read(static_cast<size_t>(layer));
    return true;
  };
  const auto count = [&](int64_t layer) {
    fit.fit_layer(static_cast<size_t>(layer));
    return true;
  };
  if (!tasks(n, read) || !tasks(n, count)) return std::nullopt;
  return fit.take();
}

int64_t table_task_bytes(const TapShape& shape, int64_t validation_tokens) {
  const int64_t e = shape.n_experts;
  const int64_t token_uses = TokenTable::kMostTokens * (4 * e + 8);
  const int64_t pair_uses = (8 + 4) * e * e;
  const int64_t margins = validation_tokens * e * int64_t{sizeof(float) + sizeof(uint8_t)};
  return std::max(token_uses, pair_uses + margins);
}

}  // namespace tandem
