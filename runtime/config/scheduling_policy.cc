#include "runtime/config/scheduling_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "runtime/config/config_file.h"
#include "runtime/config/toml_reader.h"
#include "scheduler/placement.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

constexpr std::array<std::string_view, 5> kPrefetchers = {"none", "impact", "hybrimoe", "missed",
                                                          "clairvoyant"};
constexpr std::array<std::string_view, 2> kAdmissions = {"always", "if-better"};
constexpr std::array<std::string_view, 3> kPools = {"shared", "per-layer", "adapted"};  // PoolShape

struct NamedContents {
  std::string_view name;
  Contents contents;
};
constexpr std::array kContents = {
    NamedContents{"learned", Contents::kHot}, NamedContents{"layers", Contents::kLayers},
    NamedContents{"first", Contents::kFirst}, NamedContents{"empty", Contents::kEmpty}};

// The text of a key that must be one of these names.
std::string choice(TomlReader* toml, std::string_view key,
                   std::span<const std::string_view> names) {
  const auto value = toml->text(key);
  if (!value) toml->fail(key, "is missing");
  if (std::find(names.begin(), names.end(), *value) == names.end()) {
    toml->fail(key, fmt::format("is \"{}\"; expected one of {}", *value, fmt::join(names, ", ")));
  }
  return *value;
}

PoolShape pool(TomlReader* toml) {
  const std::string name = choice(toml, "pool", kPools);
  return static_cast<PoolShape>(std::find(kPools.begin(), kPools.end(), name) - kPools.begin());
}

Contents contents(TomlReader* toml, PoolShape pool) {
  constexpr std::string_view kKey = "contents";
  if (!toml->text(kKey)) return Contents::kHot;
  std::vector<std::string_view> names;
  names.reserve(kContents.size());
  for (const NamedContents& one : kContents) names.push_back(one.name);
  const std::string name = choice(toml, kKey, names);
  if (name == "layers" && pool != PoolShape::kShared) {
    toml->fail(kKey, "is \"layers\"; whole layers need pool = \"shared\"");
  }
  return std::find_if(kContents.begin(), kContents.end(),
                      [&](const NamedContents& one) { return one.name == name; })
      ->contents;
}

std::vector<double> parameters(TomlReader* toml, const PolicyInfo& policy) {
  std::vector<double> values;
  for (const PolicyParameter& parameter : policy.parameters) {
    const std::string key = fmt::format("{}.{}", policy.name, parameter.name);
    values.push_back(
        toml->number(key, parameter.least, parameter.most).value_or(parameter.standard));
  }
  return values;
}

Admission admission(TomlReader* toml) {
  Admission admission;
  admission.rule = choice(toml, "admission.rule", kAdmissions) == "always"
                       ? AdmissionRule::kAlways
                       : AdmissionRule::kIfBetter;
  admission.hysteresis = toml->number("admission.hysteresis", 0, 1e3).value_or(0);
  if (admission.hysteresis > 0 && admission.rule == AdmissionRule::kAlways) {
    toml->fail(
        "admission.hysteresis",
        fmt::format("is {}; expected 0 where admission.rule is \"always\"", admission.hysteresis));
  }
  admission.most_per_layer = static_cast<int32_t>(
      toml->integer("admission.most_per_layer", 0, 4096).value_or(Admission::kNoLimit));
  return admission;
}

PrefetchSettings prefetch(TomlReader* toml) {
  PrefetchSettings settings;
  const auto whole = [&](std::string_view key, int32_t* value, int64_t least, int64_t most) {
    *value = static_cast<int32_t>(toml->integer(key, least, most).value_or(*value));
  };
  const auto real = [&](std::string_view key, double* value, double most) {
    *value = toml->number(key, 0, most).value_or(*value);
  };
  whole("prefetch.ahead", &settings.ahead, 1, 8);
  whole("prefetch.fills", &settings.fills, 0, 4096);
  whole("prefetch.per_layer", &settings.per_layer, 1, 4096);
  real("prefetch.horizon", &settings.horizon, 1e6);
  real("prefetch.patience", &settings.patience, 1e6);
  real("prefetch.hysteresis", &settings.hysteresis, 1e3);
  real("prefetch.least_gain", &settings.least_gain, 1e3);
  real("prefetch.least_guess", &settings.least_guess, 1);
  real("prefetch.most_waste", &settings.most_waste, 1);
  real("prefetch.overrun", &settings.overrun, 100);
  return settings;
}

}  // namespace

std::string_view pool_name(PoolShape pool) { return kPools[static_cast<size_t>(pool)]; }

SchedulingSettings parse_scheduling_policy(std::string_view text, const std::string& name,
                                           const std::string& file) {
  TomlReader toml(text, file);
  SchedulingSettings settings;
  settings.name = name;
  settings.description = toml.text("description").value_or(name);
  settings.policy = choice(&toml, "policy", eviction_policy_names());
  settings.policy_values = parameters(&toml, *find_eviction_policy(settings.policy));
  settings.pool = pool(&toml);
  settings.contents = contents(&toml, settings.pool);
  settings.admission = admission(&toml);
  settings.planner = choice(&toml, "planner", placement_rule_names());
  settings.may_split = toml.flag("split").value_or(true);
  settings.calibrate = toml.flag("calibrate").value_or(true);
  settings.predictor = choice(&toml, "predictor", predictor_names());
  settings.prefetcher = choice(&toml, "prefetcher", kPrefetchers);
  settings.prefetch = prefetch(&toml);
  if (settings.prefetcher == "hybrimoe" && settings.predictor == "none") {
    toml.fail("predictor", "is \"none\"; the prefetcher \"hybrimoe\" needs one");
  }
  toml.done();
  return settings;
}

SchedulingSettings load_scheduling_policy(const std::string& name_or_path) {
  const ConfigFile config = find_config_file(
      name_or_path, {"scheduling policy", "configs/policies", embedded_policies()});
  return parse_scheduling_policy(config.text, config.name, config.file);
}

}  // namespace tandem
