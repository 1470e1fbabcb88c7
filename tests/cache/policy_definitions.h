// What the policies promise, worked out from the whole history of uses each time it is asked: no
// state, no recursion, no code in common with cache/.
#pragma once

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "tests/cache/cache_testing.h"

namespace tandem::test {

// The first decides, the second among equals; the least leaves first.
using Worth = std::pair<long double, long double>;

// No test has more in a layer.
constexpr int kMostExperts = 8;

class Definition {
 public:
  // values: all parameters, in the policy's order. `events` and `costs` outlive it.
  Definition(Choice choice, int n_layers, const std::vector<Routing>& events)
      : choice_(std::move(choice)), n_layers_(n_layers), events_(events) {}

  // After event `now`.
  Worth worth(ExpertKey key, size_t now) const {
    const std::vector<double>& v = choice_.values;
    if (choice_.policy == "lru")
      return {static_cast<long double>(last_use(key, now)), -place(key, now)};
    if (choice_.policy == "lfu") {
      const auto last = static_cast<long double>(last_use(key, now));
      return {count(key, now, v[0]), last - place(key, now) / 1e3};
    }
    if (choice_.policy == "lfru") {
      return {count(key, now, v[0]) / (missed_visits(key, now) + 1), 0};
    }
    if (choice_.policy == "layer-lru") {
      return {-missed_visits(key, now), -ahead(key, now) - place(key, now) / 1e3};
    }
    if (choice_.policy == "mrs") return {mrs(key, now, v[0], v[1]), 0};
    if (choice_.policy == "ewma") return {rate(key, now, v[0], v[1], v[2], near(v, 3)), 0};
    if (choice_.policy == "cost-aware") {
      const long double cost = v[4] > 0 ? choice_.layer_cost[index(key)] : 1.0;
      return {rate(key, now, v[0], v[1], v[2], near(v, 3)) * cost, 0};
    }
    if (choice_.policy == "learned") return {twin(key, now), 0};
    if (choice_.policy == "belady") return {-next_use(key, now), 0};
    // windowed-belady: known uses by distance above all others, the others by rate.
    const long double next = next_use(key, now);
    if (next <= std::floor(v[0]) * n_layers_) return {1, -next};
    return {0, rate(key, now, v[1], v[2], v[3], near(v, 4))};
  }

 private:
  static size_t index(ExpertKey key) { return static_cast<size_t>(key.layer.value); }

  // Calls visit(event, token, age in tokens of the layer, the newest being 0), newest first.
  template <typename Visit>
  void for_tokens(ExpertKey key, size_t now, Visit visit) const {
    int age = 0;
    for (size_t t = now + 1; t-- > 0;) {
      if (events_[t].layer != key.layer.value) continue;
      for (int token = events_[t].n_tokens; token-- > 0;) visit(events_[t], token, age++);
    }
  }
  // Where this token ranks the expert; n_ranks if it does not.
  static int rank(const Routing& event, int token, ExpertId expert) {
    int r = 0;
    while (r < event.n_ranks && event.ranked[at(event, token, r)] != expert) ++r;
    return r;
  }
  static size_t at(const Routing& event, int token, int rank) {
    return static_cast<size_t>(token) * static_cast<size_t>(event.n_ranks) +
           static_cast<size_t>(rank);
  }
  // Where the expert stands among those that the event uses; -1 if it is not among them.
  static int place_in(const Routing& event, ExpertKey key) {
    if (event.layer != key.layer.value) return -1;
    const auto found = std::find(event.used.begin(), event.used.end(), key.expert);
    return found == event.used.end() ? -1 : static_cast<int>(found - event.used.begin());
  }

  // A policy of its own, told the same history: for who moves; values have tests of their own.
  long double twin(ExpertKey key, size_t now) const {
    if (twin_ == nullptr) twin_ = make_policy(choice_, n_layers_, kMostExperts);
    for (; told_ <= now; ++told_) twin_->on_use(events_[told_].use());
    return twin_->value(key);
  }

  // The event that used it last, from 1; 0: none.
  size_t last_use(ExpertKey key, size_t now) const {
    size_t t = now + 1;
    while (t > 0 && place_in(events_[t - 1], key) < 0) --t;
    return t;
  }
  int place(ExpertKey key, size_t now) const {
    const size_t last = last_use(key, now);
    return last == 0 ? 0 : place_in(events_[last - 1], key);
  }
  long double missed_visits(ExpertKey key, size_t now) const {
    int missed = 0;
    for (size_t t = last_use(key, now); t <= now; ++t) {
      missed += events_[t].layer == key.layer.value ? 1 : 0;
    }
    return missed;
  }
  // Visits until the layer's turn comes, layers coming round in order: 1 to n_layers.
  int ahead(ExpertKey key, size_t now) const {
    int distance = 1;
    while ((events_[now].layer + distance) % n_layers_ != key.layer.value) ++distance;
    return distance;
  }
  long double count(ExpertKey key, size_t now, long double half_life) const {
    long double sum = 0;
    for_tokens(key, now, [&](const Routing& event, int token, int age) {
      if (rank(event, token, key.expert) >= event.top_k) return;
      sum += half_life > 0 ? std::exp2(-age / half_life) : 1.0L;
    });
    return sum;
  }
  long double mrs(ExpertKey key, size_t now, long double alpha, double kept) const {
    long double sum = 0;
    for_tokens(key, now, [&](const Routing& event, int token, int age) {
      const int r = rank(event, token, key.expert);
      if (r >= event.n_ranks || r >= static_cast<int>(kept * event.top_k)) return;
      sum += alpha * std::pow(1 - alpha, age) * event.scores[at(event, token, r)];
    });
    return sum;
  }
  static long double near(const std::vector<double>& values, size_t at) {
    return values.size() > at ? values[at] : 0;
  }
  // Ranks behind the selection, as many as are selected, count as `near` uses; together a token's
  // uses are top_k.
  long double rate(ExpertKey key, size_t now, long double fast, long double slow, long double mix,
                   long double near) const {
    long double sum = 0;
    for_tokens(key, now, [&](const Routing& event, int token, int age) {
      const int r = rank(event, token, key.expert);
      const int ranks = std::min(event.n_ranks, 2 * event.top_k);
      if (r >= ranks) return;
      const long double uses = event.top_k + near * (ranks - event.top_k);
      const long double use = (r < event.top_k ? 1 : near) * event.top_k / uses;
      sum +=
          use * (mix * fast * std::pow(1 - fast, age) + (1 - mix) * slow * std::pow(1 - slow, age));
    });
    return sum;
  }
  long double next_use(ExpertKey key, size_t now) const {
    for (size_t t = now + 1; t < events_.size(); ++t) {
      if (place_in(events_[t], key) >= 0) return static_cast<long double>(t - now);
    }
    return std::numeric_limits<long double>::infinity();
  }

  Choice choice_;
  int n_layers_;
  const std::vector<Routing>& events_;
  mutable std::unique_ptr<EvictionPolicy> twin_;
  mutable size_t told_ = 0;
};

// Every policy with its standard parameters written out; layers of different cost.
inline std::vector<Choice> standard_choices(int n_layers) {
  std::vector<Choice> choices;
  for (const PolicyInfo& info : eviction_policies()) {
    Choice choice{std::string(info.name), {}, {}};
    for (const PolicyParameter& p : info.parameters) choice.values.push_back(p.standard);
    if (choice.policy == "cost-aware") {
      for (int l = 0; l < n_layers; ++l) choice.layer_cost.push_back(1 + 0.37 * l);
    }
    choices.push_back(choice);
  }
  return choices;
}

}  // namespace tandem::test
