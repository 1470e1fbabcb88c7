// --no-repack, --mmap, --no-mmap, --mlock: how weights come into memory and stay there.
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

// The demo model as a file: the built-in one is neither mapped nor read.
const std::string kModel = source_file("demo/hearthside-q8_0.gguf");

Strings story(const Strings& more, const std::string& model = kModel) {
  Strings all{"run", "-m", model, "-p", "Once upon a time", "-n", "24", "--temp", "0"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

nlohmann::json settings(const Strings& more) {
  Strings all = story(more);
  all.push_back("--json");
  const Outcome run = tandem(all);
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  return run.json()["settings"];
}

void check_refused(const Strings& arguments, const std::string& part) {
  const Outcome run = tandem(arguments);
  INFO(run.err);
  CHECK(run.exit_code != 0);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, part));
}

}  // namespace

TEST_CASE("a text is the same, however weights come into memory") {
  for (const Strings& device : {Strings{}, Strings{"--device", "sim", "--vram", "9"}}) {
    const Outcome expected = tandem(story(device));
    REQUIRE(expected.exit_code == 0);
    for (Strings how : {Strings{"--no-mmap"},
                        {"--no-repack"},
                        {"--no-mmap", "--no-repack"},
                        {"--mlock"},
                        {"--no-mmap", "--mlock", "--no-repack"},
                        {"--no-mmap", "--check-tensors"},
                        {"--mmap", "-t", "3"},
                        {"--no-mmap", "-t", "3"}}) {
      INFO(how[0] << " of " << how.size());
      how.insert(how.end(), device.begin(), device.end());
      const Outcome run = tandem(story(how));
      CHECK(run.exit_code == 0);
      CHECK(run.out == expected.out);
    }
  }
}

TEST_CASE("the tied embedding of a model that is read is there, packed or not") {
  for (const Strings& how : {Strings{"--no-mmap"}, {"--no-mmap", "--no-repack"}}) {
    for (const char* family : {"olmoe-k-quants", "qwen3moe-f32", "llama-q4_0-linear",
                               "llama-q4_0-rope-freqs", "qwen2moe-bf16"}) {
      const Strings logits{"logits", "-m", family_model(family), "--tokens", "1,2,3", "--out"};
      const TempDir dir;
      Strings mapped = logits;
      mapped.push_back(dir / "mapped");
      Strings read = logits;
      read.push_back(dir / "read");
      read.insert(read.end(), how.begin(), how.end());
      INFO(family);
      REQUIRE(tandem(mapped).exit_code == 0);
      REQUIRE(tandem(read).exit_code == 0);
      CHECK(read_file(dir / "mapped") == read_file(dir / "read"));
    }
  }
}

TEST_CASE("llama.cpp's spellings of mapping are understood by every command with a model") {
  CHECK(settings({})["mmap"]["effective"] == "on");
  CHECK(settings({"--mmap"})["mmap"]["effective"] == "on");
  CHECK(settings({"-mmp", "1"})["mmap"]["effective"] == "on");
  for (const Strings& how : {Strings{"--no-mmap"}, {"-mmp", "0"}, {"--mmap", "0"}}) {
    CHECK(settings(how)["mmap"]["requested"] == "off");
    CHECK(settings(how)["mmap"]["effective"] == "off");
  }
  const Outcome bench = tandem({"bench", "-m", kModel, "-p", "4", "-n", "2", "-r", "1", "-mmp", "0",
                                "--mlock", "-o", "json"});
  REQUIRE(bench.exit_code == 0);
  for (const auto& row : bench.json()) {
    CHECK(row["settings"]["mmap"]["effective"] == "off");
    CHECK(row["settings"]["mlock"]["requested"] == "on");
  }
  check_refused(story({"--mmap", "--no-mmap"}), "excludes");
  check_refused(story({"-mmp", "2"}), "unknown argument 2");
}

TEST_CASE("mapping can be turned off in a configuration file") {
  const TempDir dir;
  for (const std::string text : {"no-mmap = true\n", "mmap = false\n"}) {
    write_file(dir / "c.toml", text);
    CHECK(settings({"--config", dir / "c.toml"})["mmap"]["effective"] == "off");
    CHECK(settings({"--config", dir / "c.toml", "--mmap"})["mmap"]["effective"] == "on");
  }
}

TEST_CASE("the built-in model is neither mapped nor read, and the summary says so") {
  const Outcome run = tandem({"run", "-p", "a", "-n", "1", "--no-mmap", "--mlock"});
  CHECK(run.exit_code == 0);
  CHECK(contains(run.err, "mmap          none (requested off): the model is part of the program"));
}

TEST_CASE("locked weights are shown with their size") {
  const nlohmann::json mlock = settings({"--mlock"})["mlock"];
  CHECK(mlock["requested"] == "on");
  CHECK(settings({})["mlock"]["effective"] == "off");
  if (mlock["effective"] != "on") {
    WARN("this system locks no 12 MB: not tested");
    return;
  }
  CHECK(contains(mlock["reason"].get<std::string>(), "MiB locked"));
}

// Sanitizers make mlock do nothing and say that it worked.
#ifndef TANDEM_SANITIZED
TEST_CASE("weights that may not be locked are a warning with the limit, and the run goes on") {
  Invocation no_locks;
  no_locks.may_lock_memory = false;
  const Outcome expected = tandem(story({}));
  for (const Strings& how : {Strings{"--mlock"}, {"--mlock", "--no-mmap", "--no-repack"}}) {
    const Outcome run = tandem(story(how), no_locks);
    INFO(run.err);
    CHECK(run.exit_code == 0);
    CHECK(run.out == expected.out);
    CHECK(run.err.rfind("tandem: warning: --mlock: 0 B of ", 0) == 0);
    CHECK(contains(run.err, " MiB locked: "));
    CHECK(contains(run.err, "the limit on locked memory (ulimit -l) is 0 B\n"));
    CHECK(contains(run.err, "mlock         0 B of "));
    CHECK(contains(run.err, "(requested on): "));
  }
}
#endif

TEST_CASE("a truncated file that is to be read is refused in one line") {
  const TempDir dir;
  const std::string path = dir / "short.gguf";
  const std::string model = read_file(kModel);
  write_file(path, model.substr(0, model.size() / 2));
  check_refused(story({"--no-mmap"}, path), "truncated?");
  write_file(path, model.substr(0, 100));
  check_refused(story({"--no-mmap"}, path), path);
}

TEST_CASE("damaged weights are named where they are read, too") {
  const TempDir dir;
  const std::string path = dir / "damaged.gguf";
  std::string model = read_file(kModel);
  // The embedding begins at this offset with the f16 scale of its first block.
  model.replace(133952, 2, std::string("\x00\x7e", 2));
  write_file(path, model);
  check_refused(story({"--no-mmap", "--check-tensors"}, path), "token_embd.weight");
  const Outcome unasked =
      tandem({"logits", "-m", path, "--tokens", "0", "--out", dir / "l", "--no-mmap"});
  CHECK(unasked.exit_code == 1);
  CHECK(contains(unasked.err, "token_embd.weight"));
}

}  // namespace tandem::test
