// tandem pregate and --pregate, as a user's shell sees them, on the built-in model.
#include <algorithm>
#include <filesystem>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

constexpr int kPrompts = 10;

// Openings of stories, one every few lines of a text that the model was not trained on.
std::string prompts() {
  const std::string text = read_file(source_file("demo/heldout.txt"));
  std::string all;
  size_t at = 0;
  for (int i = 0; i < kPrompts; ++i) {
    const size_t end = text.find('\n', at);
    all += (i > 0 ? "\n---\n" : "") + text.substr(at, std::min<size_t>(60, end - at));
    at = end + 1;
  }
  return all;
}

Outcome collect(const TempDir& dir, const Strings& more = {}, const std::string& tokens = "40") {
  write_file(dir / "prompts.txt", prompts());
  Strings args{"pregate", "collect",    "-f",    dir / "prompts.txt",
               "--out",   dir / "taps", "-n",    tokens,
               "-c",      "128",        "--json"};
  args.insert(args.end(), more.begin(), more.end());
  return tandem(args);
}

Outcome fit(const TempDir& dir, const Strings& more = {}) {
  Strings args{"pregate", "fit", "--data", dir / "taps", "--out", dir / "side.safetensors",
               "-t",      "4"};
  args.insert(args.end(), more.begin(), more.end());
  return tandem(args);
}

// Every file of a folder.
std::vector<std::pair<std::string, std::string>> contents(const std::string& folder) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files.emplace_back(entry.path().filename().string(), read_file(entry.path().string()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("a lookahead that is fitted to a few answers beats gate reuse at each distance") {
  const TempDir dir;
  const Outcome collected = collect(dir);
  INFO(collected.err);
  REQUIRE(collected.exit_code == 0);
  const nlohmann::json taps = collected.json();
  CHECK(taps["prompts"] == kPrompts);
  CHECK(taps["new_prompts"] == kPrompts);
  CHECK(taps["new_tokens"].get<int>() > kPrompts * 20);
  CHECK(taps["full"] == false);
  CHECK(contents(dir / "taps").size() == kPrompts + 1);

  const Outcome fitted = fit(dir, {"--json"});
  INFO(fitted.err);
  REQUIRE(fitted.exit_code == 0);
  const nlohmann::json report = fitted.json();
  CHECK(report["training_tokens"].get<int>() + report["validation_tokens"].get<int>() +
            report["test_tokens"].get<int>() ==
        taps["new_tokens"].get<int>());
  REQUIRE(report["recall"].size() == 5 + 4 + 3 + 2);
  double gain[5] = {};
  for (const auto& link : report["recall"]) {
    gain[link["distance"].get<int>()] +=
        link["fitted"].get<double>() - link["gate_reuse"].get<double>();
  }
  for (int distance = 1; distance <= 4; ++distance) CHECK(gain[distance] > 0);
  for (const auto& link : report["recall"]) {
    CHECK(link["pair_table"].get<double>() > link["hot_list"].get<double>());
    CHECK(link["pair_brier"].get<double>() < 0.11);  // of rates alone: 1/8 (1 - 1/8)
  }
  const nlohmann::json& table = report["token_table"];
  REQUIRE(table["layers"].size() == 6);
  CHECK(table["ids"].get<int>() > 10);
  CHECK(table["known"].get<double>() > 0.2);
  CHECK(table["layers"][0]["recall"].get<double>() > 0.3);
  CHECK(contains(fit(dir).err, "\n  0                  -"));  // before the first layer
  CHECK(report["bytes"] == fs::file_size(dir / "side.safetensors"));
}

namespace {

// The standard policy with another predictor.
std::string policy_with(const TempDir& dir, const std::string& predictor) {
  std::string policy = read_file(source_file("configs/policies/tandem.toml"));
  const std::string standard = "predictor = \"gate-reuse\"";
  REQUIRE(contains(policy, standard));
  policy.replace(policy.find(standard), standard.size(),
                 std::string("predictor = \"").append(predictor).append("\""));
  const std::string path = dir / "policy.toml";
  write_file(path, policy);
  return path;
}

nlohmann::json story(const Strings& more) {
  Strings args{"run",      "-p",  "Once upon a time",   "-n", "80", "-s", "3", "--json",
               "--device", "sim", "--moe-expert-cache", "48"};
  args.insert(args.end(), more.begin(), more.end());
  const Outcome run = tandem(args);
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  return run.json();
}

}  // namespace

TEST_CASE("a policy with tables guesses from them, writes the same text, and says how well") {
  const ReferenceArithmetic exact;
  const TempDir dir;
  REQUIRE(collect(dir).exit_code == 0);
  REQUIRE(fit(dir).exit_code == 0);
  const std::string side = dir / "side.safetensors";
  const nlohmann::json reused = story({"--pregate", "none"});
  for (const char* predictor : {"pair-table", "token-table", "draft-free"}) {
    INFO(predictor);
    const nlohmann::json run = story({"--pregate", side, "--policy", policy_with(dir, predictor)});
    CHECK(run["token_ids"] == reused["token_ids"]);
    CHECK(run["settings"]["predictor"]["effective"] == predictor);
    for (const nlohmann::json& guess : run["lookahead"]) {
      CHECK(guess["recall"].get<double>() > 0.2);
      CHECK(guess["brier"].get<double>() < 0.12);
    }
  }
}

TEST_CASE("a predictor from tables is refused without a side-car, and in simulations") {
  const TempDir dir;
  const std::string policy = policy_with(dir, "token-table");
  const auto refused = [](const Strings& args, const std::string& why) {
    const Outcome run = tandem(args);
    INFO(run.err);
    CHECK(run.exit_code == 2);
    CHECK(line_count(run.err) == 1);
    CHECK(contains(run.err, why));
  };
  const Strings run{"run",      "-p",  "x",        "-n",   "1",
                    "--device", "sim", "--policy", policy, "--pregate"};
  const auto with = [&](const std::string& pregate) {
    Strings args = run;
    args.push_back(pregate);
    return args;
  };
  refused(with("none"), "there is none");
  refused({"simulate", "--policy", policy}, "the predictor token-table needs a model's tables");
  refused({"simulate", "--predictor", "draft-free"},
          "the predictor draft-free needs a model's tables");
}

TEST_CASE("taps before attention are collected and scored on request, and not in the file") {
  const TempDir dir;
  const Outcome collected = collect(dir, {"--tap", "both"});
  INFO(collected.err);
  REQUIRE(collected.exit_code == 0);
  const auto taps = contents(dir / "taps");
  CHECK(contains(taps.front().second, "router-input, pre-attention"));  // collection.json
  const Outcome fitted = fit(dir, {"--json"});
  REQUIRE(fitted.exit_code == 0);
  const nlohmann::json report = fitted.json();
  std::vector<bool> seen(6);
  double fits = 0;
  double reuses = 0;
  for (const auto& link : report["recall"]) {
    if (link["distance"] != 0) continue;
    seen[link["layer"].get<size_t>()] = true;
    fits += link["fitted"].get<double>() / 6;
    reuses += link["gate_reuse"].get<double>() / 6;
  }
  CHECK(std::count(seen.begin(), seen.end(), true) == 6);  // the first layer, too
  CHECK(fits > reuses);
  const std::string file = read_file(dir / "side.safetensors");
  CHECK(contains(file, "pregate.1.d1.weight"));
  CHECK_FALSE(contains(file, ".d0."));
  const Outcome table = fit(dir);
  CHECK(contains(table.err, "\n  0       "));
  CHECK(contains(table.err, "Not in the file"));
  const Outcome other = collect(dir);
  CHECK(other.exit_code == 2);
  CHECK(contains(other.err, "was begun with another model, other prompts or other settings"));
  const Outcome neither = collect(dir, {"--tap", "pre-attention"});
  CHECK(neither.exit_code == 2);
  CHECK(line_count(neither.err) == 1);
}

TEST_CASE("collecting goes on where it was broken off, to the same files") {
  const TempDir dir;
  REQUIRE(collect(dir).exit_code == 0);
  const auto whole = contents(dir / "taps");
  fs::remove(dir / "taps/prompt-000002.taps");
  fs::remove(dir / "taps/prompt-000007.taps");
  const Outcome again = collect(dir);
  REQUIRE(again.exit_code == 0);
  CHECK(again.json()["new_prompts"] == 2);
  CHECK(contents(dir / "taps") == whole);
  const Outcome other = collect(dir, {"--seed", "5"});
  CHECK(other.exit_code == 2);
  CHECK(contains(other.err, "was begun with another model, other prompts or other settings"));
  CHECK(line_count(other.err) == 1);
}

TEST_CASE("collecting stops at its bound, and at Ctrl-C with what is whole") {
  const TempDir dir;
  const Outcome full = collect(dir, {"--max-size", "1"});
  REQUIRE(full.exit_code == 0);
  CHECK(full.json()["full"] == true);
  CHECK(full.json()["bytes"].get<int>() <= 1 << 20);
  CHECK(full.json()["prompts"].get<int>() >= 1);
  const TempDir second;
  write_file(second / "prompts.txt", prompts());
  Invocation how;
  how.errors_to_terminal = true;
  how.interrupt_at = "prompt 3 of";
  const Outcome stopped = tandem({"pregate", "collect", "-f", second / "prompts.txt", "--out",
                                  second / "taps", "-n", "400", "-c", "512"},
                                 how);
  CHECK(stopped.exit_code == 130);
  CHECK(contains(stopped.err, "interrupted, the same command goes on"));
  const size_t written = contents(second / "taps").size() - 1;
  CHECK(written >= 2);
  CHECK(written < kPrompts);
}

TEST_CASE("a fit says in one line what is missing") {
  const TempDir dir;
  const auto refused = [](const Outcome& run, const std::string& why, int exit_code = 2) {
    INFO(run.err);
    CHECK(run.exit_code == exit_code);
    CHECK(line_count(run.err) == 1);
    CHECK(contains(run.err, why));
  };
  refused(fit(dir), "collection.json", 1);
  refused(tandem({"pregate", "fit"}), "--data");
  refused(tandem({"pregate", "fit", "--dat"}), "--dat; see tandem pregate fit --help");
  refused(tandem({"pregate"}), "no command; expected one of collect");
  refused(tandem({"pregate", "fits"}), "\"fits\" is not a command; expected one of collect");
  refused(tandem({"pregate", "fit", "--data", "--distances"}), "--out is required");  // a folder
  REQUIRE(collect(dir, {"--max-size", "1"}, "100").exit_code == 0);
  refused(fit(dir), "expected at least 5");
  refused(fit(dir, {"--distances", "9"}), "--distances");
  refused(fit(dir, {"-m", family_model("olmoe-q8_0-clip")}), "collected with another model");
  CHECK_FALSE(fs::exists(dir / "side.safetensors"));
}

TEST_CASE("a policy with a ladder says who was believed, and writes the same text") {
  const ReferenceArithmetic exact;
  const TempDir dir;
  const nlohmann::json ladder = story({"--policy", policy_with(dir, "ladder")});
  CHECK(ladder["token_ids"] == story({})["token_ids"]);
  const nlohmann::json& predictor = ladder["settings"]["predictor"];
  CHECK(predictor["requested"] == "ladder");
  CHECK(predictor["effective"] == "pregate");
  CHECK(contains(predictor["reason"].get<std::string>(), "the previous token or nobody"));
  for (const nlohmann::json& guess : ladder["lookahead"]) {
    const nlohmann::json& believed = guess["believed"];
    REQUIRE(believed.size() == 3);
    CHECK(believed["lookahead"]["layers"] == guess["tokens"]);  // the fitted one is good
    CHECK(believed["lookahead"]["score"].get<double>() >
          believed["previous-token"]["score"].get<double>());
    CHECK(believed["none"]["layers"] == 0);
  }
  CHECK(story({})["lookahead"][0]["believed"].empty());
}

TEST_CASE(
    "a run uses the lookahead of its model, writes the same text, and says how well it guesses") {
  const ReferenceArithmetic exact;
  const nlohmann::json fitted = story({});
  CHECK(fitted["settings"]["predictor"]["effective"] == "pregate");
  const nlohmann::json reused = story({"--pregate", "none"});
  CHECK(reused["settings"]["predictor"]["effective"] == "gate-reuse");
  CHECK(fitted["token_ids"] == reused["token_ids"]);
  REQUIRE(fitted["lookahead"].size() == 3);
  for (size_t d = 0; d < 3; ++d) {
    const nlohmann::json& guess = fitted["lookahead"][d];
    CHECK(guess["distance"] == d + 1);
    CHECK(guess["tokens"] == 79 * (5 - static_cast<int>(d)));
    CHECK(guess["recall"].get<double>() > reused["lookahead"][d]["recall"].get<double>());
    CHECK(guess["recall_2k"].get<double>() > guess["recall"].get<double>());
    CHECK(guess["exact"].get<double>() < guess["recall"].get<double>());
    CHECK(guess["brier"].get<double>() < 0.1);
    CHECK(guess["layers"].size() == 5 - d);
    CHECK(reused["lookahead"][d]["brier"].is_null());
  }
  const nlohmann::json& sent = fitted["prefetch"];
  CHECK(sent["started"].get<int>() > 0);
  CHECK(sent["on_time"].get<int>() + sent["late"].get<int>() + sent["unused"].get<int>() <=
        sent["started"].get<int>());
  CHECK(sent["wasted_bytes"].get<int64_t>() <= sent["bytes"].get<int64_t>());
  CHECK(sent["bytes"].get<int64_t>() <= fitted["bytes_h2d"].get<int64_t>());
}

TEST_CASE("a lookahead beside its model is found, and another one is taken by name or refused") {
  const std::string model = source_file("demo/hearthside-q8_0.gguf");
  const std::string beside = source_file("demo/hearthside-q8_0.pregate.safetensors");
  const nlohmann::json found = story({"-m", model});
  CHECK(found["settings"]["predictor"]["reason"] == beside);
  CHECK(story({"--pregate", beside})["settings"]["predictor"]["reason"] == beside);
  const auto refused = [](const Strings& args, const std::string& why) {
    const Outcome run = tandem(args);
    INFO(run.err);
    CHECK(run.exit_code == 1);
    CHECK(run.out.empty());
    CHECK(line_count(run.err) == 1);
    CHECK(contains(run.err, why));
  };
  const Strings run{"run", "-p", "x", "-n", "1", "--device", "sim", "--pregate"};
  const auto with = [&](Strings more) {
    Strings args = run;
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  refused(with({"/nowhere"}), "/nowhere: cannot open it");
  refused(with({source_file("README.md")}), "README.md: the header");
  refused(with({beside, "-m", family_model("qwen3moe-f32")}), "it is for another model: layers");
}

}  // namespace tandem::test
