// Hot sets as files: what is written is read back, and whatever else is read is refused in one
// line.
#include "runtime/config/hot_set.h"

#include <fmt/format.h>

#include <map>
#include <random>
#include <string>

#include "runtime/error.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

HotSet small() {
  HotSet hot;
  hot.model = "small \"model\" \\ \n";
  hot.router_hash = "00ff";
  hot.n_layers = 3;
  hot.n_experts = 12;
  hot.layers = {{{ExpertId{7}, 0.1}, {ExpertId{0}, 0.1}, {ExpertId{11}, 1.0 / 3e7}},
                {},
                {{ExpertId{2}, 1e18}, {ExpertId{10}, 5}, {ExpertId{3}, -2.5}}};
  return hot;
}

bool same(const HotSet& a, const HotSet& b) {
  if (a.model != b.model || a.router_hash != b.router_hash || a.n_layers != b.n_layers ||
      a.n_experts != b.n_experts || a.layers.size() != b.layers.size()) {
    return false;
  }
  for (size_t l = 0; l < a.layers.size(); ++l) {
    if (a.layers[l].size() != b.layers[l].size()) return false;
    for (size_t i = 0; i < a.layers[l].size(); ++i) {
      const HotExpert& x = a.layers[l][i];
      const HotExpert& y = b.layers[l][i];
      if (x.expert != y.expert || x.value != y.value) return false;
    }
  }
  return true;
}

// The message, or nothing where the text is read; anything but a ConfigError fails the test.
std::string refusal(const std::string& text) {
  try {
    parse_hot_set(text, "hot.toml");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

// A file of one layer with some keys set to other values; an empty value leaves the key out.
std::string with(const std::map<std::string, std::string>& changes) {
  std::map<std::string, std::string> keys = {{"format", "1"},
                                             {"model", "\"m\""},
                                             {"layers", "1"},
                                             {"experts", "8"},
                                             {"layer.0.experts", "[3, 5]"},
                                             {"layer.0.values", "[2, 1.5]"}};
  for (const auto& [key, value] : changes) keys[key] = value;
  std::string out;
  for (const auto& [key, value] : keys) {
    if (!value.empty()) out.append(key).append(" = ").append(value).append("\n");
  }
  return out;
}

// Refused in one line that begins with file and key.
void check_refused(const std::string& key, const std::string& value,
                   const std::string& named = "") {
  const std::string message = refusal(with({{key, value}}));
  CAPTURE(key, value, message);
  CHECK(message.rfind(fmt::format("hot.toml: {} ", named.empty() ? key : named), 0) == 0);
  CHECK(message.find('\n') == std::string::npos);
}

}  // namespace

TEST_CASE("a hot set that was written is read back to the last bit") {
  CHECK(same(parse_hot_set(hot_set_text(small()), "hot.toml"), small()));
  HotSet nameless = small();
  nameless.router_hash.clear();
  CHECK(same(parse_hot_set(hot_set_text(nameless), "hot.toml"), nameless));
}

TEST_CASE("a hot set is the text that its description says") {
  HotSet hot = small();
  hot.model = "tiny model";
  CHECK(hot_set_text(hot) ==
        "format = 1\nmodel = \"tiny model\"\nrouter_hash = \"00ff\"\nlayers = 3\nexperts = 12\n"
        "\n[layer.0]\nexperts = [7, 0, 11]\nvalues = [0.1, 0.1, 3.3333333333333334e-08]\n"
        "\n[layer.1]\nexperts = []\nvalues = []\n"
        "\n[layer.2]\nexperts = [2, 10, 3]\nvalues = [1e+18, 5, -2.5]\n");
}

TEST_CASE("what a hot set may not say is refused by file and key") {
  REQUIRE(refusal(with({})).empty());
  for (const char* key :
       {"format", "model", "layers", "experts", "layer.0.experts", "layer.0.values"}) {
    check_refused(key, "");
  }
  check_refused("format", "2");
  check_refused("model", "3");
  check_refused("model", fmt::format("\"{:x<257}\"", ""));
  check_refused("router_hash", "7");
  check_refused("layers", "0");
  check_refused("layers", "4097");
  check_refused("layers", "9223372036854775807");
  check_refused("layers", "2", "layer.1.experts");
  check_refused("experts", "-1");
  check_refused("experts", "100000");
  check_refused("experts", "5", "layer.0.experts[1]");
  check_refused("layer.0.experts", "3");
  check_refused("layer.0.experts", "[3, 8]", "layer.0.experts[1]");
  check_refused("layer.0.experts", "[-1, 5]", "layer.0.experts[0]");
  check_refused("layer.0.experts", "[3, 5.5]", "layer.0.experts[1]");
  check_refused("layer.0.experts", "[3, 3]");
  check_refused("layer.0.experts", "[3]", "layer.0.values");
  check_refused("layer.0.values", "[1, 2]", "layer.0.values[1]");
  check_refused("layer.0.values", "[2, nan]", "layer.0.values[1]");
  check_refused("layer.0.values", "[inf, 1]", "layer.0.values[0]");
  check_refused("layer.0.values", "[2]");
  check_refused("layer.1.experts", "[1]");
  check_refused("layer.0.names", "[\"a\"]");
  check_refused("speed", "11");
}

TEST_CASE("a hot set cut short is refused wherever it is cut") {
  const std::string whole = hot_set_text(small());
  for (size_t n = 0; n < whole.size(); ++n) {
    const std::string message = refusal(whole.substr(0, n));
    CAPTURE(n, message);
    // Without the line's end behind the last value nothing is missing.
    if (n + 1 < whole.size()) CHECK(message.rfind("hot.toml", 0) == 0);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("a hot set with damaged bytes is refused in one line, or is a hot set all the same") {
  const std::string whole = hot_set_text(small());
  std::mt19937 random(4);
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string damaged = whole;
    for (auto i = 1 + random() % 3; i > 0; --i) {
      damaged[random() % damaged.size()] = static_cast<char>(random() % 256);
    }
    CAPTURE(round, damaged);
    const std::string message = refusal(damaged);
    refused += message.empty() ? 0 : 1;
    CHECK(message.find('\n') == std::string::npos);
    if (!message.empty()) continue;
    const HotSet read = parse_hot_set(damaged, "hot.toml");
    REQUIRE(read.layers.size() == static_cast<size_t>(read.n_layers));
    for (const auto& layer : read.layers) {
      for (const HotExpert& one : layer) {
        REQUIRE(one.expert.value >= 0);
        REQUIRE(one.expert.value < read.n_experts);
      }
    }
  }
  CHECK(refused > 2000);
}

TEST_CASE("a hot set of another model is refused with what differs") {
  const auto refusal_for = [](const HotSetModel& model) -> std::string {
    try {
      check_hot_set(small(), model, "hot.toml");
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  const std::string name = small().model;
  CHECK(refusal_for({name, "00ff", 3, 12}).empty());
  CHECK(refusal_for({name, "", 3, 12}).empty());
  CHECK(refusal_for({"other", "00ff", 3, 12}).empty());  // the hash knows better
  CHECK_THAT(refusal_for({"other", "", 3, 12}), contains("expected \"other\""));
  CHECK_THAT(refusal_for({name, "beef", 3, 12}), contains("router_hash is \"00ff\""));
  CHECK_THAT(refusal_for({name, "00ff", 4, 12}), contains("expected 4 with 12"));
  CHECK_THAT(refusal_for({name, "00ff", 3, 8}), contains("expected 3 with 8"));
}

TEST_CASE("a hot set that is not there, or is a folder, is one line with its path") {
  for (const char* path : {"no/such/hot.toml", "/"}) {
    try {
      load_hot_set(path);
      FAIL("no error");
    } catch (const FileError& error) {
      CHECK(std::string(error.what()).rfind(path, 0) == 0);
    }
  }
}

}  // namespace tandem::test
