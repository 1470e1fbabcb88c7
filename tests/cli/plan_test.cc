// tandem plan: what memory a run would take, and --fit, which makes it take no more than there is.
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

Strings with(Strings arguments, const Strings& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

nlohmann::json plan(const Strings& flags) {
  const Outcome outcome = tandem(with({"plan", "--json"}, flags));
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  return outcome.json();
}

nlohmann::json run(const Strings& flags) {
  const Outcome outcome = tandem(with({"run", "-p", "a", "-n", "1", "--json"}, flags));
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  return outcome.json();
}

int64_t sum(const nlohmann::json& parts) {
  int64_t bytes = 0;
  for (const auto& [name, part] : parts.items()) bytes += part.get<int64_t>();
  return bytes;
}

void check_plan_is_run(const Strings& flags) {
  const nlohmann::json planned = plan(flags);
  const nlohmann::json ran = run(flags);
  const nlohmann::json& device = planned["device"];
  INFO(planned.dump(2));
  CHECK(device["used_bytes"] == ran["memory"]["device_bytes"]);
  CHECK(sum(device["parts"]) + device["expert_slots"]["bytes"].get<int64_t>() ==
        device["used_bytes"].get<int64_t>());
  CHECK(device["fits"] == true);
  for (const char* name :
       {"device", "context", "batch", "expert slots", "vram", "fit", "weights", "kv cache"}) {
    INFO(name);
    CHECK(planned["settings"][name] == ran["settings"][name]);
  }
}

}  // namespace

TEST_CASE("a run takes the device memory that its plan says, and has its settings") {
  check_plan_is_run({"--device", "sim", "--vram", "9"});
  check_plan_is_run({"--device", "sim", "-c", "200", "-b", "32", "--no-repack"});
  check_plan_is_run({"--device", "sim", "--vram", "6", "--moe-expert-cache", "10"});
  check_plan_is_run({"--device", "sim", "-ctk", "f32", "--moe-expert-cache", "0"});
  check_plan_is_run({"--device", "sim", "--vram", "9", "-ctk", "q8_0", "-ctv", "q8_0"});
  check_plan_is_run({"--device", "sim-cuda", "--vram", "9", "-c", "64", "-b", "16"});
  for (const char* name : {"qwen2moe-bf16", "olmoe-k-quants", "qwen3moe-q8_0-yarn"}) {
    INFO(name);
    const nlohmann::json planned =
        plan({"-m", family_model(name), "--device", "sim-cuda", "--vram", "16", "-c", "50"});
    CHECK(planned["device"]["fits"] == true);
  }
}

TEST_CASE("a plan is a table of device memory, host memory and settings") {
  const Outcome outcome = tandem({"plan", "--device", "sim", "--vram", "9"});
  INFO(outcome.out);
  REQUIRE(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  for (const char* part :
       {"memory of device sim: 9.00 MiB\n", "\n  KV cache  ", "\n  attention weights  ",
        "\n  expert slots  ", " of 192 experts\n", "\n  free  ", "\nhost memory\n",
        "\n  weights, packed  ", "\n  in all  ", " available\n", "\nsettings\n", "\n  context  "}) {
    INFO(part);
    CHECK(contains(outcome.out, part));
  }
}

TEST_CASE("a plan for the CPU counts host memory only") {
  const nlohmann::json planned = plan({"--device", "cpu"});
  CHECK_FALSE(planned.contains("device"));
  CHECK(planned["host"]["parts"]["KV cache"].get<int64_t>() > 0);
  CHECK(sum(planned["host"]["parts"]) == planned["host"]["used_bytes"].get<int64_t>());
  CHECK(planned["settings"]["fit"]["effective"] == "off");
}

TEST_CASE("a plan with VRAM and no device is one of a GPU with so much") {
  const Outcome plan = tandem({"plan", "--vram", "12", "-c", "256", "--json"});
  INFO(plan.err);
  REQUIRE(plan.exit_code == 0);
  CHECK(plan.json()["device"]["vram_bytes"] == 12 << 20);
  CHECK(plan.json()["settings"]["device"]["requested"] == "auto");
  CHECK(plan.json()["settings"]["device"]["effective"] == "sim");
}

TEST_CASE("a plan that does not fit is shown, with a line on what is missing and what to change") {
  const Outcome outcome = tandem({"plan", "--device", "sim", "--vram", "1"});
  INFO(outcome.err);
  CHECK(outcome.exit_code == 1);
  CHECK(contains(outcome.out, "\n  missing  "));
  CHECK(line_count(outcome.err) == 1);
  CHECK(contains(outcome.err, "of device memory are missing; raise --vram"));
}

TEST_CASE(
    "a batch that was not given is lowered until the run fits, and one that was given is not") {
  const Strings small{"--device", "sim", "--vram", "5"};
  const nlohmann::json settings = run(small)["settings"];
  CHECK(settings["batch"]["requested"] == "auto");
  CHECK(settings["batch"]["effective"] == "128");
  CHECK(contains(settings["batch"]["reason"].get<std::string>(), "lowered so that"));
  for (const Strings& given : {Strings{"-b", "512"}, Strings{"--fit", "off"}}) {
    const Outcome outcome = tandem(with(with({"run", "-p", "a", "-n", "1"}, small), given));
    INFO(outcome.err);
    CHECK(outcome.exit_code == 1);
    CHECK(contains(outcome.err, "raise --vram"));
  }
}

TEST_CASE("a setting of a configuration file counts as given") {
  const TempDir dir;
  write_file(dir / "given.toml", "batch-size = 512\n");
  CHECK(tandem({"plan", "--device", "sim", "--vram", "5", "--config", dir / "given.toml"})
            .exit_code == 1);
  write_file(dir / "fit.toml", "fit = \"off\"\n");
  CHECK(
      tandem({"plan", "--device", "sim", "--vram", "5", "--config", dir / "fit.toml"}).exit_code ==
      1);
  CHECK(tandem({"plan", "--device", "sim", "--vram", "5"}).exit_code == 0);
}

TEST_CASE("llama.cpp's short names of --fit are understood, and wrong values are refused") {
  const nlohmann::json settings =
      plan({"--device", "sim", "-fit", "off", "-fitc", "1024", "-fitt", "100"})["settings"];
  CHECK(settings["fit"]["effective"] == "off");
  for (const Strings& wrong :
       {Strings{"--fit", "maybe"}, Strings{"--fit-ctx", "511"}, Strings{"--fit-target", "-1"}}) {
    const Outcome outcome = tandem(with({"run"}, wrong));
    INFO(outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(contains(outcome.err, wrong.front() + ": \"" + wrong.back() + "\" is not"));
  }
}

TEST_CASE("what is asked of --fit and has nothing to act on is shown with the reason") {
  const nlohmann::json sim =
      plan({"--device", "sim", "-fitt", "700", "-fitc", "600", "-c", "256"})["settings"];
  CHECK(sim["fit target"]["requested"] == "700.00 MiB");
  CHECK(sim["fit target"]["effective"] == "none");
  CHECK(sim["fit target"]["reason"] == "a simulated GPU has its VRAM for itself");
  CHECK(sim["fit context"]["requested"] == "600");
  CHECK(sim["fit context"]["effective"] == "none");
  CHECK(sim["fit context"]["reason"] == "-c says how long it is");
  const nlohmann::json cpu = plan({"--device", "cpu", "-fitt", "700", "-fitc", "600"})["settings"];
  CHECK(cpu["fit target"]["reason"] == "there is no GPU memory to fit into");
  CHECK(cpu["fit context"]["reason"] == "there is no GPU memory to fit into");
  const nlohmann::json off = plan({"--device", "sim", "-fit", "off", "-fitc", "600"})["settings"];
  CHECK(off["fit context"]["reason"] == "--fit is off");
  const nlohmann::json quiet = plan({"--device", "sim", "-c", "256"})["settings"];
  CHECK_FALSE(quiet.contains("fit target"));
  CHECK_FALSE(quiet.contains("fit context"));
  CHECK_FALSE(plan({"--device", "sim", "-fitc", "600"})["settings"].contains("fit context"));
}

TEST_CASE("a plan of a broken file is one line") {
  const TempDir dir;
  write_file(dir / "broken.gguf", "GGUF");
  const Outcome outcome = tandem({"plan", "-m", dir / "broken.gguf"});
  CHECK(outcome.exit_code == 1);
  CHECK(outcome.out.empty());
  CHECK(line_count(outcome.err) == 1);
}

}  // namespace tandem::test
