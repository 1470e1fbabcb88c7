// Reading a scheduling policy: what each key becomes, and what is refused.
#include "runtime/config/scheduling_policy.h"

#include <map>
#include <sstream>
#include <string>

#include "runtime/config/embedded.h"
#include "runtime/error.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// A complete policy with some keys set to other values; an empty value leaves the key out.
std::string text(const std::map<std::string, std::string>& changes = {}) {
  std::map<std::string, std::string> keys = {{"policy", "\"mrs\""},
                                             {"pool", "\"per-layer\""},
                                             {"admission.rule", "\"always\""},
                                             {"planner", "\"hybrimoe\""},
                                             {"split", "false"},
                                             {"mrs.alpha", "0.25"},
                                             {"mrs.kept", "3"},
                                             {"predictor", "\"gate-reuse\""},
                                             {"prefetcher", "\"impact\""}};
  for (const auto& [key, value] : changes) keys[key] = value;
  std::string out;
  for (const auto& [key, value] : keys) {
    if (!value.empty()) out.append(key).append(" = ").append(value).append("\n");
  }
  return out;
}

SchedulingSettings parse(const std::string& toml) {
  return parse_scheduling_policy(toml, "test", "here.toml");
}

bool refused(const std::string& key, const std::string& value) {
  try {
    parse(text({{key, value}}));
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(message.rfind("here.toml: " + key + " ", 0) == 0);
    CHECK(message.find('\n') == std::string::npos);
    return true;
  }
  return false;
}

}  // namespace

TEST_CASE("every built-in scheduling policy can be read") {
  REQUIRE(embedded_policies().size() >= 15);
  for (const EmbeddedFile& file : embedded_policies()) {
    const SchedulingSettings settings = load_scheduling_policy(std::string(file.name));
    INFO(settings.name);
    CHECK(settings.name == file.name);
    CHECK_FALSE(settings.description.empty());
  }
  CHECK(load_scheduling_policy(std::string(kDefaultPolicy)).planner == "exact");
}

TEST_CASE("the standard policy without a limit of waste differs in nothing else") {
  const auto rest_of = [](std::string_view name) {
    std::string rest;
    for (const EmbeddedFile& file : embedded_policies()) {
      if (file.name != name) continue;
      std::istringstream lines{std::string(file.text)};
      for (std::string line; std::getline(lines, line);) {
        if (line.rfind("description", 0) != 0 && line.rfind("most_waste", 0) != 0)
          rest += line + '\n';
      }
    }
    return rest;
  };
  REQUIRE_FALSE(rest_of(kDefaultPolicy).empty());
  CHECK(rest_of("tandem-unlimited") == rest_of(kDefaultPolicy));
  CHECK(load_scheduling_policy("tandem-unlimited").prefetch.most_waste == 1);
  CHECK(load_scheduling_policy(std::string(kDefaultPolicy)).prefetch.most_waste < 0.2);
}

TEST_CASE("each key of a scheduling policy becomes its setting") {
  const SchedulingSettings settings = parse(text({{"prefetch.ahead", "2"},
                                                  {"prefetch.horizon", "5.5"},
                                                  {"prefetch.fills", "0"},
                                                  {"prefetch.per_layer", "1"},
                                                  {"prefetch.least_guess", "0.4"},
                                                  {"prefetch.most_waste", "0.3"}}));
  CHECK(settings.policy == "mrs");
  CHECK(settings.policy_values == std::vector<double>{0.25, 3});
  CHECK(settings.pool == PoolShape::kPerLayer);
  CHECK(settings.planner == "hybrimoe");
  CHECK_FALSE(settings.may_split);
  CHECK(settings.calibrate);
  CHECK_FALSE(parse(text({{"calibrate", "false"}})).calibrate);
  CHECK(settings.prefetch.ahead == 2);
  CHECK(settings.prefetch.horizon == 5.5);
  CHECK(settings.prefetch.fills == 0);
  CHECK(settings.prefetch.per_layer == 1);
  CHECK(settings.prefetch.least_guess == 0.4);
  CHECK(settings.prefetch.most_waste == 0.3);
}

TEST_CASE("each pool has a name, and its name is that pool") {
  for (const PoolShape pool : {PoolShape::kShared, PoolShape::kPerLayer, PoolShape::kAdapted}) {
    CHECK(parse(text({{"pool", '"' + std::string(pool_name(pool)) + '"'}})).pool == pool);
  }
  CHECK(pool_name(PoolShape::kShared) == "shared");
  CHECK(pool_name(PoolShape::kPerLayer) == "per-layer");
  CHECK(pool_name(PoolShape::kAdapted) == "adapted");
}

TEST_CASE("contents at the start are learned unless the policy says otherwise") {
  CHECK(parse(text()).contents == Contents::kHot);
  CHECK(parse(text({{"contents", "\"learned\""}})).contents == Contents::kHot);
  CHECK(parse(text({{"contents", "\"first\""}})).contents == Contents::kFirst);
  CHECK(parse(text({{"contents", "\"empty\""}})).contents == Contents::kEmpty);
  CHECK(parse(text({{"contents", "\"layers\""}, {"pool", "\"shared\""}})).contents ==
        Contents::kLayers);
  CHECK(refused("contents", "\"layers\""));  // the pool is per layer
  CHECK(refused("contents", "\"all\""));
  CHECK(refused("contents", "1"));
  CHECK(load_scheduling_policy("llama-ncmoe").contents == Contents::kLayers);
  CHECK(load_scheduling_policy("hybrimoe-published").contents == Contents::kHot);
}

TEST_CASE("admission is a rule with limits, and without them it has none") {
  const Admission plain = parse(text()).admission;
  CHECK(plain.rule == AdmissionRule::kAlways);
  CHECK(plain.hysteresis == 0);
  CHECK(plain.most_per_layer == Admission::kNoLimit);
  const Admission limited = parse(text({{"admission.rule", "\"if-better\""},
                                        {"admission.hysteresis", "0.25"},
                                        {"admission.most_per_layer", "2"}}))
                                .admission;
  CHECK(limited.rule == AdmissionRule::kIfBetter);
  CHECK(limited.hysteresis == 0.25);
  CHECK(limited.most_per_layer == 2);
}

TEST_CASE("parameters that are left out have their standard values") {
  const SchedulingSettings settings = parse(text({{"mrs.alpha", ""}, {"mrs.kept", ""}}));
  CHECK(settings.policy_values == std::vector<double>{0.5, 2});
  CHECK(settings.prefetch.ahead == PrefetchSettings{}.ahead);
}

TEST_CASE("a scheduling policy with a wrong value names file and key") {
  CHECK(refused("policy", "\"clever\""));
  CHECK(refused("policy", "3"));
  CHECK(refused("pool", "\"puddle\""));
  CHECK(refused("admission.rule", "\"sometimes\""));
  CHECK(refused("admission.hysteresis", "-0.1"));
  CHECK(refused("admission.hysteresis", "0.1"));  // the rule is "always"
  CHECK(refused("admission.most_per_layer", "-1"));
  CHECK(refused("admission.most_per_layer", "1.5"));
  CHECK(refused("planner", "\"clever\""));
  CHECK(refused("predictor", "\"crystal ball\""));
  CHECK(refused("prefetcher", "\"all\""));
  CHECK(refused("mrs.alpha", "1.5"));
  CHECK(refused("mrs.kept", "-1"));
  CHECK(refused("prefetch.ahead", "0"));
  CHECK(refused("prefetch.per_layer", "0"));
  CHECK(refused("prefetch.horizon", "-1"));
  CHECK(refused("split", "1"));
  CHECK(refused("calibrate", "1"));
  for (const char* key :
       {"policy", "pool", "admission.rule", "planner", "predictor", "prefetcher"}) {
    CHECK(refused(key, ""));
  }
}

TEST_CASE("a key of another policy, or of none, is an error") {
  CHECK(refused("ewma.fast", "0.1"));
  CHECK(refused("mrs.beta", "0.1"));
  CHECK(refused("speed", "11"));
}

TEST_CASE("HybriMoE's prefetcher needs a predictor") {
  try {
    parse(text({{"prefetcher", "\"hybrimoe\""}, {"predictor", "\"none\""}}));
    FAIL("no error");
  } catch (const ConfigError& error) {
    CHECK_THAT(error.what(), contains("here.toml: predictor is \"none\""));
  }
}

}  // namespace tandem::test
