#include <filesystem>
#include <string>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

TEST_CASE("calibrate writes a machine profile that run takes, and says what it did not measure") {
  const TempDir dir;
  const std::string file = dir / "here.toml";
  // The other profile's name goes into a string of the new one.
  const std::string other = dir / "rtx \"4090\".toml";
  write_file(other, read_file(source_file("configs/machines/rtx4090-ddr5.toml")));
  const Outcome written = tandem({"calibrate", "--machine", other, "-o", file});
  INFO(written.err);
  REQUIRE(written.exit_code == 0);
  CHECK(written.out.empty());
  const std::string text = read_file(file);
  CHECK(contains(text, "GPU and link were not"));
  CHECK(contains(text, "vram_mib = 24576"));
  CHECK(contains(text, "onednn_bf16_tokens = "));
  const Outcome run = tandem({"run", "--machine", file, "-p", "Once upon a time", "-n", "2"});
  INFO(run.err);
  CHECK(run.exit_code == 0);
  CHECK(contains(run.err, "GPU and link of rtx '4090'"));
}

TEST_CASE("calibrate gives a simulated GPU's profile back, calls it modelled, and plan takes it") {
  const TempDir dir;
  const std::string file = dir / "here.toml";
  const Outcome written =
      tandem({"calibrate", "--device", "sim", "--machine", "rtx4090-ddr5", "-o", file});
  INFO(written.err);
  REQUIRE(written.exit_code == 0);
  CHECK(written.out.empty());
  CHECK(contains(written.err, "gpu and link  modelled"));
  const std::string text = read_file(file);
  INFO(text);
  CHECK(contains(text, "vram_mib = 24576"));
  CHECK(contains(text, "\nread_gbps = 850."));
  CHECK(contains(text, "\nh2d_gbps = 25."));
  CHECK(contains(text, "\nlatency_us = 7.0"));
  CHECK(contains(text, "modelled, not measured"));
  CHECK_FALSE(contains(text, "measured_on"));
  const Outcome plan = tandem({"plan", "--device", "sim", "--machine", file});
  INFO(plan.err);
  CHECK(plan.exit_code == 0);
  CHECK(contains(plan.out, "here (requested " + file + ")"));
  CHECK(contains(plan.out, "GPU and link modelled, rtx4090-ddr5's"));
}

TEST_CASE("calibrate of a GPU that is not there is one clear line, and writes nothing") {
  const TempDir dir;
  const std::string file = dir / "here.toml";
  const Outcome run = tandem({"calibrate", "--device", "cuda", "-o", file});
  if (run.exit_code == 0) {
    WARN("skipped: there is a GPU");
    return;
  }
  CHECK(run.exit_code == 2);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "--device cuda: "));
  CHECK(contains(run.err, "expected an NVIDIA GPU"));
  CHECK_FALSE(std::filesystem::exists(file));
}

TEST_CASE("calibrate refuses a place that it cannot write to before it measures") {
  const Outcome run = tandem({"calibrate", "-o", "/nowhere/here.toml"});
  CHECK(run.exit_code == 1);
  CHECK(contains(run.err, "/nowhere"));
}

TEST_CASE("a profile may hand BF16 products to oneDNN, and the settings say so") {
  const TempDir dir;
  const std::string file = dir / "here.toml";
  std::string text = read_file(source_file("configs/machines/rtx3060-ddr4.toml"));
  const std::string table = "[cpu]\n";
  REQUIRE(contains(text, table));
  text.insert(text.find(table) + table.size(), "onednn_bf16_tokens = 48\n");
  write_file(file, text);
  const Outcome run = tandem({"run", "--machine", file, "-p", "Once upon a time", "-n", "2"});
  CHECK(run.exit_code == 0);
  CHECK(contains(run.err, "from 48 tokens on"));
}

}  // namespace
}  // namespace tandem::test
