#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"
#include "tests/support/npy.h"

namespace tandem::test {
namespace {

Npy logits(std::vector<std::string> more) {
  const TempDir dir;
  const std::string out = dir / "logits.npy";
  more.insert(more.begin(), {"logits", "--out", out});
  const Outcome run = tandem(more);
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  CHECK(run.out.empty());
  return read_npy(out);
}

float largest_difference(const Npy& a, const Npy& b) {
  REQUIRE(a.values.size() == b.values.size());
  float largest = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    largest = std::max(largest, std::fabs(a.values[i] - b.values[i]));
  }
  return largest;
}

size_t files_in(const TempDir& dir) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir.path()),
                                           std::filesystem::directory_iterator()));
}

constexpr const char* kStory = "4093,3384,794,258,535";

}  // namespace

TEST_CASE("logits writes an .npy file that NumPy's format describes") {
  const Npy npy = logits({"--tokens", kStory});
  CHECK(npy.rows == 5);
  CHECK(npy.cols == 4096);
  CHECK(npy.data_at % 64 == 0);
  CHECK(npy.header.back() == '\n');
  CHECK(contains(npy.header, "'descr': '<f4'"));
  CHECK(contains(npy.header, "'fortran_order': False"));
}

TEST_CASE("logits agree with the golden values of the demo model") {
  const ReferenceArithmetic reference;
  const Npy npy = logits({"--tokens", kStory, "-ctk", "f32", "-ctv", "f32"});
  const auto golden =
      nlohmann::json::parse(read_file(source_file("demo/golden.json")))["Q8_0"]["top10"];
  const float* last = npy.row(4).data();
  REQUIRE(golden.size() == 10);
  for (const auto& entry : golden) {
    const float expected = entry[1].get<float>();
    INFO("token " << entry[0]);
    CHECK(std::fabs(last[entry[0].get<size_t>()] - expected) < 2e-3F * std::fabs(expected));
  }
}

TEST_CASE("logits are the same on the CPU and on the simulated GPU") {
  const Npy cpu = logits({"--tokens", kStory, "--device", "cpu"});
  const Npy sim = logits({"--tokens", kStory, "--device", "sim", "--vram", "8"});
  CHECK(largest_difference(cpu, sim) <= 1e-4F);
}

TEST_CASE("logits do not depend on how the tokens are cut into batches") {
  const Npy whole = logits({"--tokens", kStory});
  CHECK(largest_difference(whole, logits({"--tokens", kStory, "-b", "2"})) <= 1e-4F);
  CHECK(largest_difference(whole, logits({"--tokens", kStory, "-b", "1"})) <= 1e-4F);
}

TEST_CASE("logits writes nothing when something is wrong") {
  const TempDir dir;
  const std::vector<std::vector<std::string>> wrong{
      {"--tokens", ""},
      {"--tokens", "1,4096"},
      {"--tokens", kStory, "-c", "4"},
      {"--tokens", kStory, "-m", dir / "none.gguf"},
      {"--tokens", kStory, "--device", "sim", "--vram", "1"}};
  for (std::vector<std::string> args : wrong) {
    args.insert(args.begin(), {"logits", "--out", dir / "x.npy"});
    const Outcome run = tandem(args);
    INFO(run.err);
    CHECK(run.exit_code != 0);
    CHECK(line_count(run.err) == 1);
    CHECK(files_in(dir) == 0);
  }
}

TEST_CASE("logits refuses a place that cannot take the file before it computes") {
  const TempDir dir;
  const Outcome missing = tandem({"logits", "--tokens", "1", "--out", dir / "no/x.npy"});
  CHECK(missing.exit_code == 1);
  CHECK(contains(missing.err, "there is no folder"));
  const Outcome folder = tandem({"logits", "--tokens", "1", "--out", dir.path().string()});
  CHECK(folder.exit_code == 1);
  CHECK(contains(folder.err, "expected a file, got a directory"));
}

TEST_CASE("logits keeps an old file's link and replaces its contents") {
  const TempDir dir;
  write_file(dir / "real.npy", "old");
  std::filesystem::create_symlink(dir / "real.npy", dir / "link.npy");
  REQUIRE(tandem({"logits", "--tokens", "1", "--out", dir / "link.npy"}).exit_code == 0);
  CHECK(std::filesystem::is_symlink(dir / "link.npy"));
  CHECK(read_npy(dir / "real.npy").rows == 1);
  CHECK(files_in(dir) == 2);
}

TEST_CASE("logits writes into a device without replacing it") {
  REQUIRE(tandem({"logits", "--tokens", "1", "--out", "/dev/null"}).exit_code == 0);
  CHECK(std::filesystem::is_character_file("/dev/null"));
  const Outcome full = tandem({"logits", "--tokens", "1", "--out", "/dev/full"});
  CHECK(full.exit_code == 1);
  CHECK(full.err == "tandem: /dev/full: cannot be written: No space left on device\n");
}

TEST_CASE("logits --json names the shape and the file") {
  const TempDir dir;
  const auto json = tandem({"logits", "--tokens", "1,2", "--out", dir / "a.npy", "--json"}).json();
  CHECK(json["tokens"] == 2);
  CHECK(json["vocab"] == 4096);
  CHECK(json["file"] == dir / "a.npy");
}

TEST_CASE("logits follows a link to a file that does not exist yet") {
  const TempDir dir;
  std::filesystem::create_directory(dir / "results");
  std::filesystem::create_symlink("results/there.npy", dir / "link.npy");
  const auto write = [&](const char* name) {
    return tandem({"logits", "--tokens", "1,2", "--out", dir / name});
  };
  CHECK(write("link.npy").exit_code == 0);
  CHECK(std::filesystem::is_symlink(dir / "link.npy"));
  CHECK(read_npy(dir / "results/there.npy").rows == 2);

  std::filesystem::create_symlink("nowhere/there.npy", dir / "lost.npy");
  const Outcome lost = write("lost.npy");
  CHECK(lost.exit_code == 1);
  CHECK(contains(lost.err, "there is no folder"));
  std::filesystem::create_symlink("loop.npy", dir / "loop.npy");
  CHECK(contains(write("loop.npy").err, "loop.npy: cannot be written: Too many levels"));
}

}  // namespace tandem::test
