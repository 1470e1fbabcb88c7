// tandem refactor, as a user's shell sees it, on a small dense model of random weights.
#include <cmath>
#include <filesystem>
#include <random>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_builder.h"

namespace tandem::test {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

constexpr uint32_t kVocab = 257;

std::string utf8(uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// A token a byte, as GPT-2 writes them, and one that ends texts.
void add_tokenizer(GgufBuilder* b) {
  Strings tokens;
  std::vector<int32_t> types(kVocab, 1);
  uint32_t moved = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool as_it_is = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    tokens.push_back(utf8(as_it_is ? byte : moved++));
  }
  tokens.push_back("<|endoftext|>");
  types.back() = 3;
  b->add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", "gpt-2");
  b->add_strings("tokenizer.ggml.tokens", tokens).add_array("tokenizer.ggml.token_type", types);
  b->add_strings("tokenizer.ggml.merges", {}).add_u32("tokenizer.ggml.bos_token_id", 256);
  b->add_u32("tokenizer.ggml.eos_token_id", 256).add("tokenizer.ggml.add_bos_token", true);
}

void write_dense(const std::string& path) {
  constexpr uint64_t kWidth = 32;
  constexpr uint64_t kInner = 192;
  GgufBuilder b;
  b.add("general.architecture", "llama").add("general.name", "dense");
  for (const auto& [key, value] : {std::pair{"block_count", 2U},
                                   {"context_length", 1000U},
                                   {"embedding_length", 32U},
                                   {"feed_forward_length", 192U},
                                   {"attention.head_count", 2U}}) {
    b.add_u32(std::string("llama.") + key, value);
  }
  add_tokenizer(&b);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.2F);
  const auto add = [&](const std::string& name, const std::vector<uint64_t>& ne) {
    std::vector<float> values(ne[0] * (ne.size() > 1 ? ne[1] : 1));
    for (float& value : values) value = ne.size() > 1 ? normal(random) : 1;
    b.add_tensor_f32(name + ".weight", ne, values);
  };
  add("token_embd", {kWidth, kVocab});
  add("output_norm", {kWidth});
  for (const std::string& p : {std::string("blk.0."), std::string("blk.1.")}) {
    for (const char* name : {"attn_norm", "ffn_norm"}) add(p + name, {kWidth});
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      add(p + name, {kWidth, kWidth});
    }
    for (const char* name : {"ffn_gate", "ffn_up"}) add(p + name, {kWidth, kInner});
    add(p + "ffn_down", {kInner, kWidth});
  }
  b.write_file(path);
}

struct Numbers {
  const char* window = "64";
  const char* steps = "20";
  const char* threads = "2";
};

Outcome refactor(const TempDir& dir, const Strings& more = {}, const Numbers& numbers = {},
                 const Invocation& how = {}) {
  write_dense(dir / "dense.gguf");
  write_file(dir / "stories.txt", read_file(source_file("demo/heldout.txt")).substr(0, 4000));
  write_file(dir / "code.txt", read_file(source_file("kernels/dense.cc")).substr(0, 4000));
  Strings args{"refactor", "-m", dir / "dense.gguf", "-f"};
  args.push_back((dir / "stories.txt") + "," + (dir / "code.txt"));
  for (const std::string& arg : Strings{"--out", dir / "moe.gguf", "-c", numbers.window, "--steps",
                                        numbers.steps, "-t", numbers.threads}) {
    args.push_back(arg);
  }
  args.insert(args.end(), more.begin(), more.end());
  return tandem(args, how);
}

TEST_CASE("a dense model is refactored, with its router beside it, and the report says how well") {
  const TempDir dir;
  const Outcome done = refactor(dir, {"--json"});
  INFO(done.err);
  REQUIRE(done.exit_code == 0);
  const nlohmann::json report = done.json();
  CHECK(report["bytes"] == fs::file_size(dir / "moe.gguf"));
  CHECK(report["side_car"] == dir / "moe.pregate.safetensors");
  CHECK(report["side_car_bytes"] == fs::file_size(dir / "moe.pregate.safetensors"));
  CHECK(report["kept_channels"] == 96);
  CHECK(report["shared_channels"].get<int>() + report["expert_channels"].get<int>() == 96);
  CHECK(report["shared_channels"].get<int>() % 32 == 0);
  CHECK(report["scored"] == true);
  CHECK(report["router"]["validation_accuracy"].get<double>() > 0);
  REQUIRE(report["domains"].size() == 2);
  CHECK(report["domains"][0]["domain"] == "stories");
  for (const auto& domain : report["domains"]) {
    CHECK(domain["training_tokens"] == 3600);
    CHECK(domain["held_out_tokens"] == 400);
    CHECK(domain["windows"] == 6);
    CHECK(domain["routed_tokens"][0].get<int>() + domain["routed_tokens"][1].get<int>() == 6 * 64);
    // Random weights know nothing of text: no better than all tokens alike, and not absurd.
    for (const char* key : {"perplexity_dense", "perplexity_own_expert", "perplexity_routed"}) {
      CHECK((domain[key].get<double>() > kVocab / 2.0 && domain[key].get<double>() < 1e4));
    }
  }
  const std::string model = read_file(dir / "moe.gguf");
  CHECK(contains(model, "readme-moe.router.sha256"));
  CHECK(contains(model, "blk.1.ffn_down_exps.weight"));
  CHECK_FALSE(contains(model, "blk.1.ffn_down.weight"));
}

TEST_CASE("a refactored model runs, is traced and fitted to nothing, and wants its router") {
  const TempDir dir;
  REQUIRE(refactor(dir).exit_code == 0);
  const std::string moe = dir / "moe.gguf";
  const auto run = [&](const Strings& more) {
    Strings args{"run", "-m", moe, "-p", "Once upon", "-n", "8", "--temp", "0", "--ignore-eos"};
    args.insert(args.end(), more.begin(), more.end());
    return tandem(args);
  };
  const Outcome cpu = run({"--device", "cpu", "--json"});
  INFO(cpu.err);
  REQUIRE(cpu.exit_code == 0);
  const Outcome sim = run({"--device", "sim", "--moe-expert-cache", "3", "--cache-policy",
                           "windowed-belady", "--json"});
  INFO(sim.err);
  REQUIRE(sim.exit_code == 0);
  CHECK(sim.json()["token_ids"] == cpu.json()["token_ids"]);
  CHECK(sim.json()["settings"]["predictor"]["effective"] == "decoupled");

  write_file(dir / "prompts.txt", "Once upon\n");
  const Outcome traced = tandem({"trace", "-m", moe, "-f", dir / "prompts.txt", "-n", "8", "--out",
                                 dir / "t.trace", "--json", "--ignore-eos"});
  INFO(traced.err);
  REQUIRE(traced.exit_code == 0);
  CHECK(traced.json()["lookahead"] == "decoupled");
  CHECK(traced.json()["recall"][0] == 1);

  const auto refused = [](const Outcome& outcome, const std::string& why, int exit_code = 2) {
    INFO(outcome.err);
    CHECK(outcome.exit_code == exit_code);
    CHECK(line_count(outcome.err) == 1);
    CHECK(contains(outcome.err, why));
  };
  refused(
      tandem({"pregate", "collect", "-m", moe, "-f", dir / "prompts.txt", "--out", dir / "taps"}),
      "have no routers: there is nothing to guess");
  refused(
      tandem({"run", "-p", "x", "-n", "1", "--device", "sim", "--cache-policy", "windowed-belady"}),
      "only tandem simulate can use it, and runs of refactored models");
  refused(run({"--pregate", "none"}), "have no routers; expected --pregate FILE");
  refused(run({"--pregate", source_file("demo/hearthside-q8_0.pregate.safetensors")}),
          "have no routers; expected --pregate FILE");
  refused(tandem({"run", "-p", "x", "-n", "1", "--pregate", dir / "moe.pregate.safetensors"}),
          "routers of its own", 1);  // a file that is wrong
}

TEST_CASE("the same refactoring on other threads gives the same files") {
  const TempDir dir;
  REQUIRE(refactor(dir).exit_code == 0);
  const std::string model = read_file(dir / "moe.gguf");
  const std::string router = read_file(dir / "moe.pregate.safetensors");
  const Outcome again = refactor(dir, {}, {.threads = "1"});
  REQUIRE(again.exit_code == 0);
  CHECK(read_file(dir / "moe.gguf") == model);
  CHECK(read_file(dir / "moe.pregate.safetensors") == router);
  CHECK(again.out.empty());
  for (const char* part : {"96 of 192 kept", "perplexity", "stories", "code", "wrote"}) {
    CHECK(contains(again.err, part));
  }
}

TEST_CASE("what cannot be refactored is one line, and writes nothing") {
  const TempDir dir;
  const auto fails = [&](const Strings& more, const Numbers& numbers, const char* why) {
    const Outcome outcome = refactor(dir, more, numbers);
    INFO(outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(contains(outcome.err, why));
    CHECK(line_count(outcome.err) == 1);
    CHECK_FALSE(fs::exists(dir / "moe.gguf"));
  };
  fails({}, {.window = "512"}, "stories has 4000 tokens; expected at least 5120");
  fails({}, {.window = "1024"}, "-c is 1024, more than the 1000 tokens that the model was trained");
  fails({"--keep", "0"}, {}, "\"0\" is not a number from 0.01 to 1");
  const Outcome one = tandem(
      {"refactor", "-m", dir / "dense.gguf", "-f", dir / "code.txt", "--out", dir / "moe.gguf"});
  CHECK(one.exit_code == 2);
  CHECK(contains(one.err, "-f names 1 texts; expected 2 to 64, one a domain"));
  const Outcome built_in = tandem({"refactor", "-f", dir / "code.txt", "--out", dir / "moe.gguf"});
  CHECK(built_in.exit_code == 2);
  CHECK(contains(built_in.err, "give a dense model with -m"));
  const Outcome experts =
      tandem({"refactor", "-m", source_file("demo/hearthside-q8_0.gguf"), "-f",
              (dir / "stories.txt") + "," + (dir / "code.txt"), "--out", dir / "moe.gguf"});
  CHECK(experts.exit_code == 1);
  CHECK(contains(experts.err, "a dense model to refactor is llama or qwen3"));
  const Outcome itself =
      tandem({"refactor", "-m", dir / "dense.gguf", "-f",
              (dir / "stories.txt") + "," + (dir / "code.txt"), "--out", dir / "dense.gguf"});
  CHECK(itself.exit_code == 2);
  CHECK(contains(itself.err, "--out is the dense model's own file"));
}

TEST_CASE("Ctrl-C ends a refactoring without files") {
  const TempDir dir;
  Invocation how;
  how.errors_to_terminal = true;
  how.interrupt_at = "training the router";
  const Outcome outcome = refactor(dir, {}, {.steps = "1000000"}, how);
  CHECK(outcome.exit_code == 130);
  CHECK(contains(outcome.err, "interrupted"));
  CHECK_FALSE(fs::exists(dir / "moe.gguf"));
  CHECK_FALSE(fs::exists(dir / "moe.pregate.safetensors"));
}

}  // namespace
}  // namespace tandem::test
