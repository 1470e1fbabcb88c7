#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// A small synthetic trace on a small model, so that a run takes no time.
Outcome simulate(std::vector<std::string> more) {
  const std::vector<std::string> small{"simulate", "--model-shape", "olmoe-1b-7b", "--trace",
                                       "synthetic:sequences=3,prompt=8,decode=24"};
  more.insert(more.begin(), small.begin(), small.end());
  return tandem(more);
}

std::string complaint(const std::vector<std::string>& more) {
  const Outcome run = simulate(more);
  CHECK(run.exit_code == 2);
  CHECK(run.out.empty());
  CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
  return run.err;
}

}  // namespace

TEST_CASE("simulate prints a row for each combination") {
  const Outcome run = simulate({"--machine", "rtx3060-ddr4,laptop-8gb", "--cache", "25%,50%",
                                "--policy", "tandem,ktransformers", "-o", "jsonl"});
  REQUIRE(run.exit_code == 0);
  std::map<std::string, int> rows;
  size_t begin = 0;
  for (size_t end; (end = run.out.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const auto row = nlohmann::json::parse(run.out.substr(begin, end - begin));
    ++rows[row["machine"].get<std::string>() + " " + row["cache"].get<std::string>() + " " +
           row["scheduling"].get<std::string>()];
    CHECK(row["modelled"] == true);
  }
  CHECK(rows.size() == 8);
  for (const auto& [name, count] : rows) CHECK(count == 1);
}

TEST_CASE("a row of simulate has the promised fields, and speeds between nothing and the bound") {
  const Outcome run = simulate({"--prefill", "32", "--json"});
  REQUIRE(run.exit_code == 0);
  const nlohmann::json rows = run.json();
  REQUIRE(rows.size() == 1);
  const nlohmann::json& row = rows[0];
  for (const char* key : {"machine",
                          "model",
                          "trace",
                          "cache",
                          "planner",
                          "policy",
                          "predictor",
                          "prefill_tps",
                          "decode_tps",
                          "hit_rate",
                          "hit_rate_cold",
                          "bound_decode_tps",
                          "bound_prefill_tps",
                          "clairvoyant_prefill_tps",
                          "clairvoyant_gap",
                          "cpu_busy",
                          "cpu_stall",
                          "gpu_busy",
                          "gpu_stall",
                          "link_busy",
                          "link_stall",
                          "dram_busy",
                          "bytes_demand",
                          "bytes_prefetched"}) {
    INFO(key);
    CHECK(row.contains(key));
    CHECK_FALSE(row[key].is_null());
  }
  CHECK(row["model"] == "olmoe-1b-7b");
  CHECK(row["decode_tps"] > 0);
  CHECK(row["decode_tps"] <= row["clairvoyant_decode_tps"]);
  CHECK(row["clairvoyant_decode_tps"] <= row["bound_decode_tps"]);
  CHECK(row["clairvoyant_gap"].get<double>() ==
        Approx(1 - row["decode_tps"].get<double>() / row["clairvoyant_decode_tps"].get<double>()));
  CHECK(row["clairvoyant_gap"] >= 0);
  CHECK(row["clairvoyant_prefill_tps"] <= row["bound_prefill_tps"]);
  CHECK(row["hit_rate"] > 0);
  CHECK(row["hit_rate"] <= 1);
}

TEST_CASE(
    "simulate with the same seed prints the same to the last digit, with another it does not") {
  const Outcome a = simulate({"--json", "-s", "5"});
  const Outcome b = simulate({"--json", "-s", "5"});
  const Outcome c = simulate({"--json", "-s", "6"});
  CHECK(a.exit_code == 0);
  CHECK(a.out == b.out);
  CHECK(a.out != c.out);
}

TEST_CASE("a planner given apart stands in for the policy's own") {
  const Outcome run = simulate({"--planner", "cpu,exact", "--json"});
  REQUIRE(run.exit_code == 0);
  const nlohmann::json rows = run.json();
  REQUIRE(rows.size() == 2);
  CHECK(rows[0]["planner"] == "cpu");
  CHECK(rows[1]["planner"] == "exact");
  CHECK(rows[0]["decode_tps"] < rows[1]["decode_tps"]);
}

TEST_CASE("simulate's table says that its speeds are modelled") {
  const Outcome run = simulate({});
  CHECK(run.exit_code == 0);
  CHECK(contains(run.out, "| machine"));
  CHECK(contains(run.out, "All speeds are modelled"));
}

TEST_CASE("without bounds simulate has no gap to one") {
  const Outcome run = simulate({"--no-bounds", "--json"});
  REQUIRE(run.exit_code == 0);
  const nlohmann::json row = run.json()[0];
  for (const char* key : {"clairvoyant_decode_tps", "clairvoyant_gap", "bound_decode_tps"}) {
    CHECK(row[key].is_null());
  }
  CHECK(row["decode_tps"] > 0);
}

TEST_CASE("simulate's CSV has as many fields in each line") {
  const Outcome run = simulate({"-o", "csv", "--policy", "tandem,lru"});
  REQUIRE(run.exit_code == 0);
  const std::string head = run.out.substr(0, run.out.find('\n'));
  CHECK(std::count(head.begin(), head.end(), ',') > 20);
  CHECK(std::count(run.out.begin(), run.out.end(), '\n') == 3);
}

TEST_CASE("simulate writes a timeline in the Trace Event Format") {
  const TempDir dir;
  const std::string path = dir / "timeline.json";
  REQUIRE(simulate({"--timeline", path}).exit_code == 0);
  const auto file = nlohmann::json::parse(read_file(path));
  CHECK(file["otherData"]["times"] == "modelled");
  int spans = 0;
  for (const nlohmann::json& event : file["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++spans;
    CHECK(event["dur"] > 0);
    CHECK(event["ts"] >= 0);
  }
  CHECK(spans > 100);
}

TEST_CASE("simulate compares llama.cpp's placement by layers: half of the layers hit") {
  const TempDir dir;
  const Outcome run = simulate({"--policy", "llama-ncmoe,ktransformers", "--cache", "50%", "--json",
                                "--report", dir / "report.html"});
  REQUIRE(run.exit_code == 0);
  const nlohmann::json rows = run.json();
  CHECK(rows[0]["planner"] == "llama-ncmoe");
  CHECK(rows[0]["hit_rate"] == 0.5);
  CHECK(rows[0]["bytes_demand"] == 0);
  CHECK(rows[1]["hit_rate"] != 0.5);
}

TEST_CASE("simulate starts with the hot set that an earlier run saved") {
  const TempDir dir;
  const std::string path = dir / "hot.toml";
  const std::vector<std::string> fixed{"--policy", "ktransformers", "--no-bounds", "--json"};
  const auto hits = [&](std::vector<std::string> more) {
    more.insert(more.begin(), fixed.begin(), fixed.end());
    const Outcome run = simulate(more);
    REQUIRE(run.exit_code == 0);
    return run.json()[0]["hit_rate"].get<double>();
  };
  const double learned = hits({});
  CHECK(hits({"--save-hot-set", path}) == learned);
  REQUIRE(contains(read_file(path), "model = \"olmoe-1b-7b\"\n"));
  // A static placement that knows the end of the trace is another one, and the same each time.
  const double saved = hits({"--hot-set", path});
  CHECK(saved != learned);
  CHECK(hits({"--hot-set", path}) == saved);
  // Contents of its own are not replaced.
  const Outcome layers = simulate(
      {"--policy", "llama-ncmoe", "--cache", "50%", "--no-bounds", "--json", "--hot-set", path});
  CHECK(layers.json()[0]["hit_rate"] == 0.5);
}

TEST_CASE("a hot set that simulate cannot use or save is one line") {
  const TempDir dir;
  const std::string path = dir / "hot.toml";
  REQUIRE(simulate({"--save-hot-set", path}).exit_code == 0);
  const Outcome other = tandem({"simulate", "--model-shape", "mixtral-8x7b", "--hot-set", path,
                                "--trace", "synthetic:decode=8"});
  CHECK(other.exit_code == 2);
  CHECK(contains(other.err, path));
  CHECK(contains(other.err, "expected 32 with 8"));
  CHECK(line_count(other.err) == 1);
  const std::string cut = dir / "cut.toml";
  write_file(cut, read_file(path).substr(0, 2000));
  CHECK(contains(complaint({"--hot-set", cut}), "cut.toml"));
  CHECK(contains(complaint({"--save-hot-set", path, "--policy", "clairvoyant"}), "belady"));
  const Outcome missing = simulate({"--hot-set", dir / "none.toml"});
  CHECK(missing.exit_code == 1);
  CHECK(line_count(missing.err) == 1);
  const Outcome nowhere = simulate({"--save-hot-set", dir / "none/hot.toml"});
  CHECK(nowhere.exit_code == 1);
  CHECK(contains(nowhere.err, "there is no folder"));
}

TEST_CASE("what simulate cannot read is one line that names it") {
  CHECK(contains(complaint({"--machine", "abacus"}), "\"abacus\""));
  CHECK(contains(complaint({"--policy", "clever"}), "\"clever\""));
  CHECK(contains(complaint({"--cache", "120%"}), "\"120%\""));
  CHECK(contains(complaint({"--cache", "x"}), "--cache is \"x\""));
  CHECK(contains(complaint({"--prefill", "5000"}), "96 tokens"));
  CHECK(contains(complaint({"--planner", "clever"}), "clever"));
  CHECK(contains(complaint({"--recall", "2"}), "--recall"));
  CHECK(contains(complaint({"--trace", "synthetic:skw=1"}), "skw"));
  const Outcome missing = simulate({"--trace", "no-such-file.csv"});
  CHECK(missing.exit_code == 1);
  CHECK(contains(missing.err, "no-such-file.csv"));
}

TEST_CASE("a row of simulate says which lookahead its predictor reads, and how good it was") {
  const Outcome run = simulate({"--predictor", "gate-reuse,ladder,none,previous-token", "--recall",
                                "0.6", "--recall-drop", "0.1", "--json"});
  REQUIRE(run.exit_code == 0);
  const nlohmann::json rows = run.json();
  for (const size_t i : {size_t{0}, size_t{1}}) {
    CHECK(rows[i]["lookahead"] == "oracle 0.6");
    CHECK(rows[i]["lookahead_recall_1"].get<double>() == Approx(0.6).margin(0.02));
    CHECK(rows[i]["lookahead_recall_2"].get<double>() == Approx(0.5).margin(0.02));
    CHECK(rows[i]["lookahead_recall_3"].get<double>() == Approx(0.4).margin(0.02));
  }
  for (const size_t i : {size_t{2}, size_t{3}}) {
    CHECK(rows[i]["lookahead"].is_null());
    CHECK(rows[i]["lookahead_recall_1"].is_null());
  }
  // Nothing is sent early without a link's idle time.
  CHECK(simulate({"--policy", "ktransformers", "--json"}).json()[0]["lookahead"].is_null());
  CHECK(contains(simulate({}).out, "| oracle 0.85 |"));
}

TEST_CASE("a row with recorded predictions names their lookahead in every form of the results") {
  const TempDir dir;
  const std::string recorded = "synthetic:sequences=3,prompt=8,decode=24,ahead=2,predict=0.7";
  const std::string page = dir / "report.html";
  const Outcome run =
      simulate({"--trace", recorded, "--recorded", "--json", "--report", page, "--no-bounds"});
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  const nlohmann::json row = run.json()[1];
  CHECK(row["lookahead"] == "synthetic (recorded)");
  CHECK(row["lookahead_recall_1"].get<double>() > 0.6);
  CHECK(row["lookahead_recall_2"].get<double>() < row["lookahead_recall_1"].get<double>());
  CHECK(row["lookahead_recall_3"].is_null());
  const std::string html = read_file(page);
  CHECK(contains(html, "<p class=\"note\">Lookahead: synthetic (recorded). "));
  CHECK(contains(html, "<td>synthetic (recorded)</td>"));
  CHECK(contains(simulate({"--recorded", "-o", "csv"}).out, "\"synthetic (recorded)\""));
  CHECK(contains(simulate({"--recorded"}).out, "| synthetic (recorded) |"));
}

TEST_CASE("recorded predictions exclude an oracle's recall, and have to be there") {
  CHECK(contains(complaint({"--recorded", "--recall", "0.5"}), "--recall excludes --recorded"));
  CHECK(contains(complaint({"--recorded", "--recall-drop", "0"}), "--recall-drop"));
  CHECK(contains(complaint({"--recorded", "--trace", "synthetic:decode=8,ahead=0"}),
                 "--recorded: the trace synthetic:decode=8,ahead=0 holds no predictions"));
}

TEST_CASE("simulate refuses to take the predictor from a prefetcher that cannot do without") {
  CHECK(contains(complaint({"--policy", "hybrimoe", "--predictor", "none"}),
                 "the prefetcher hybrimoe of policy hybrimoe needs one"));
}

}  // namespace tandem::test
