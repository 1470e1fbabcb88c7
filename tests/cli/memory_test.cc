// How much memory a model takes, of a file that is large beside the program.
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

#ifdef TANDEM_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Two llama layers of 16 experts, 200 MB of F16 that is all zeros, and a vocabulary of four.
void write_model(const std::string& path) {
  constexpr uint64_t kWidth = 512;
  constexpr uint64_t kFf = 2048;
  constexpr uint64_t kExperts = 16;
  constexpr uint32_t kLayers = 2;
  constexpr uint32_t kF16 = 1;
  GgufBuilder b;
  b.add("general.architecture", std::string("llama"));
  b.add_u32("llama.block_count", kLayers);
  b.add_u32("llama.context_length", 64);
  b.add_u32("llama.embedding_length", kWidth);
  b.add_u32("llama.attention.head_count", 8);
  b.add_u32("llama.expert_count", kExperts);
  b.add_u32("llama.expert_used_count", 2);
  b.add("tokenizer.ggml.model", std::string("llama"));
  b.add_strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a"});
  b.add_array("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1});
  b.add_array("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1});
  const auto norm = [&](const std::string& name) {
    b.add_tensor_f32(name, {kWidth}, std::vector<float>(kWidth, 1.0F));
  };
  const auto zeros = [&](const std::string& name, const std::vector<uint64_t>& ne) {
    size_t n = 2;
    for (const uint64_t size : ne) n *= size;
    b.add_tensor(name, kF16, ne, Bytes(n));
  };
  zeros("token_embd.weight", {kWidth, 4});
  norm("output_norm.weight");
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    norm(prefix + "attn_norm.weight");
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      zeros(prefix + name + ".weight", {kWidth, kWidth});
    }
    norm(prefix + "ffn_norm.weight");
    zeros(prefix + "ffn_gate_inp.weight", {kWidth, kExperts});
    zeros(prefix + "ffn_gate_exps.weight", {kWidth, kFf, kExperts});
    zeros(prefix + "ffn_up_exps.weight", {kWidth, kFf, kExperts});
    zeros(prefix + "ffn_down_exps.weight", {kFf, kWidth, kExperts});
  }
  b.write_file(path);
}

}  // namespace

TEST_CASE("a model takes its file's size and a tenth in memory, and a fifth while it loads") {
  if (kSanitized) {
    WARN("skipped: sanitizers keep memory of their own");
    return;
  }
  const TempDir dir;
  write_model(dir / "big.gguf");
  // The program itself, its built-in model, buffers of a thread: what is there without a model.
  constexpr double kProgram = 48.0 * (1 << 20);
  using Strings = std::vector<std::string>;
  for (const Strings& how :
       {Strings{}, Strings{"--no-mmap"}, Strings{"--no-repack"},
        Strings{"--no-mmap", "--no-repack"}, Strings{"--device", "sim", "--vram", "64"}}) {
    Strings arguments{"run", "-m", dir / "big.gguf", "-p", "a", "-n", "4", "-c", "64", "--json"};
    arguments.insert(arguments.end(), how.begin(), how.end());
    const Outcome run = tandem(arguments);
    INFO(run.err);
    REQUIRE(run.exit_code == 0);
    const nlohmann::json memory = run.json()["memory"];
    INFO(memory.dump());
    const auto bytes = [&](const char* key) { return memory[key].get<double>(); };
    CHECK(bytes("file_bytes") > 200e6);
    CHECK(bytes("loading_peak_bytes") <= 1.2 * bytes("file_bytes") + kProgram);
    CHECK(bytes("loaded_bytes") <= 1.1 * bytes("file_bytes") + kProgram);
    // With a GPU, its memory lies in this process, too.
    const double vram = how.size() > 2 ? 64.0 * (1 << 20) : 0;
    CHECK(bytes("peak_bytes") <= 1.2 * bytes("file_bytes") + kProgram + vram);
    CHECK(bytes("peak_bytes") >= bytes("loaded_bytes"));
  }
}

}  // namespace tandem::test
