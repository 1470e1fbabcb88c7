#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bench/scheduling/studies.h"
#include "scheduler/replay.h"

namespace tandem::bench {
namespace {

double per_cent(const CacheStats& stats) { return 100 * SimResult::hit_rate_of(stats); }

// Decode steps alone; see decode_steps() for what is measured.
std::vector<SimStep> decoding(const Trace& trace) {
  const std::vector<SimStep> all = decode_steps(trace);
  std::vector<SimStep> decode;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!trace.steps[i].prefill) decode.push_back(all[i]);
  }
  return decode;
}

// Each token is a step, of prompts as well. Measured as with decode_steps(): all sequences after
// the first third, or the second half of a single one.
std::vector<SimStep> every_token(const Trace& trace) {
  const int32_t n_sequences = trace.steps.back().sequence + 1;
  const int32_t warm = std::max(1, n_sequences / 3);
  std::vector<SimStep> steps;
  for (const TraceStep& step : trace.steps) {
    for (int64_t t = step.first_token; t < step.first_token + step.n_tokens; ++t) {
      const bool late = n_sequences > 1 ? step.sequence >= warm : 2 * t >= trace.n_tokens();
      steps.push_back({{static_cast<int32_t>(t)}, 0, late});
    }
  }
  return steps;
}

// As if so many users were served at a time: their tokens take turns, and where a sequence ends the
// next one begins. Measured is all after the first third.
std::vector<SimStep> taking_turns(const Trace& trace, const std::vector<SimStep>& steps,
                                  int64_t users) {
  std::vector<int32_t> sequence_of(static_cast<size_t>(trace.n_tokens()));
  for (const TraceStep& step : trace.steps) {
    std::fill_n(sequence_of.begin() + step.first_token, step.n_tokens, step.sequence);
  }
  std::map<int32_t, std::deque<SimStep>> waiting;
  for (const SimStep& step : steps) {
    waiting[sequence_of[static_cast<size_t>(step.rows.front())]].push_back(step);
  }
  std::vector<SimStep> turns;
  std::vector<std::deque<SimStep>> served;
  while (!waiting.empty() || !served.empty()) {
    while (!waiting.empty() && std::cmp_less(served.size(), users)) {
      served.push_back(std::move(waiting.begin()->second));
      waiting.erase(waiting.begin());
    }
    for (auto& sequence : served) {
      turns.push_back(sequence.front());
      sequence.pop_front();
      turns.back().measured = 3 * turns.size() > steps.size();
    }
    std::erase_if(served, [](const auto& sequence) { return sequence.empty(); });
  }
  return turns;
}

ReplayInput make_replay(const Workload& load, double share) {
  ReplayInput input;
  input.trace = &load.trace;
  input.expert_bytes = load.shape.expert_bytes;
  input.capacity_bytes =
      static_cast<int64_t>(share * static_cast<double>(all_expert_bytes(load.shape)));
  return input;
}

struct Kind {
  std::string name;
  std::string policy;
  Admission admission{};
  bool learnt = false;           // on the steps that are not measured, which are not replayed then
  std::vector<double> values{};  // of the policy's parameters; empty: standard
};

std::vector<double> with_window(const PolicyInfo& policy, int64_t window) {
  std::vector<double> values;
  for (const PolicyParameter& parameter : policy.parameters) values.push_back(parameter.standard);
  values[0] = static_cast<double>(window);
  return values;
}

// Belady first. The last two may refuse, which is outside Belady's theorem.
std::vector<Kind> kinds(const std::vector<int64_t>& windows) {
  std::vector<Kind> all{{"belady", "belady"}};
  for (const PolicyInfo& policy : eviction_policies()) {
    if (policy.name == "belady" || policy.name == "static") continue;
    if (policy.name == "windowed-belady") {
      for (const int64_t window : windows) {
        all.push_back({fmt::format("windowed-belady, {} tokens", window),
                       std::string(policy.name),
                       {},
                       false,
                       with_window(policy, window)});
      }
      continue;
    }
    all.push_back({std::string(policy.name), std::string(policy.name)});
  }
  all.push_back({"static, learned before", "static", Admission{AdmissionRule::kIfBetter}, true});
  all.push_back({"belady, may refuse", "belady", Admission{AdmissionRule::kIfBetter}, false});
  return all;
}

// The theorem asks that every set fits into the slots that its layer may use.
bool sets_fit(const Workload& load, PoolShape pool, double share) {
  const double slots =
      share * load.shape.n_experts * (pool == PoolShape::kPerLayer ? 1 : load.shape.n_layers);
  return static_cast<int32_t>(slots) >= load.trace.header.top_k;
}

uint64_t all_misses(const ReplayResult& result) { return result.warm.misses + result.cold.misses; }

class Study {
 public:
  Study(const StudyOptions& options, const HitsOptions& hits) : options_(options), hits_(hits) {
    if (options.csv == nullptr) return;
    fmt::print(options.csv,
               "workload,pool,share,policy,warm_hits,warm_misses,cold_hits,cold_misses\n");
  }

  void run(const Workload& load) {
    fmt::print("\n{}: hits in per cent, cache of {} % of the experts; warm, then cold\n\n",
               load.name, percents());
    fmt::print("| policy | per layer | shared | per layer, cold | shared, cold |\n");
    fmt::print("|---|---|---|---|---|\n");
    steps_ = hits_.prompts ? every_token(load.trace) : decoding(load.trace);
    if (hits_.users > 1) steps_ = taking_turns(load.trace, steps_, hits_.users);
    for (const Kind& kind : kinds(hits_.windows)) {
      const Rates layer = replay_shares(load, kind, PoolShape::kPerLayer);
      const Rates shared = replay_shares(load, kind, PoolShape::kShared);
      fmt::print("| {} | {} | {} | {} | {} |\n", kind.name, layer.warm, shared.warm, layer.cold,
                 shared.cold);
    }
  }

  // Throws when Belady was beaten.
  void conclude() const {
    fmt::print(
        "\nBelady beside forced admission: {} cells, not beaten in {}; {} cells left out "
        "whose layers have fewer slots than a token's experts. In the measured steps alone "
        "beaten in {}.\n",
        compared_, compared_ - beaten_, left_out_, beaten_warm_);
    if (beaten_ > 0) throw std::runtime_error(fmt::format("Belady is beaten in {} cells", beaten_));
  }

 private:
  struct Rates {
    std::string warm;
    std::string cold;
  };

  std::string percents() const {
    std::string text;
    for (const double share : options_.grid.shares) {
      text += fmt::format("{}{:.0f}", text.empty() ? "" : "/", 100 * share);
    }
    return text;
  }

  Rates replay_shares(const Workload& load, const Kind& kind, PoolShape pool) {
    Rates rates;
    for (const double share : options_.grid.shares) {
      ReplayInput input = make_replay(load, share);
      input.pool = pool;
      input.policy = kind.policy;
      input.policy_values = kind.values;
      input.admission = kind.admission;
      if (kind.learnt) input.learn = learning_steps(steps_);
      input.steps = kind.learnt ? measured_steps(steps_) : steps_;
      const ReplayResult result = replay(input);
      compare(load, kind, input, share, result);
      const char* slash = rates.warm.empty() ? "" : "/";
      rates.warm += fmt::format("{}{:.1f}", slash, per_cent(result.warm));
      if (!kind.learnt) rates.cold += fmt::format("{}{:.1f}", slash, per_cent(result.cold));
      if (options_.csv == nullptr) continue;
      fmt::print(options_.csv, "{},{},{},\"{}\",{},{},{},{}\n", load.name,
                 pool == PoolShape::kPerLayer ? "per-layer" : "shared", share, kind.name,
                 result.warm.hits, result.warm.misses, result.cold.hits, result.cold.misses);
    }
    return rates;
  }

  void compare(const Workload& load, const Kind& kind, const ReplayInput& input, double share,
               const ReplayResult& result) {
    ReplayResult& bound = bounds_[{load.name, input.pool == PoolShape::kPerLayer, share}];
    if (kind.name == "belady") bound = result;
    if (kind.name == "belady" || kind.admission.rule != AdmissionRule::kAlways) return;
    if (!sets_fit(load, input.pool, share)) {
      ++left_out_;
      return;
    }
    ++compared_;
    beaten_ += all_misses(result) < all_misses(bound) ? 1 : 0;
    beaten_warm_ += result.warm.misses < bound.warm.misses ? 1 : 0;
  }

  const StudyOptions& options_;
  const HitsOptions& hits_;
  std::vector<SimStep> steps_;
  std::map<std::tuple<std::string, bool, double>, ReplayResult> bounds_;  // Belady's
  int64_t compared_ = 0;
  int64_t left_out_ = 0;
  int64_t beaten_ = 0;
  int64_t beaten_warm_ = 0;
};

}  // namespace

void hits_study(const StudyOptions& options, const HitsOptions& hits) {
  const std::vector<Workload> loads = load_workloads(options.grid);
  print_known_answers(loads);
  Study study(options, hits);
  for (const Workload& load : loads) study.run(load);
  study.conclude();
}

}  // namespace tandem::bench
