// What a prompt leaves for decoding: hit rates of the first tokens after it.
#include <fmt/format.h>

#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "bench/scheduling/studies.h"
#include "bench/scheduling/systems.h"

namespace tandem::bench {
namespace {

constexpr size_t kFirst = 8;  // decoded tokens that count

// Of each sequence `prompt` tokens are read in one step, if at all, and the others decoded. The
// first kFirst of these are measured, in all sequences but the first.
std::vector<SimStep> prompt_and_decode(const Trace& trace, size_t prompt, bool read) {
  std::map<int32_t, std::vector<int32_t>> sequences;
  for (const TraceStep& step : trace.steps) {
    std::vector<int32_t>& rows = sequences[step.sequence];
    for (int32_t t = 0; t < step.n_tokens; ++t) {
      rows.push_back(static_cast<int32_t>(step.first_token) + t);
    }
  }
  std::vector<SimStep> steps;
  for (const auto& [sequence, rows] : sequences) {
    if (rows.size() <= prompt + kFirst) continue;
    const auto split = rows.begin() + static_cast<std::ptrdiff_t>(prompt);
    if (read) steps.push_back({{rows.begin(), split}, 0, false});
    for (size_t t = prompt; t < rows.size(); ++t) {
      const bool first = sequence > sequences.begin()->first && t < prompt + kFirst;
      steps.push_back({{rows[t]}, static_cast<int64_t>(t), first});
    }
  }
  return steps;
}

struct Variant {
  std::string name;
  SchedulingSettings settings;
  bool reads = true;
};

std::vector<Variant> variants(const std::string& ours) {
  std::vector<Variant> all;
  const SchedulingSettings own = from_policy("", ours).settings;
  all.push_back({"ours", own, true});
  const auto add = [&](const char* name, const char* policy, AdmissionRule rule, bool reads) {
    SchedulingSettings settings = own;
    settings.prefetcher = "none";
    settings.admission = {rule};
    if (policy != settings.policy) {
      settings.policy = policy;
      settings.policy_values.clear();
    }
    all.push_back({name, settings, reads});
  };
  add("ours, no prefetch", own.policy.c_str(), AdmissionRule::kIfBetter, true);
  add("rates of use, no prefetch", "ewma", AdmissionRule::kIfBetter, true);
  add("all admitted, LRU, no prefetch", "lru", AdmissionRule::kAlways, true);
  add("ours, no prefetch, prompt not seen", own.policy.c_str(), AdmissionRule::kIfBetter, false);
  return all;
}

}  // namespace

void handover_study(const StudyOptions& options) {
  constexpr size_t kPrompt = 128;
  const auto machines = load_machines(options.grid);
  fmt::print("\nHit rate of the first {} tokens decoded after a prompt of {}, per cent\n\n", kFirst,
             kPrompt);
  fmt::print("| workload | contents |");
  for (const double share : options.grid.shares) fmt::print(" {:.0f} % |", share * 100);
  fmt::print("\n|---|---|");
  for (size_t i = 0; i < options.grid.shares.size(); ++i) fmt::print("---|");
  if (options.csv != nullptr) fmt::print(options.csv, "workload,contents,cache,hit_rate,tokens\n");
  for (const Workload& load : load_workloads(options.grid)) {
    for (const Variant& variant : variants(options.ours)) {
      fmt::print("\n| {} | {} |", load.name, variant.name);
      for (const double share : options.grid.shares) {
        SimInput input = make_input(options.grid, load, machines.front(), share);
        input.steps = prompt_and_decode(load.trace, kPrompt, variant.reads);
        const SimResult result = simulate(input, variant.settings);
        fmt::print(" {:.1f} |", result.hit_rate() * 100);
        if (options.csv == nullptr) continue;
        fmt::print(options.csv, "{},{},{},{:.5f},{}\n", load.name, variant.name, share,
                   result.hit_rate(), result.tokens);
      }
    }
  }
  fmt::print("\n");
}

}  // namespace tandem::bench
