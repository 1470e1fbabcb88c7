#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

Outcome bench(std::vector<std::string> more) {
  more.insert(more.begin(), {"bench", "-p", "8", "-n", "4", "-r", "2"});
  return tandem(more);
}

// llama-bench's names, of those that mean something here.
const std::vector<std::string> kLlamaBench{
    "build_commit", "build_number", "cpu_info",       "gpu_info", "backends", "model_filename",
    "model_type",   "model_size",   "model_n_params", "n_batch",  "n_ubatch", "n_threads",
    "type_k",       "type_v",       "n_prompt",       "n_gen",    "n_depth",  "test_time",
    "avg_ns",       "stddev_ns",    "avg_ts",         "stddev_ts"};
const std::vector<std::string> kOurs{
    "device",     "machine",      "modelled_ts", "vram_bytes",  "expert_slots",  "cache_policy",
    "cache_hits", "cache_misses", "experts_cpu", "experts_gpu", "experts_split", "bytes_h2d"};

}  // namespace

TEST_CASE("bench -o json has llama-bench's fields and ours") {
  const Outcome run = bench({"-o", "json", "--device", "sim", "--vram", "8"});
  REQUIRE(run.exit_code == 0);
  const nlohmann::json rows = run.json();
  REQUIRE(rows.size() == 2);
  for (const nlohmann::json& row : rows) {
    for (const std::string& key : kLlamaBench) CHECK(row.contains(key));
    for (const std::string& key : kOurs) CHECK(row.contains(key));
    CHECK(row["samples_ns"].size() == 2);
    CHECK(row["samples_ts"].size() == 2);
    CHECK(row["samples_ns"][0].is_number_integer());
    CHECK(row["avg_ns"].get<double>() > 0);
    CHECK(row["modelled_ts"].get<double>() > 0);
    CHECK(row["device"] == "sim");
    CHECK(row["settings"]["vram"]["requested"] == "8.00 MiB");
  }
  CHECK(rows[0]["n_prompt"] == 8);
  CHECK(rows[0]["n_gen"] == 0);
  CHECK(rows[1]["n_prompt"] == 0);
  CHECK(rows[1]["n_gen"] == 4);
}

TEST_CASE("bench's averages are those of its samples") {
  const nlohmann::json row = bench({"--json"}).json()[0];
  const double a = row["samples_ns"][0].get<double>();
  const double b = row["samples_ns"][1].get<double>();
  CHECK(row["avg_ns"].get<double>() == Approx((a + b) / 2).margin(2));
  CHECK(row["samples_ts"][0].get<double>() == Approx(8e9 / a).epsilon(1e-4));
}

TEST_CASE("bench counts experts of the measured repetitions only") {
  const nlohmann::json rows = bench({"--json"}).json();
  CHECK(rows[1]["experts_cpu"] == 2 * 4 * 6 * 4);  // repetitions, tokens, layers, top-k
  CHECK(rows[1]["experts_gpu"] == 0);
}

TEST_CASE("bench -o jsonl prints one object a line, as json has them") {
  const Outcome run = bench({"-o", "jsonl"});
  REQUIRE(line_count(run.out) == 2);
  const auto first = nlohmann::json::parse(run.out.substr(0, run.out.find('\n')));
  CHECK(first["n_prompt"] == 8);
  CHECK(first.contains("samples_ns"));
}

TEST_CASE("bench -o csv begins with llama-bench's names and quotes every cell") {
  const Outcome run = bench({"-o", "csv"});
  REQUIRE(line_count(run.out) == 3);
  std::string names;
  for (const auto& list : {kLlamaBench, kOurs}) {
    for (const std::string& name : list) names += (names.empty() ? "" : ",") + name;
  }
  CHECK(run.out.substr(0, run.out.find('\n')) == names);
  CHECK(run.out[run.out.find('\n') + 1] == '"');
}

TEST_CASE("bench prints llama-bench's table and says that modelled is not measured") {
  const Outcome run = bench({});
  CHECK(run.exit_code == 0);
  CHECK(run.out.rfind("| model | size | params | backend | threads | test | t/s |", 0) == 0);
  CHECK(contains(run.out, "| pp8 |"));
  CHECK(contains(run.out, "| tg4 |"));
  CHECK(contains(run.out, " ± "));
  CHECK(contains(run.out, "Modelled: computed for machine profile rtx3060-ddr4, not measured."));
}

TEST_CASE("bench runs one test for each size of a list") {
  const Outcome run =
      tandem({"bench", "-p", "2,4", "-p", "8", "-n", "0", "-r", "1", "--no-warmup", "-o", "json"});
  REQUIRE(run.exit_code == 0);
  std::multiset<int> sizes;
  for (const auto& row : run.json()) sizes.insert(row["n_prompt"].get<int>());
  CHECK(sizes == std::multiset<int>{2, 4, 8});
}

TEST_CASE("bench measures behind tokens that are there already, and prompts with generation") {
  const Outcome run = tandem({"bench", "-p", "4", "-n", "2", "-pg", "4,3", "-pg", "8,1", "-d",
                              "0,16", "-r", "1", "-o", "jsonl"});
  REQUIRE(run.exit_code == 0);
  std::vector<std::string> sizes;
  std::istringstream lines(run.out);
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    sizes.push_back(row["n_prompt"].dump() + "+" + row["n_gen"].dump() + "@" +
                    row["n_depth"].dump());
    CHECK((row["n_prompt"] > 0 || row["experts_cpu"] == 2 * 6 * 4));  // tokens, layers, top-k
  }
  CHECK(sizes == std::vector<std::string>{"4+0@0", "0+2@0", "4+3@0", "8+1@0", "4+0@16", "0+2@16",
                                          "4+3@16", "8+1@16"});
  const Outcome table =
      tandem({"bench", "-p", "0", "-n", "2", "-pg", "4,3", "-d", "16", "-r", "1"});
  CHECK(contains(table.out, "| tg2 @ d16 |"));
  CHECK(contains(table.out, "| pp4+tg3 @ d16 |"));
  const Outcome small = tandem({"bench", "-p", "0", "-n", "2", "-d", "16", "-c", "17"});
  CHECK(small.exit_code == 2);
  CHECK(contains(small.err, "tg2 @ d16 needs a context of 18, -c is 17"));
  const Outcome odd = tandem({"bench", "-pg", "4"});
  CHECK(odd.exit_code == 2);
  CHECK(contains(odd.err, "--pg"));
}

TEST_CASE("bench refuses tests that cannot run before it runs any") {
  const Outcome none = tandem({"bench", "-p", "0", "-n", "0"});
  CHECK(none.exit_code == 2);
  CHECK(contains(none.err, "nothing to measure"));
  const Outcome small = tandem({"bench", "-p", "4,64", "-n", "0", "-c", "16"});
  CHECK(small.exit_code == 2);
  CHECK(small.out.empty());
  CHECK(contains(small.err, "pp64 needs a context of 64, -c is 16"));
}

}  // namespace tandem::test
