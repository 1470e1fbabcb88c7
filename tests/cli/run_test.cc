#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

Strings story(const Strings& more) {
  Strings all{"run", "-p", "Once upon a time", "--temp", "0"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

nlohmann::json golden() {
  return nlohmann::json::parse(read_file(source_file("demo/golden.json")))["Q8_0"];
}

}  // namespace

TEST_CASE("run continues the demo prompt greedily as the reference does") {
  const Outcome run = tandem(story({"-n", "48"}));
  INFO(run.err);
  CHECK(run.exit_code == 0);
  CHECK(run.out == golden()["text"].get<std::string>() + "\n");
}

TEST_CASE("run writes the same greedy text with the simulated GPU as on the CPU") {
  for (const std::string vram : {"8", "9", "64"}) {
    const Outcome run = tandem(story({"-n", "48", "--device", "sim", "--vram", vram}));
    INFO(vram << " MiB\n" << run.err);
    CHECK(run.out == golden()["text"].get<std::string>() + "\n");
  }
}

TEST_CASE("run writes the reference's text with a KV cache in q8_0 on every device") {
  for (const std::string device : {"cpu", "sim", "sim-cuda"}) {
    const Outcome run =
        tandem(story({"-n", "12", "--device", device, "-ctk", "q8_0", "-ctv", "q8_0"}));
    INFO(device << "\n" << run.err);
    CHECK(run.exit_code == 0);
    CHECK(run.out.size() > 40);
    const std::string text = run.out.substr(0, run.out.size() - 1);  // without the newline
    CHECK(golden()["text"].get<std::string>().rfind(text, 0) == 0);
    CHECK(contains(run.err, "kv cache      K q8_0, V q8_0"));
  }
}

TEST_CASE("run keeps text on standard output and the summary on standard error") {
  const Outcome run = tandem(story({"-n", "3", "--device", "sim", "--vram", "8"}));
  CHECK(run.out == "Once upon a time there lived a\n");
  for (const char* part :
       {"model ", "load ", "device ", "expert slots ", "cache policy ", "vram ", "sampling ",
        "prefill ", "decode ", "tokens/s measured here", "modelled for rtx3060-ddr4", "cache ",
        " hits, ", "experts ", "on the GPU, ", " on the CPU", "from host to device", "stopped ",
        "limit"}) {
    INFO(part << " in " << run.err);
    CHECK(contains(run.err, part));
  }
}

TEST_CASE("run says what was asked for and why something else happened") {
  const Outcome run =
      tandem(story({"-n", "1", "--vram", "8", "--moe-expert-cache", "5", "-c", "600"}));
  CHECK(contains(run.err, "0 of 192 (requested 5): the CPU runs every expert"));
  // What comes first depends on the machine: tests/device/cuda_probe_test.cc.
  CHECK(contains(run.err, "cpu (requested auto): "));
  CHECK(contains(run.err, "; --device sim simulates one\n"));
  CHECK(contains(run.err, "none (requested 8.00 MiB)"));
  CHECK(contains(run.err, "600: the model was trained for 512 only"));
}

TEST_CASE("run takes a policy by name or from a file, and flags that override it") {
  const auto settings = [](const std::vector<std::string>& more) {
    std::vector<std::string> args{"-n", "1", "--json", "--device", "sim", "--vram", "9"};
    args.insert(args.end(), more.begin(), more.end());
    const Outcome run = tandem(story(args));
    INFO(run.err);
    REQUIRE(run.exit_code == 0);
    return run.json()["settings"];
  };
  const nlohmann::json standard = settings({});
  CHECK(standard["policy"]["effective"] == "tandem");
  CHECK(standard["cache policy"]["effective"] == "learned");
  CHECK(standard["predictor"]["requested"] == "gate-reuse");
  CHECK(standard["predictor"]["effective"] == "pregate");
  const nlohmann::json file = settings({"--policy", source_file("configs/policies/hybrimoe.toml")});
  CHECK(file["policy"]["effective"] == "hybrimoe");
  CHECK(file["pool"]["effective"] == "per-layer");
  const nlohmann::json overridden =
      settings({"--cache-policy", "lfu", "--moe-expert-cache-inserts", "7"});
  CHECK(overridden["policy"]["effective"] == "tandem");
  CHECK(overridden["cache policy"]["effective"] == "lfu");
  CHECK(overridden["cache inserts"]["effective"] == "7");
}

TEST_CASE("run --json prints one object with the promised keys and types") {
  const Outcome run = tandem(story({"-n", "16", "--json", "--device", "sim", "--vram", "8"}));
  REQUIRE(run.exit_code == 0);
  CHECK(run.err.empty());
  const nlohmann::json json = run.json();
  CHECK(json["prompt_tokens"] == 5);
  CHECK(json["tokens"] == 16);
  CHECK(json["token_ids"].size() == 16);
  CHECK(json["text"].is_string());
  for (const char* key : {"load_seconds", "prefill_tps", "decode_tps", "modelled_decode_tps"}) {
    INFO(key);
    REQUIRE(json[key].is_number());
    CHECK(json[key].get<double>() > 0);
  }
  for (const char* key :
       {"cache_hits", "cache_misses", "experts_cpu", "experts_gpu", "bytes_h2d", "seed"}) {
    INFO(key);
    CHECK(json[key].is_number_unsigned());
  }
  CHECK(json["experts_gpu"].get<int>() > 0);
  CHECK(json["bytes_h2d"].get<int>() > 0);
  CHECK(json["settings"]["device"]["effective"] == "sim");
  CHECK(json["settings"]["vram"]["requested"] == "8.00 MiB");
}

TEST_CASE("run starts with the hot set of an earlier run, and writes the same text") {
  const TempDir dir;
  const std::string path = dir / "hot.toml";
  const auto short_run = [&](std::vector<std::string> more) {
    std::vector<std::string> all{"-n", "8", "--json", "--device", "sim", "--moe-expert-cache",
                                 "96"};
    all.insert(all.end(), more.begin(), more.end());
    const Outcome run = tandem(story(all));
    REQUIRE(run.exit_code == 0);
    return run.json();
  };
  const nlohmann::json cold = short_run({"--save-hot-set", path});
  const nlohmann::json warm = short_run({"--hot-set", path});
  CHECK(warm["text"] == cold["text"]);
  CHECK(warm["cache_misses"].get<int>() < cold["cache_misses"].get<int>());
  CHECK(warm["settings"]["hot set"]["effective"] == "96 experts");
  // Without slots it says so; without a fitting model it refuses.
  const nlohmann::json none = tandem(story({"-n", "1", "--json", "--hot-set", path})).json();
  CHECK(none["settings"]["hot set"]["reason"] == "there are no expert slots");
  const Outcome other =
      tandem({"run", "-m", family_model("qwen3moe-f32"), "-p", "a", "-n", "1", "--hot-set", path});
  CHECK(other.exit_code != 0);
  CHECK(contains(other.err, path));
  const Outcome nothing = tandem(story({"-n", "1", "--save-hot-set", dir / "none.toml"}));
  CHECK(nothing.exit_code == 2);
  CHECK(contains(nothing.err, "no expert slots"));
  CHECK_FALSE(std::filesystem::exists(dir / "none.toml"));
  // Of the same model with other routers it is refused as well.
  std::string text = read_file(path);
  const size_t hash = text.find("router_hash = \"") + 15;
  text[hash] = text[hash] == '0' ? '1' : '0';
  const std::string changed = dir / "changed.toml";
  std::ofstream(changed) << text;
  const Outcome refused = tandem(story({"-n", "1", "--hot-set", changed}));
  CHECK(refused.exit_code == 2);
  CHECK(contains(refused.err, "router_hash"));
}

TEST_CASE("run --json counts every expert once, on the CPU or on the GPU") {
  // Tokens one by one: every layer of every step asks for top-4.
  const nlohmann::json cpu = tandem(story({"-n", "10", "-b", "1", "--json"})).json();
  const nlohmann::json sim =
      tandem(story({"-n", "10", "-b", "1", "--json", "--device", "sim", "--vram", "8"})).json();
  const int steps = 5 + 9;
  CHECK(cpu["experts_cpu"] == steps * 6 * 4);
  CHECK(cpu["experts_gpu"] == 0);
  CHECK(sim["experts_cpu"].get<int>() + sim["experts_gpu"].get<int>() +
            sim["experts_split"].get<int>() ==
        steps * 6 * 4);
  CHECK(sim["cache_hits"].get<int>() + sim["cache_misses"].get<int>() == steps * 6 * 4);
}

TEST_CASE("run draws the same text from the same seed and another from another") {
  const auto draw = [](const std::string& seed) {
    return tandem({"run", "-p", "Once", "-n", "40", "-s", seed}).out;
  };
  CHECK(draw("5") == draw("5"));
  CHECK(draw("5") != draw("6"));
}

TEST_CASE("run repeats a random run from the seed in its summary") {
  const nlohmann::json first = tandem({"run", "-p", "Once", "-n", "20", "--json"}).json();
  const nlohmann::json second = tandem({"run", "-p", "Once", "-n", "20", "--json", "-s",
                                        std::to_string(first["seed"].get<uint32_t>())})
                                    .json();
  CHECK(first["text"] == second["text"]);
}

TEST_CASE("run writes whole UTF-8 characters only, at every moment") {
  std::set<std::string> characters;
  for (const char* seed : {"1", "2", "3", "4"}) {
    // Nearly uniform draws of byte tokens: mostly broken UTF-8, now and then a whole character.
    const Outcome run = tandem({"run",
                                "-m",
                                family_model("qwen3moe-f32"),
                                "-p",
                                "é",
                                "-n",
                                "400",
                                "-c",
                                "420",
                                "--ignore-eos",
                                "-s",
                                seed,
                                "--temp",
                                "100",
                                "--top-k",
                                "0",
                                "--top-p",
                                "1",
                                "--min-p",
                                "0"});
    REQUIRE(run.exit_code == 0);
    for (const std::string& piece : run.pieces) CHECK(is_utf8(piece));
    CHECK(contains(run.out, "\xef\xbf\xbd"));  // what cannot become a character
    for (size_t i = 0; i + 1 < run.out.size(); ++i) {
      const auto byte = static_cast<unsigned char>(run.out[i]);
      if (byte >= 0xc2 && byte <= 0xdf) characters.insert(run.out.substr(i, 2));
    }
  }
  CHECK(characters.size() > 1);  // "é" of the prompt and others
}

TEST_CASE("weights are packed unless --no-repack says otherwise, and the text is the same") {
  const std::vector<std::string> story{"run", "-p", "Once upon a time", "-n", "24", "--temp", "0"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = story;
    all.insert(all.end(), more.begin(), more.end());
    return tandem(all);
  };
  const Outcome packed = with({});
  const Outcome mapped = with({"--no-repack"});
  const Outcome by_llamas_name = with({"-nr"});
  CHECK(packed.exit_code == 0);
  CHECK(contains(packed.err, "packed for the CPU"));
  CHECK_FALSE(contains(mapped.err, "packed for the CPU"));
  CHECK(contains(mapped.err, "as in the file"));
  CHECK(contains(by_llamas_name.err, "as in the file"));
  CHECK(packed.out == mapped.out);
  CHECK(packed.out == by_llamas_name.out);
}

TEST_CASE("run -n 0 reads the prompt and writes nothing") {
  const Outcome run = tandem(story({"-n", "0"}));
  CHECK(run.exit_code == 0);
  CHECK(run.out == "Once upon a time\n");
  const nlohmann::json json = tandem(story({"-n", "0", "--json"})).json();
  CHECK(json["tokens"] == 0);
  CHECK(json["prompt_tokens"] == 5);
  CHECK(json["text"] == "");
}

TEST_CASE("run stops when the context is full and says so") {
  const Outcome run = tandem(story({"-c", "16", "--ignore-eos", "--json"}));
  REQUIRE(run.exit_code == 0);
  CHECK(run.json()["stopped"] == "context full");
  // The token after the last position is known, but cannot be read any more.
  CHECK(run.json()["tokens"] == 16 - 5 + 1);
}

TEST_CASE("run --no-display-prompt leaves the prompt out") {
  CHECK(tandem(story({"-n", "3", "--no-display-prompt"})).out == " there lived a\n");
}

TEST_CASE("run --ignore-eos goes on where the model would end") {
  int ended = 0;
  for (int seed = 1; seed <= 40 && ended < 2; ++seed) {  // about one in six ends
    const Strings args{"run", "-p", "The end.", "-c", "500", "-s", std::to_string(seed), "--json"};
    if (tandem(args).json()["stopped"] != "end of generation") continue;
    ++ended;
    Strings on = args;
    on.push_back("--ignore-eos");
    const nlohmann::json json = tandem(on).json();
    CHECK(json["stopped"] == "context full");
    CHECK(json["tokens"] == 500 - json["prompt_tokens"].get<int>() + 1);
  }
  CHECK(ended > 0);
}

TEST_CASE("two runs at once write the same as one alone") {
  const Strings args = story({"-n", "48"});
  Process first(args, {});
  Process second(args, {});
  const Outcome a = first.wait();
  const Outcome b = second.wait();
  CHECK(a.exit_code == 0);
  CHECK(a.out == golden()["text"].get<std::string>() + "\n");
  CHECK(b.out == a.out);
}

TEST_CASE("run shows progress on a terminal and none in a file") {
  const std::string prompt = read_file(source_file("demo/heldout.txt")).substr(0, 3000);
  Invocation how;
  how.in = prompt;
  how.errors_to_terminal = true;
  const Strings args{"run", "-c", "2000", "-b", "64", "-n", "1"};
  const Outcome watched = tandem(args, how);
  CHECK(contains(watched.err, "loading the built-in demo model"));
  CHECK(contains(watched.err, "reading the prompt: "));
  how.errors_to_terminal = false;
  CHECK_FALSE(contains(tandem(args, how).err, "reading the prompt"));
}

TEST_CASE("a GPU that is asked for and not there is one clear line") {
  const Outcome run = tandem({"run", "-p", "x", "-n", "1", "--device", "cuda"});
  if (run.exit_code == 0) {
    WARN("skipped: there is a GPU");
    return;
  }
  CHECK(run.exit_code == 2);
  CHECK(run.out.empty());
  CHECK(contains(run.err, "tandem: --device cuda: "));
  CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
}

}  // namespace tandem::test
