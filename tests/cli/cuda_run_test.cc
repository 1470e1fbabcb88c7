// The program with `--device cuda` and a plug-in of the tests' own (fake_gpu.cc): what a user of a
// GPU sees, from opening it to losing it. No GPU, no CUDA runtime and no compiled kernel of CUDA's
// is in it.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

// The program in a folder with that plug-in, while this lives, and the plug-in's settings.
class WithGpu {
 public:
  explicit WithGpu(const Strings& settings = {})
      : program_(fs::path(TANDEM_WITH_GPU) / ("tandem-" + std::to_string(getpid()))) {
    fs::remove(program_);
    fs::create_hard_link(TANDEM_PROGRAM, program_);
    for (const std::string& setting : settings) {
      const size_t equals = setting.find('=');
      names_.push_back(setting.substr(0, equals));
      setenv(names_.back().c_str(), setting.substr(equals + 1).c_str(), 1);
    }
  }
  ~WithGpu() {
    fs::remove(program_);
    for (const std::string& name : names_) unsetenv(name.c_str());
  }
  WithGpu(const WithGpu&) = delete;
  WithGpu& operator=(const WithGpu&) = delete;

  Invocation here() const {
    Invocation how;
    how.program = program_.string();
    return how;
  }
  Outcome tandem(const Strings& arguments) const { return test::tandem(arguments, here()); }

 private:
  fs::path program_;
  Strings names_;
};

// The last ones when some text is there.
#ifdef TANDEM_SANITIZED
const std::vector<int> kFailingCalls{1, 200, 1300};
#else
const std::vector<int> kFailingCalls{0, 1, 2, 10, 40, 100, 200, 400, 800, 1300};
#endif

Strings story(const Strings& more) {
  Strings all{"run", "-p", "Once upon a time", "--temp", "0", "-n", "8"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

Strings story_on_gpu(const Strings& more = {}) {
  Strings all = story({"--device", "cuda"});
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

bool is_golden(const Outcome& run) {
  const auto golden = nlohmann::json::parse(read_file(source_file("demo/golden.json")));
  const auto text = golden["Q8_0"]["text"].get<std::string>();
  return run.exit_code == 0 && run.out.size() > 30 &&
         text.rfind(run.out.substr(0, run.out.size() - 1), 0) == 0;  // without the newline
}

}  // namespace

TEST_CASE("run writes the reference's text on a CUDA device, whenever that does its work") {
  for (const std::string schedule : {"at once", "late", "random"}) {
    const WithGpu gpu(schedule == "at once" ? Strings{} : Strings{"FAKE_GPU_SCHEDULE=" + schedule});
    const Outcome run = gpu.tandem(story_on_gpu({"--moe-expert-cache", "40"}));
    INFO(schedule << "\n" << run.err);
    CHECK(is_golden(run));
    CHECK(contains(run.err, "GPU Fake; Tandem has been tried on no real GPU yet"));
    CHECK(contains(run.err, "waits for the CPU by memory operations"));
    CHECK(contains(run.err, "expert slots  40"));
  }
}

TEST_CASE("a GPU that is there is named, and used only where it is asked for") {
  const WithGpu gpu;
  const Outcome run = gpu.tandem(story({}));
  INFO(run.err);
  CHECK(is_golden(run));
  CHECK(contains(run.err, "GPU Fake is there; --device cuda uses it"));
  CHECK_FALSE(contains(run.err, "expert slots  192"));
}

TEST_CASE("speeds with a GPU are measured, and modelled ones beside them say so") {
  const WithGpu gpu;
  const Outcome run = gpu.tandem(story_on_gpu());
  INFO(run.err);
  CHECK(contains(run.err, "tokens/s measured here; "));
  CHECK(contains(run.err, "modelled for rtx3060-ddr4"));
  const Outcome bench =
      gpu.tandem({"bench", "--device", "cuda", "-p", "8", "-n", "4", "-r", "1", "-o", "json"});
  INFO(bench.err);
  REQUIRE(bench.exit_code == 0);
  REQUIRE(bench.json().size() == 2);
  for (const nlohmann::json& row : bench.json()) CHECK(row["avg_ts"].get<double>() > 0);
}

TEST_CASE("a plan for a CUDA device is of the memory that is free there") {
  const WithGpu gpu({"FAKE_GPU_FREE=" + std::to_string((512 + 10) << 20)});
  const Outcome plan = gpu.tandem({"plan", "--device", "cuda", "--json"});
  INFO(plan.err << plan.out);
  REQUIRE(plan.exit_code == 0);
  const nlohmann::json device = plan.json()["device"];
  CHECK(device["vram_bytes"] == 10 << 20);
  const Outcome run = gpu.tandem(story_on_gpu());
  INFO(run.err);
  CHECK(is_golden(run));
  const std::string slots = device["expert_slots"]["count"].dump();
  CHECK(contains(run.err, "expert slots  " + slots + " of 192"));
  CHECK(slots != "192");
  const Outcome too_much = gpu.tandem(story_on_gpu({"--vram", "1000"}));
  CHECK(too_much.exit_code != 0);
  CHECK(line_count(too_much.err) == 1);
  CHECK(contains(too_much.err, "--vram is 1000.00 MiB, of which 522.00 MiB are free"));
}

TEST_CASE("a GPU that cannot be opened, or is lost on the way, ends the run with one line") {
  const Outcome fine = WithGpu().tandem(story_on_gpu());
  REQUIRE(is_golden(fine));
  int lost = 0;
  for (const int call : kFailingCalls) {
    const WithGpu gpu({"FAKE_GPU_FAIL_CALL=" + std::to_string(call)});
    const Outcome run = gpu.tandem(story_on_gpu());
    INFO("call " << call << "\n" << run.err);
    CHECK(run.exit_code != 0);
    CHECK(run.exit_code < 128);
    CHECK(fine.out.rfind(run.out.substr(0, run.out.find('\n')), 0) == 0);  // nothing else
    CHECK((run.out.empty() || run.out.back() == '\n'));
    const size_t last = run.err.rfind('\n', run.err.size() - 2);
    const std::string line = run.err.substr(last == std::string::npos ? 0 : last + 1);
    CHECK(line.rfind("tandem: ", 0) == 0);
    CHECK(contains(line, "CUDA error 700"));
    lost += run.out.empty() ? 0 : 1;
  }
  CHECK(lost > 0);
}

TEST_CASE("Ctrl-C on a CUDA device ends the text and prints the summary") {
  const WithGpu gpu({"FAKE_GPU_SCHEDULE=late"});
  Invocation how = gpu.here();
  how.interrupts = 1;
  const Outcome run = tandem({"run", "-p", "Once", "-c", "20000", "--ignore-eos", "-s", "1",
                              "--no-display-prompt", "--device", "cuda"},
                             how);
  INFO(run.err);
  CHECK(run.exit_code == 130);
  CHECK(contains(run.err, "stopped       interrupted"));
}

TEST_CASE("two runs use one GPU at once") {
  const WithGpu gpu;
  Process first(story_on_gpu(), gpu.here());
  Process second(story_on_gpu(), gpu.here());
  CHECK(is_golden(first.wait()));
  CHECK(is_golden(second.wait()));
}

}  // namespace tandem::test
