#include "runtime/engine/engine_scheduling.h"

#include <fmt/format.h>

#include <utility>

#include "cache/eviction_policy.h"
#include "runtime/error.h"
#include "runtime/words.h"
#include "scheduler/make_scheduling.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

const char* name_of(PoolShape pool) {
  if (pool == PoolShape::kAdapted) return "adapted";
  return pool == PoolShape::kShared ? "shared" : "per-layer";
}
std::string name_of(const Admission& admission) {
  std::string name = admission.rule == AdmissionRule::kAlways ? "always" : "if-better";
  if (admission.hysteresis > 0) name += fmt::format(" by {:g} %", admission.hysteresis * 100);
  if (admission.most_per_layer < Admission::kNoLimit) {
    name += fmt::format(", at most {} a layer", admission.most_per_layer);
  }
  return name;
}
const char* yes_or_no(bool flag) { return flag ? "yes" : "no"; }

// Lines of "requested and effective"; without expert slots nothing is in effect.
class Lines {
 public:
  Lines(bool cached, std::vector<EffectiveSetting>* lines) : cached_(cached), lines_(lines) {}

  void add(const char* name, const std::string& requested, const std::string& effective,
           std::string reason) {
    if (!cached_) {
      lines_->push_back({name, requested, "none", "there are no expert slots"});
    } else {
      lines_->push_back({name, requested, effective, std::move(reason)});
    }
  }

 private:
  bool cached_;
  std::vector<EffectiveSetting>* lines_;
};

constexpr const char* kAllHaveSlots = "every expert has a slot";

const char* name_of(Contents contents) {
  switch (contents) {
    case Contents::kFirst:
      return "first";
    case Contents::kLayers:
      return "layers";
    case Contents::kEmpty:
      return "empty";
    case Contents::kEverything:
      return "everything";
    default:
      return "learned";
  }
}

std::string instead_of(bool overridden, const std::string& own) {
  return overridden ? "given, instead of the policy's " + own : "";
}

std::string why_predictor(const SchedulingSettings& wanted, const std::string& used,
                          const Abilities& can) {
  if (can.holds_all) return kAllHaveSlots;
  if (used == wanted.predictor) return "";
  return wanted.prefetcher == "none" ? "the prefetcher none asks for no guesses"
                                     : "every expert seemed to have a slot";
}

// What guesses: a fitted lookahead takes the place of gates that are reused.
void add_predictor(const EngineSettings& settings, const SchedulingSettings& wanted,
                   const SchedulingSettings& used, const Abilities& can, Lines* lines) {
  if (lookahead_distance(used) == 0) {
    lines->add("predictor", wanted.predictor, used.predictor,
               why_predictor(wanted, used.predictor, can));
    return;
  }
  if (settings.router) {
    lines->add("predictor", wanted.predictor, "decoupled",
               "the router has chosen the experts of all layers");
    return;
  }
  const bool tables = needs_tables(used.predictor);
  std::string reason;
  if (settings.pregate) {
    reason = settings.pregate_from;
    const int32_t reach = settings.pregate->n_distances;
    if (reach < used.prefetch.ahead && (!tables || used.predictor == "pair-table")) {
      reason += fmt::format("; it reaches {} layers, the policy {}", reach, used.prefetch.ahead);
    }
  }
  if (used.predictor == "ladder") {
    reason += reason.empty() ? "" : "; ";
    reason += "where it guesses badly, the previous token or nobody";
  }
  const std::string gates = settings.pregate ? "pregate" : "gate-reuse";
  lines->add("predictor", wanted.predictor, tables ? used.predictor : gates, reason);
}

// Where it is there and nobody looks at it.
void add_unused_pregate(const EngineSettings& settings, const SchedulingSettings& used,
                        const Abilities& can, std::vector<EffectiveSetting>* lines) {
  if (!settings.pregate) return;
  if (can.cached && lookahead_distance(used) > 0) return;
  lines->push_back({"pregate", settings.pregate_from, "not used",
                    !can.cached     ? "there are no expert slots"
                    : can.holds_all ? kAllHaveSlots
                                    : "it takes the place of gates that are reused, and none are"});
}

// The cache starts empty, so a rule that fetches nothing needs a prefetcher to fill it.
std::string why_planner(const SchedulingSettings& wanted) {
  const bool fetches = wanted.planner != "ktransformers" && wanted.planner != "cpu";
  if (fetches || wanted.prefetcher != "none") return "";
  return "nothing fills the cache: every expert runs on the CPU";
}

}  // namespace

SchedulingSettings requested_scheduling(const EngineSettings& settings) {
  SchedulingSettings wanted = settings.scheduling;
  if (settings.cache_policy && *settings.cache_policy != wanted.policy) {
    wanted.policy = *settings.cache_policy;
    wanted.policy_values.clear();  // they belong to the policy that is replaced
  }
  if (find_eviction_policy(wanted.policy) == nullptr) {
    throw ConfigError(fmt::format("cache policy is \"{}\"; expected one of {}", wanted.policy,
                                  list_text(causal_policy_names())));
  }
  if (settings.router ? needs_whole_future(wanted) : needs_future(wanted)) {
    throw ConfigError(
        fmt::format("policy \"{}\" knows the future (eviction {}, prefetcher {}); only tandem "
                    "simulate can use it{}",
                    wanted.name, wanted.policy, wanted.prefetcher,
                    needs_whole_future(wanted) ? "" : ", and runs of refactored models"));
  }
  if (settings.cache_inserts) wanted.prefetch.fills = *settings.cache_inserts;
  return wanted;
}

SchedulingSettings effective_scheduling(const EngineSettings& settings, const Abilities& can,
                                        std::vector<EffectiveSetting>* all) {
  const SchedulingSettings& own = settings.scheduling;
  const SchedulingSettings wanted = requested_scheduling(settings);
  SchedulingSettings used = wanted;
  used.may_split = wanted.may_split && can.divisible;
  if (!can.streams) used.admission = {AdmissionRule::kAlways, 0, wanted.admission.most_per_layer};
  if (can.holds_all) used.prefetcher = "none";
  const bool in_vain = lookahead_distance(used) > 0 && !can.guesses;
  if (used.prefetcher == "none" || in_vain) used.predictor = "none";
  used.calibrate = false;
  used.contents = can.holds_all ? Contents::kEverything : Contents::kEmpty;
  if (settings.router) used.prefetch.ahead = settings.router->shape.n_layers - 1;
  if (!can.cached) {  // nobody to keep and nowhere to copy to: nothing is learnt or weighed either
    used.policy = "static";
    used.policy_values.clear();
    used.prefetcher = "none";
  }

  Lines lines(can.cached, all);
  lines.add("policy", own.name, own.name, own.description);
  lines.add("cache policy", wanted.policy, used.policy,
            instead_of(settings.cache_policy.has_value(), own.policy));
  lines.add("pool", name_of(wanted.pool), name_of(used.pool), "");
  lines.add("contents", name_of(wanted.contents), name_of(used.contents),
            can.holds_all                      ? kAllHaveSlots
            : used.contents == wanted.contents ? ""
                                               : "an engine starts cold; see run --hot-set");
  lines.add("planner", wanted.planner, used.planner, why_planner(wanted));
  lines.add(
      "split", yes_or_no(wanted.may_split), yes_or_no(used.may_split),
      used.may_split == wanted.may_split ? "" : "an expert is as narrow as a block of weights");
  lines.add("admission", name_of(wanted.admission), name_of(used.admission),
            can.streams ? "" : "what is fetched stays: there is no buffer to pass through");
  lines.add("calibrate", yes_or_no(wanted.calibrate), yes_or_no(used.calibrate),
            wanted.calibrate ? "there is no clock but the machine profile's own" : "");
  add_predictor(settings, wanted, used, can, &lines);
  add_unused_pregate(settings, used, can, all);
  lines.add("prefetcher", wanted.prefetcher, used.prefetcher, can.holds_all ? kAllHaveSlots : "");
  const std::string fills = std::to_string(wanted.prefetch.fills);
  const bool filling = used.prefetcher == "impact";
  lines.add("cache inserts", fills, filling ? fills : "none",
            filling
                ? instead_of(settings.cache_inserts.has_value(), std::to_string(own.prefetch.fills))
                : fmt::format("the prefetcher {} does not bring what was missed", used.prefetcher));
  return used;
}

PlannerSettings planner_settings(const SchedulingSettings& effective, const Abilities& can) {
  return {placement_rule(effective.planner), can.cached, effective.may_split, can.streams,
          effective.admission};
}

}  // namespace tandem
