// Ctrl-C, readers that go away, disks that are full.
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// Goes on for minutes unless stopped.
const std::vector<std::string> kEndless{"run",    "-p",           "Once", "-c",
                                        "200000", "--ignore-eos", "-s",   "1"};

std::vector<std::string> endless(const std::vector<std::string>& more) {
  std::vector<std::string> all = kEndless;
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

TEST_CASE("Ctrl-C while writing ends the text and prints the summary") {
  Invocation how;
  how.interrupts = 1;
  const Outcome run = tandem(endless({"--no-display-prompt"}), how);
  INFO(run.err);
  CHECK(run.exit_code == 130);
  REQUIRE_FALSE(run.out.empty());
  CHECK(run.out.back() == '\n');
  CHECK(contains(run.err, "stopped       interrupted"));
  CHECK(contains(run.err, "tokens/s measured here"));
}

TEST_CASE("Ctrl-C while reading a long prompt ends with the summary of what was read") {
  Invocation how;
  how.interrupts = 1;  // comes with the prompt's own text, before it is read
  const std::string file = source_file("demo/heldout.txt");
  const Outcome run = tandem({"run", "-f", file, "-c", "40000", "-b", "16"}, how);
  INFO(run.err);
  CHECK(run.exit_code == 130);
  CHECK(contains(run.err, "stopped       interrupted"));
  CHECK(contains(run.err, "decode        none"));
}

TEST_CASE("a job that was started with interrupts ignored goes on ignoring them") {
  Invocation how;
  how.interrupts = 2;
  how.ignores_interrupts = true;
  const Outcome run = tandem({"run", "-p", "Once", "-n", "30", "--ignore-eos", "-s", "1"}, how);
  INFO(run.err);
  CHECK(run.exit_code == 0);
  CHECK(contains(run.err, "stopped       limit"));
}

TEST_CASE("a second Ctrl-C ends at once") {
  // One batch: its first layer alone takes seconds, so the first Ctrl-C is not acted upon before
  // the second comes.
  Invocation how;
  how.interrupt_when_quiet = true;
  const std::string file = source_file("demo/heldout.txt");
  const Outcome run = tandem({"run", "-f", file, "-c", "40000", "-b", "40000"}, how);
  INFO(run.err);
  CHECK(run.exit_code == 130);
  CHECK(run.err.empty());  // no summary
}

TEST_CASE("a reader that goes away ends the run without a word") {
  Invocation how;
  how.close_output_early = true;
  const Outcome run = tandem(endless({}), how);
  CHECK(run.exit_code == 128 + 13);  // SIGPIPE
  CHECK(run.err.empty());
}

TEST_CASE("a full disk is one line and a failure, for every command that prints") {
  const std::vector<std::vector<std::string>> commands{{"run", "-p", "Once", "-n", "5"},
                                                       {"run", "-p", "Once", "-n", "5", "--json"},
                                                       {"inspect"},
                                                       {"tokenize", "-p", "Once"},
                                                       {"detokenize", "--tokens", "1,2"},
                                                       {"bench", "-p", "4", "-n", "0", "-r", "1"},
                                                       {"--help"},
                                                       {"run", "--help"},
                                                       {"--version"}};
  Invocation how;
  how.out_path = "/dev/full";
  for (const auto& command : commands) {
    const Outcome run = tandem(command, how);
    INFO(command.front() << ": " << run.err);
    CHECK(run.exit_code == 1);
    CHECK(run.err == "tandem: standard output: cannot be written: No space left on device\n");
  }
}

}  // namespace tandem::test
