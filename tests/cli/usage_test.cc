// --help, wrong flags and wrong values. Usage errors exit with 2.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

const Strings kCommands{"run",        "chat",   "inspect",    "plan",  "tokenize",
                        "detokenize", "logits", "perplexity", "bench", "selftest"};

void check_usage_error(const Strings& arguments, const std::string& part) {
  const Outcome run = tandem(arguments);
  INFO(run.err);
  CHECK(run.exit_code == 2);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, part));
}

}  // namespace

TEST_CASE("every command has a help text with an example and a --json flag") {
  for (const std::string& command : kCommands) {
    const Outcome help = tandem({command, "--help"});
    INFO(help.out);
    CHECK(help.exit_code == 0);
    CHECK(help.err.empty());
    CHECK(contains(help.out, "Usage: tandem " + command));
    CHECK(contains(help.out, "Example:\n  tandem " + command + " "));
    CHECK(contains(help.out, "--json"));
  }
}

TEST_CASE("the help text shows defaults and fits a wide terminal") {
  const std::string help = tandem({"run", "--help"}).out;
  for (const char* part : {"--temp T ", "(default: 0.8)", "(default: 40)", "(default: 0.95)",
                           "(default: auto)", "(default: tandem)", "(default: 512)"}) {
    INFO(part);
    CHECK(contains(help, part));
  }
  for (size_t at = 0; at < help.size();) {
    const size_t end = help.find('\n', at);
    CHECK(end - at <= 110);
    at = end + 1;
  }
}

TEST_CASE("the program's help names every command") {
  const Outcome help = tandem({"--help"});
  CHECK(help.exit_code == 0);
  for (const std::string& command : kCommands) CHECK(contains(help.out, "\n  " + command + " "));
}

TEST_CASE("the flag --version prints one line") {
  const Outcome version = tandem({"--version"});
  CHECK(version.exit_code == 0);
  CHECK(version.out.rfind("tandem ", 0) == 0);
  CHECK(line_count(version.out) == 1);
}

TEST_CASE("no command and an unknown command list the commands") {
  check_usage_error({}, "no command; expected one of run, chat, inspect");
  check_usage_error({"rnu"}, "\"rnu\" is not a command; expected one of run, chat");
}

TEST_CASE("an unknown flag is named as it was typed") {
  check_usage_error({"run", "--nonsense"}, "tandem run: unknown argument --nonsense");
  check_usage_error({"run", "stray"}, "tandem run: unknown argument stray");
}

TEST_CASE("flags of llama.cpp that Tandem lacks say what to do instead") {
  check_usage_error({"run", "-ngl", "99"}, "-ngl: what the GPU holds follows from --vram");
  check_usage_error({"run", "--n-gpu-layers", "99"}, "--n-gpu-layers: what the GPU holds");
  check_usage_error({"bench", "-ncmoe", "3"}, "-ncmoe: what the GPU holds");
  check_usage_error({"run", "-ub", "64"}, "-ub: -b sets the batch");
  check_usage_error({"run", "-fa"}, "-fa: ");
  check_usage_error({"run", "-cnv"}, "-cnv: tandem chat holds conversations");
  check_usage_error({"run", "-hf", "a/b"}, "-hf: nothing is downloaded");
}

TEST_CASE("llama.cpp's short names of several letters are understood") {
  const auto json = tandem({"run", "-n", "0", "-p", "a", "-ctk", "f32", "-ctv", "f32", "--json"});
  REQUIRE(json.exit_code == 0);
  CHECK(json.json()["settings"]["kv cache"]["effective"] == "K f32, V f32");
}

TEST_CASE("a value out of range says what was expected and what came") {
  check_usage_error({"run", "-t", "-3"}, "--threads: \"-3\" is not a whole number from 0 to 512");
  check_usage_error({"run", "-t", "1000"}, "--threads: \"1000\" is not");
  check_usage_error({"run", "--numa", "isolate"}, "--numa: \"isolate\" is not one of");
  check_usage_error({"run", "-c", "-5"}, "--ctx-size: \"-5\" is not");
  check_usage_error({"run", "-n", "abc"}, "--predict: \"abc\" is not a whole number");
  check_usage_error({"run", "-n", "-2"}, "--predict: \"-2\" is not");
  check_usage_error({"run", "-n", "1e3"}, "--predict: \"1e3\" is not");
  check_usage_error({"run", "-n", "010"}, "--predict: \"010\" begins with 0");
  check_usage_error({"run", "-n", "-01"}, "--predict: \"-01\" begins with 0");
  check_usage_error({"bench", "-p", "4,08"}, "--n-prompt: \"08\" begins with 0");
  check_usage_error({"run", "-b", "0"}, "--batch-size: \"0\" is not");
  check_usage_error({"run", "-s", "99999999999"}, "--seed: \"99999999999\" is not");
  check_usage_error({"run", "--temp", "nan"}, "--temp: \"nan\" is not a number from 0");
  check_usage_error({"run", "--temp", "-1"}, "--temp: \"-1\" is not");
  check_usage_error({"run", "--top-p", "1.5"}, "--top-p: \"1.5\" is not a number from 0 to 1");
  check_usage_error({"run", "--min-p", ""}, "--min-p: \"\" is not");
  check_usage_error({"run", "--repeat-penalty", "0"}, "--repeat-penalty: \"0\" is not");
  check_usage_error({"run", "--vram", "-8"}, "--vram: \"-8\" is not");
  check_usage_error({"bench", "-r", "0"}, "--repetitions: \"0\" is not");
}

TEST_CASE("an unknown name lists the known ones") {
  check_usage_error({"run", "--device", "gpu"},
                    "--device: \"gpu\" is not one of auto, cpu, cuda, sim");
  check_usage_error({"run", "--cache-policy", "LRU"}, "--cache-policy: \"LRU\" is not one of ");
  check_usage_error({"run", "--policy", "fifo"}, "scheduling policy \"fifo\" is not built in");
  check_usage_error({"run", "-ctk", "q4_1"},
                    "--cache-type-k: \"q4_1\" is not one of f16, f32, q8_0");
  check_usage_error({"bench", "-o", "xml"}, "--output: \"xml\" is not one of md, csv, json, jsonl");
  check_usage_error({"run", "--machine", "cray"}, "machine profile \"cray\" is not built in");
  check_usage_error({"chat", "--chat-template", "nope"}, "chatml");
}

TEST_CASE("every command with an engine refuses a policy that knows the future") {
  const std::vector<std::vector<std::string>> commands{
      {"run", "-p", "a"},
      {"chat", "--chat-template", "chatml"},
      {"bench"},
      {"perplexity", "-f", source_file("demo/heldout.txt")},
      {"logits", "--tokens", "1", "--out", "/dev/null"}};
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"--policy", "clairvoyant"});
    check_usage_error(command, "policy \"clairvoyant\" knows the future");
  }
}

TEST_CASE("a value that is missing, doubled or empty is an error") {
  check_usage_error({"run", "-p"}, "--prompt needs one value");
  check_usage_error({"run", "-n", "1", "-n", "2"}, "--predict needs one value");
  check_usage_error({"run", "-m", ""}, "--model: is empty");
  check_usage_error({"run", "--config", ""}, "--config: is empty");
  check_usage_error({"run", "-p", "a", "-f", "b"}, "excludes");
  check_usage_error({"bench", "--json", "-o", "csv"}, "excludes");
  check_usage_error({"logits", "--tokens", "1"}, "--out is required");
  check_usage_error({"perplexity"}, "--file is required");
}

TEST_CASE("threads from 0 to all that make sense are taken, and shown") {
  const auto json = [](const char* threads) {
    return tandem({"run", "-p", "a", "-n", "2", "--json", "-t", threads}).json();
  };
  const auto automatic = json("0")["settings"]["threads"];
  CHECK(automatic["requested"] == "auto");
  CHECK(contains(automatic["reason"].get<std::string>(), "physical core"));
  CHECK(json("3")["settings"]["threads"]["effective"] == "3");
}

TEST_CASE("the instruction set of the kernels is shown, and who chose it") {
  const Strings run{"run", "-p", "a", "-n", "1", "--json"};
  const Strings known{"avx512-amx", "avx512-bf16", "avx512", "avx2", "scalar"};
  const std::string chosen = tandem(run).json()["settings"]["kernels"]["effective"];
  CHECK(std::count(known.begin(), known.end(), chosen) == 1);
  const ReferenceArithmetic scalar;
  const auto forced = tandem(run).json()["settings"]["kernels"];
  CHECK(forced["requested"] == "scalar");
  CHECK(forced["effective"] == "scalar");
}

TEST_CASE("what becomes of NUMA nodes is shown") {
  const auto json = tandem({"run", "-p", "a", "-n", "2", "--json", "--numa", "off"}).json();
  CHECK(json["settings"]["numa"]["requested"] == "off");
  CHECK(json["settings"]["numa"]["effective"] == "off");
}

TEST_CASE("too little VRAM is one line that says how much and what to change") {
  const Outcome run = tandem({"run", "-p", "a", "--device", "sim", "--vram", "1"});
  INFO(run.err);
  CHECK(run.exit_code == 1);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "MiB"));
  CHECK(contains(run.err, "raise --vram"));
}

TEST_CASE("a context that no machine has memory for is refused") {
  const Outcome run = tandem({"run", "-p", "a", "-n", "1", "-c", "268435456"});
  INFO(run.err);
  CHECK(run.exit_code == 1);
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "lower -c or -b"));
  CHECK_FALSE(contains(run.err, "--vram"));  // the CPU has none
}

TEST_CASE("heads that a KV cache in q8_0 cannot hold are refused in one line") {
  const std::string model = source_file("tests/fixtures/families/qwen3moe-f32.gguf");
  for (const std::string command : {"run", "plan"}) {
    std::vector<std::string> arguments{command, "-m", model, "-ctv", "q8_0"};
    if (command == "run") arguments.insert(arguments.end(), {"-p", "a"});
    const Outcome outcome = tandem(arguments);
    INFO(outcome.err);
    CHECK(outcome.exit_code != 0);
    CHECK(outcome.out.empty());
    CHECK(line_count(outcome.err) == 1);
    CHECK(contains(outcome.err, "-ctv is q8_0; expected heads whose values are a multiple of 32"));
  }
}

}  // namespace tandem::test
