#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

// Of emulated kernels; without an outcome where they cannot be emulated.
std::optional<Outcome> emulated(const Strings& more) {
  Strings arguments{"selftest", "--gpu", "--device", "sim-cuda"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  Outcome run = tandem(arguments);
  if (!contains(run.err, "on x86-64 only")) return run;
  WARN("skipped: kernels are emulated on x86-64 only");
  return {};
}

}  // namespace

TEST_CASE("selftest on emulated kernels passes, and its JSON report has every check") {
  const auto run = emulated({"--json"});
  if (!run) return;
  INFO(run->err);
  REQUIRE(run->exit_code == 0);
  CHECK(run->err.empty());
  const nlohmann::json report = run->json();
  CHECK(report["schema"] == 1);
  CHECK(contains(report["version"].get<std::string>(), "tandem "));
  CHECK(report["time"].get<std::string>().size() == 20);
  CHECK_FALSE(report["cpu"].get<std::string>().empty());
  CHECK(report["gpu"]["simulated"] == true);
  CHECK(report["summary"]["ok"] == true);
  CHECK(report["summary"]["failed"] == 0);
  CHECK(report["summary"]["checks"] ==
        report["device_checks"].size() + report["kernel_checks"].size());
  CHECK(report["device_checks"].size() > 10);
  CHECK(report["kernel_checks"].size() > 90);
  for (const auto& check : report["kernel_checks"]) {
    INFO(check.dump());
    CHECK(check["ok"] == true);
    CHECK(check["error"].get<double>() <= check["tolerance"].get<double>());
  }
  CHECK(report["probe"]["figures"].empty());
  CHECK(contains(report["probe"]["skipped"].get<std::string>(), "simulation"));
}

TEST_CASE("a selftest of a GPU that is not there writes a report that says so, and fails") {
  const TempDir dir;
  const std::string file = dir / "report.json";
  const auto run = tandem({"selftest", "--gpu", "--json", file});
  if (run.exit_code == 0) return;  // there is a GPU
  CHECK(contains(run.err, "--device cuda: "));
  CHECK(run.out.empty());
  const nlohmann::json report = nlohmann::json::parse(read_file(file));
  CHECK(report["summary"]["ok"] == false);
  CHECK(report["summary"]["checks"] == 0);
  CHECK(report["gpu"]["device"] == "cuda");
  CHECK(contains(report["gpu"]["problem"].get<std::string>(), "--device cuda: "));
  CHECK_FALSE(report["gpu"]["cuda_driver"].get<std::string>().empty());
}

TEST_CASE("a selftest report does not say whose machine it is") {
  const auto run = emulated({"--json"});
  if (!run) return;
  char host[256] = {};
  REQUIRE(gethostname(host, sizeof host - 1) == 0);
  CHECK_FALSE(contains(run->out, host));
  const char* home = std::getenv("HOME");
  if (home != nullptr && std::string(home).size() > 1) CHECK_FALSE(contains(run->out, home));
  CHECK_FALSE(contains(run->out, TANDEM_SOURCE_DIR));
}

TEST_CASE("selftest writes its report to a file, and a table for people") {
  const TempDir dir;
  const std::string file = dir / "report.json";
  const auto run = emulated({"--json", file});
  if (!run) return;
  INFO(run->err);
  REQUIRE(run->exit_code == 0);
  CHECK(nlohmann::json::parse(read_file(file))["summary"]["ok"] == true);
  CHECK(contains(run->out, "product        q4_K"));
  CHECK(contains(run->out, "probe: skipped"));
  CHECK(contains(run->out, " checks, 0 failed"));
}

TEST_CASE("selftest refuses a place that it cannot write to before it begins") {
  const auto run = emulated({"--json", "/nowhere/report.json"});
  if (!run) return;
  CHECK(run->exit_code == 1);
  CHECK(run->out.empty());
  CHECK(contains(run->err, "/nowhere"));
}

TEST_CASE("selftest without a GPU is one clear line") {
  const Outcome run = tandem({"selftest", "--gpu"});
  if (run.exit_code != 2) {
    WARN("skipped: there is a GPU");
    return;
  }
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "--device cuda: "));
  CHECK(contains(run.err, "expected an NVIDIA GPU, or --device sim-cuda"));
}

TEST_CASE("selftest says what it can test when nothing is named") {
  const Outcome run = tandem({"selftest"});
  CHECK(run.exit_code == 2);
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "expected --gpu"));
}

}  // namespace tandem::test
