// run --config FILE.
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

class Config {
 public:
  explicit Config(std::string_view text) { write_file(path(), text); }
  std::string path() const { return dir_ / "tandem.toml"; }
  Outcome run(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"run", "--config", path()});
    return tandem(more);
  }
  // One line with the file's name and `part`.
  void check_refused(const std::string& part) const {
    const Outcome outcome = run();
    INFO(outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.out.empty());
    CHECK(line_count(outcome.err) == 1);
    CHECK(contains(outcome.err, path()));
    CHECK(contains(outcome.err, part));
  }

 private:
  TempDir dir_;
};

}  // namespace

TEST_CASE("a config file sets what the command line leaves open") {
  const Config config(
      "prompt = \"Once upon a time\"\n"
      "predict = 3\n"
      "temp = 0\n"
      "json = false\n"
      "device = \"sim\"\n"
      "vram = 8\n");
  const Outcome run = config.run();
  INFO(run.err);
  CHECK(run.out == "Once upon a time there lived a\n");
  CHECK(contains(run.err, "device        sim"));
}

TEST_CASE("a flag on the command line beats the config file") {
  const Config config("prompt = \"Once upon a time\"\npredict = 3\ntemp = 0\n");
  CHECK(config.run({"-n", "1"}).out == "Once upon a time there\n");
}

TEST_CASE("a file given with -f beats a prompt in the config file") {
  const TempDir dir;
  write_file(dir / "p.txt", "Once upon a time");
  const Config config("prompt = \"Something else\"\npredict = 3\ntemp = 0\n");
  CHECK(config.run({"-f", dir / "p.txt"}).out == "Once upon a time there lived a\n");
}

TEST_CASE("every long name of a flag is a key") {
  const Config config("n-predict = 0\nprompt = \"a\"\nctx-size = 100\n");
  const Outcome run = config.run();
  CHECK(run.out == "a\n");
  CHECK(contains(run.err, "context       100"));
}

TEST_CASE("a flag that a command needs may come from the config file") {
  const TempDir dir;
  const std::string out = dir / "l.npy";
  write_file(dir / "logits.toml", "tokens = \"1,2\"\nout = \"" + out + "\"\n");
  const Outcome logits = tandem({"logits", "--config", dir / "logits.toml"});
  INFO(logits.err);
  CHECK(logits.exit_code == 0);
  CHECK(std::filesystem::exists(out));

  const std::string text = source_file("tests/README.md");
  write_file(dir / "perplexity.toml", "file = \"" + text + "\"\nctx-size = 64\n");
  CHECK(tandem({"perplexity", "--config", dir / "perplexity.toml"}).exit_code == 0);
}

TEST_CASE("a misspelt key is an error with file and key") {
  Config("tempp = 1\n").check_refused("tempp is not a known setting");
  Config("[sampling]\ntemp = 1\n").check_refused("sampling.temp is not a known setting");
}

TEST_CASE("a value of the wrong kind or size is an error with file and key") {
  Config("threads = 1000\n").check_refused("threads = \"1000\" is not a whole number from 0");
  Config("temp = \"warm\"\n").check_refused("temp = \"warm\" is not a number");
  Config("ignore-eos = 1\n").check_refused("ignore-eos is not true or false");
  Config("prompt = [1]\n").check_refused("prompt");
  Config("device = \"gpu\"\n").check_refused("device = \"gpu\" is not one of auto, cpu, cuda, sim");
  Config("predict = 1\nn-predict = 2\n").check_refused("is the same setting as predict");
  Config("prompt = \"a\"\nfile = \"b\"\n").check_refused("excludes another key");
}

TEST_CASE("a config file that is no TOML is an error with its line") {
  Config("temp = 0\nthreads = = 2\n").check_refused("tandem.toml:2");
}

TEST_CASE("a config file that cannot be read is an error with its name") {
  const TempDir dir;
  for (const std::string& path : {dir / "none.toml", dir.path().string()}) {
    const Outcome run = tandem({"run", "--config", path});
    CHECK(run.exit_code == 1);
    CHECK(line_count(run.err) == 1);
    CHECK(contains(run.err, path + ": cannot be read"));
  }
}

TEST_CASE("a machine profile of one's own names the modelled times") {
  const TempDir dir;
  write_file(dir / "mine.toml", read_file(source_file("configs/machines/rtx4090-ddr5.toml")));
  const auto json = tandem({"run", "-p", "a", "-n", "2", "--machine", dir / "mine.toml", "--json"});
  REQUIRE(json.exit_code == 0);
  CHECK(json.json()["machine"] == "mine");
  const Outcome folder = tandem({"run", "-p", "a", "--machine", dir.path().string() + "/"});
  CHECK(folder.exit_code == 1);
  CHECK(contains(folder.err, "is not a file"));
}

}  // namespace tandem::test
