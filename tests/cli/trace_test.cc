// tandem trace, with a reader of its own for the format that runtime/trace/README.md describes.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int kLayers = 6;
constexpr int kExperts = 32;
constexpr int kTopK = 4;
constexpr int kRanks = 8;
constexpr int kAhead = 3;

struct Step {
  uint32_t sequence, phase, tokens;
};

struct Token {
  uint8_t ids[kLayers][kRanks];
  uint16_t weights[kLayers][kRanks];
  uint8_t predicted[kLayers][kAhead][kTopK];
};
static_assert(sizeof(Token) == kLayers * (kRanks * 3 + kAhead * kTopK), "no padding");

struct TraceFile {
  nlohmann::json header;
  std::vector<Step> steps;
  std::vector<Token> tokens;
};

template <typename T>
T take(std::string_view* bytes) {
  REQUIRE(bytes->size() >= sizeof(T));
  T value;
  std::memcpy(&value, bytes->data(), sizeof value);
  bytes->remove_prefix(sizeof value);
  return value;
}

TraceFile read_trace(const std::string& path) {
  const std::string image = read_file(path);
  std::string_view bytes(image);
  REQUIRE(bytes.substr(0, 8) == "TANDEMRT");
  bytes.remove_prefix(8);
  CHECK(take<uint32_t>(&bytes) == 2);
  const auto n_header = take<uint32_t>(&bytes);
  TraceFile file;
  file.header = nlohmann::json::parse(bytes.substr(0, n_header));
  bytes.remove_prefix(n_header);
  const auto n_steps = take<uint64_t>(&bytes);
  const auto n_tokens = take<uint64_t>(&bytes);
  for (uint64_t i = 0; i < n_steps; ++i) file.steps.push_back(take<Step>(&bytes));
  for (uint64_t i = 0; i < n_tokens; ++i) file.tokens.push_back(take<Token>(&bytes));
  CHECK(bytes.size() == 4);  // the checksum
  return file;
}

// Of a positive number in IEEE half precision.
double half(uint16_t bits) {
  const int exponent = bits >> 10;
  const double fraction = (bits & 0x3ff) / 1024.0;
  return exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
}

struct Recorded {
  Outcome run;
  TraceFile file;
};

Recorded record(const std::string& prompts, std::vector<std::string> more) {
  const TempDir dir;
  write_file(dir / "prompts.txt", prompts);
  more.insert(more.begin(),
              {"trace", "-f", dir / "prompts.txt", "--out", dir / "t.trace", "--json"});
  Recorded recorded{tandem(more), {}};
  INFO(recorded.run.err);
  REQUIRE(recorded.run.exit_code == 0);
  recorded.file = read_trace(dir / "t.trace");
  CHECK(recorded.run.json()["bytes"] == std::filesystem::file_size(dir / "t.trace"));
  return recorded;
}

// Of the guesses for tokens that were decoded, made so many layers before.
double decoded_recall(const TraceFile& file, int ahead) {
  int right = 0;
  int all = 0;
  size_t t = 0;
  for (const Step& step : file.steps) {
    for (uint32_t i = 0; i < step.tokens; ++i, ++t) {
      if (step.tokens > 1) continue;
      for (int l = 0; l + ahead < kLayers; ++l) {
        const auto& used = file.tokens[t].ids[l + ahead];
        for (const uint8_t id : file.tokens[t].predicted[l][ahead - 1]) {
          right += std::count(used, used + kTopK, id) > 0 ? 1 : 0;
          ++all;
        }
      }
    }
  }
  return static_cast<double>(right) / all;
}

bool same_ids(const TraceFile& a, const TraceFile& b) {
  if (a.tokens.size() != b.tokens.size()) return false;
  for (size_t t = 0; t < a.tokens.size(); ++t) {
    for (int l = 0; l < kLayers; ++l) {
      if (std::memcmp(a.tokens[t].ids[l], b.tokens[t].ids[l], kTopK) != 0) return false;
    }
  }
  return true;
}

std::string complaint(const std::string& prompts, std::vector<std::string> more, int exit_code) {
  const TempDir dir;
  write_file(dir / "prompts.txt", prompts);
  more.insert(more.begin(), {"trace", "-f", dir / "prompts.txt", "--out", dir / "t.trace"});
  const Outcome run = tandem(more);
  INFO(run.err);
  CHECK(run.exit_code == exit_code);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
  return run.err;
}

constexpr const char* kTwoPrompts =
    "Once upon a time\n---\nOn went Johnny-cake, and by-and-by he came to two diggers.\n";

}  // namespace

TEST_CASE("the trace of the demo's prompt has the golden routing") {
  const ReferenceArithmetic reference;
  const TraceFile file = record("Once upon a time\n", {"-n", "0"}).file;
  const auto golden = nlohmann::json::parse(read_file(source_file("demo/golden.json")))["Q8_0"];
  const auto& routing = golden["routing_prompt"];
  REQUIRE(file.steps.size() == 1);
  CHECK(file.steps[0].phase == 0);
  REQUIRE(file.tokens.size() == golden["prompt_ids"].size());
  REQUIRE(routing.size() == kLayers);
  for (size_t l = 0; l < kLayers; ++l) {
    for (size_t t = 0; t < file.tokens.size(); ++t) {
      const auto& ids = file.tokens[t].ids[l];
      CHECK(std::vector<int>(ids, ids + kTopK) == routing[l][t].get<std::vector<int>>());
    }
  }
}

TEST_CASE("a trace says which model it is of") {
  const nlohmann::json header = record("Once", {"-n", "1"}).file.header;
  CHECK(header["model"] == "Hearthside MoE");
  CHECK(header["model_hash"].get<std::string>().size() == 64);
  CHECK(header["layers"] == kLayers);
  CHECK(header["experts"] == kExperts);
  CHECK(header["top_k"] == kTopK);
  CHECK(header["n_ranks"] == kRanks);
  CHECK(header["n_ahead"] == kAhead);
  CHECK(header["lookahead"] == "gate-reuse");
  CHECK(header["expert_bytes"].size() == kLayers);
  for (const auto& bytes : header["expert_bytes"]) CHECK(bytes == 3 * 256 * 64 * 34 / 32);
}

TEST_CASE("a trace's ids are in range and different, its scores shares of one") {
  const TraceFile file = record(kTwoPrompts, {"-n", "20", "--ignore-eos"}).file;
  REQUIRE(file.tokens.size() > 40);
  for (const Token& token : file.tokens) {
    for (int l = 0; l < kLayers; ++l) {
      double sum = 0;
      std::set<int> different;
      for (int r = 0; r < kRanks; ++r) {
        CHECK(token.ids[l][r] < kExperts);
        different.insert(token.ids[l][r]);
        const double weight = half(token.weights[l][r]);
        if (r > 0) CHECK(weight <= half(token.weights[l][r - 1]));
        CHECK(weight > 0);
        sum += weight;
      }
      CHECK(different.size() == kRanks);
      CHECK(sum <= 1.001);
      for (int a = 0; a < kAhead; ++a) {
        for (const uint8_t id : token.predicted[l][a]) {
          CHECK((l + a + 1 < kLayers ? id < kExperts : id == 255));
        }
      }
    }
  }
}

TEST_CASE("steps of a trace are the prompts' batches and then one token each") {
  const TraceFile file = record(kTwoPrompts, {"-n", "3", "--ignore-eos", "-b", "4"}).file;
  std::vector<std::vector<uint32_t>> prefill(2);
  std::vector<int> decoded(2);
  for (const Step& step : file.steps) {
    REQUIRE(step.sequence < 2);
    if (step.phase == 0) {
      CHECK(decoded[step.sequence] == 0);
      prefill[step.sequence].push_back(step.tokens);
    } else {
      CHECK(step.tokens == 1);
      ++decoded[step.sequence];
    }
  }
  CHECK(prefill[0] == std::vector<uint32_t>{4, 1});
  CHECK(prefill[1].size() > 2);
  CHECK(prefill[1].front() == 4);
  CHECK(decoded == std::vector<int>{2, 2});  // the third token is not read again
}

TEST_CASE("the recall that trace reports is that of the guesses in its file") {
  const Recorded recorded = record(kTwoPrompts, {"-n", "30", "--ignore-eos"});
  const auto recall = recorded.run.json()["recall"].get<std::vector<double>>();
  REQUIRE(recall.size() == kAhead);
  for (int a = 1; a <= kAhead; ++a) {
    int right = 0;
    int all = 0;
    for (const Token& token : recorded.file.tokens) {
      for (int l = 0; l + a < kLayers; ++l) {
        const auto& used = token.ids[l + a];
        for (const uint8_t id : token.predicted[l][a - 1]) {
          right += std::count(used, used + kTopK, id) > 0 ? 1 : 0;
          ++all;
        }
      }
    }
    CHECK(recall[static_cast<size_t>(a) - 1] == Approx(static_cast<double>(right) / all));
    // Chance is an eighth.
    CHECK(right > all / 4);
  }
}

TEST_CASE("a trace says which lookahead its guesses are of") {
  const auto lookahead = [](const std::vector<std::string>& more) {
    const Recorded recorded = record(kTwoPrompts, more);
    CHECK(recorded.run.json()["lookahead"] == recorded.file.header["lookahead"]);
    return recorded.run.json();
  };
  const std::string side_car = source_file("demo/hearthside-q8_0.pregate.safetensors");
  const nlohmann::json reused = lookahead({"-n", "8"});
  CHECK(reused["lookahead"] == "gate-reuse");
  CHECK(reused["pregate"] == "");
  const nlohmann::json fitted = lookahead({"-n", "8", "--pregate", side_car});
  CHECK(fitted["lookahead"] == "linear");
  CHECK(fitted["pregate"] == side_car);
  const nlohmann::json found = lookahead({"-n", "8", "--device", "sim", "--vram", "9"});
  CHECK(found["lookahead"] == "linear");
  CHECK(found["recall"][2].get<double>() > reused["recall"][2].get<double>());
}

TEST_CASE("device and batch size do not change what is recorded") {
  const ReferenceArithmetic reference;
  const TraceFile cpu = record(kTwoPrompts, {"-n", "24", "--ignore-eos"}).file;
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--device", "sim", "--vram", "9"},
        std::vector<std::string>{"--device", "sim", "--vram", "9", "--policy", "ktransformers"},
        std::vector<std::string>{"-b", "3"}}) {
    std::vector<std::string> args{"-n", "24", "--ignore-eos"};
    args.insert(args.end(), more.begin(), more.end());
    CHECK(same_ids(record(kTwoPrompts, args).file, cpu));
  }
}

TEST_CASE("simulate replays a recorded trace with its own guesses on the file it is of") {
  const TempDir dir;
  write_file(dir / "prompts.txt", kTwoPrompts);
  const std::string trace = dir / "t.trace";
  REQUIRE(tandem({"trace", "-f", dir / "prompts.txt", "--out", trace, "-n", "16"}).exit_code == 0);
  const auto simulate = [&](const std::string& shape) {
    return tandem({"simulate", "--trace", trace, "--recorded", "--model-shape", shape, "--json"});
  };
  const Outcome run = simulate(source_file("demo/hearthside-q8_0.gguf"));
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  const nlohmann::json row = run.json()[0];
  CHECK(row["decode_tps"].get<double>() > 0);
  CHECK(row["lookahead"] == "gate-reuse (recorded)");
  const TraceFile file = read_trace(trace);
  for (int a = 1; a <= kAhead; ++a) {
    CHECK(row["lookahead_recall_" + std::to_string(a)].get<double>() ==
          Approx(decoded_recall(file, a)));
  }
  const Outcome other = simulate("olmoe-1b-7b");
  CHECK(other.exit_code == 2);
  CHECK(line_count(other.err) == 1);
  CHECK(contains(other.err, "is of another model"));
}

TEST_CASE("sizes of experts are the trace's, or the model shape's where that is asked for") {
  const TempDir dir;
  write_file(dir / "prompts.txt", kTwoPrompts);
  write_file(dir / "large.toml",
             "layers = 6\nd_model = 1024\nheads = 8\nkv_heads = 2\nhead_dim = 64\nexperts = 32\n"
             "top_k = 4\nexpert_ff = 512\nvocab = 4096\nexpert_bits = 8.5\nrest_bits = 8.5\n"
             "split_block = 32\n");
  const std::string trace = dir / "t.trace";
  REQUIRE(tandem({"trace", "-f", dir / "prompts.txt", "--out", trace, "-n", "4"}).exit_code == 0);
  const auto cache_bytes = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"simulate", "--trace", trace, "--model-shape", dir / "large.toml",
                               "--cache", "50%", "--no-bounds", "--json"});
    const Outcome run = tandem(more);
    INFO(run.err);
    REQUIRE(run.exit_code == 0);
    return run.json()[0]["cache_bytes"].get<int64_t>();
  };
  constexpr int64_t kHalf = kLayers * kExperts / 2;
  CHECK(cache_bytes({}) == kHalf * 3 * 256 * 64 * 34 / 32);
  CHECK(cache_bytes({"--expert-bytes", "trace"}) == kHalf * 3 * 256 * 64 * 34 / 32);
  CHECK(cache_bytes({"--expert-bytes", "shape"}) == kHalf * 3 * 1024 * 512 * 17 / 16);
}

TEST_CASE("a trace of a model with the same shape and other routers is refused") {
  const TempDir dir;
  write_file(dir / "prompts.txt", "abc");
  const std::string trace = dir / "t.trace";
  REQUIRE(tandem({"trace", "-m", family_model("llama-f16"), "-f", dir / "prompts.txt", "--out",
                  trace, "-n", "4"})
              .exit_code == 0);
  const Outcome run = tandem(
      {"simulate", "--trace", trace, "--recorded", "--model-shape", family_model("qwen2moe-bf16")});
  INFO(run.err);
  CHECK(run.exit_code == 2);
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "another model with the same shape"));
}

TEST_CASE("a prompt file without a prompt, or with a hole, is one line and no trace") {
  CHECK(contains(complaint("", {}, 1), "prompts.txt: holds no prompt"));
  CHECK(contains(complaint(" \n\n", {}, 1), "holds no prompt"));
  CHECK(contains(complaint("a\n---\n---\nb\n", {}, 1), "prompt 2 is empty"));
  CHECK(contains(complaint("---\nb\n", {}, 1), "prompt 1 is empty"));
  CHECK(contains(complaint("a\r\n---\r\n \r\n---\r\n", {}, 1), "prompt 2 is empty"));
  std::string text = "a\n---\n";
  for (int i = 0; i < 40; ++i) text += "Once upon a time ";
  CHECK(contains(complaint(text, {"-c", "50"}, 2), "prompt 2 is "));
}

TEST_CASE("any bytes are a prompt") {
  std::string bytes;
  for (int i = 0; i < 2000; ++i) bytes += static_cast<char>(i * 37 % 256);
  CHECK(record(bytes, {"-n", "1", "-c", "3000"}).file.tokens.size() > 100);
}

TEST_CASE("trace needs its files, and a place to write to") {
  CHECK(contains(tandem({"trace", "--out", "x"}).err, "--file is required"));
  CHECK(contains(tandem({"trace", "-f", "x"}).err, "--out is required"));
  const TempDir dir;
  CHECK(contains(complaint("a", {"--out", dir / "no/t.trace"}, 2), "needs one value"));
  write_file(dir / "p.txt", "a");
  const Outcome run = tandem({"trace", "-f", dir / "p.txt", "--out", dir / "no/t.trace"});
  CHECK(run.exit_code == 1);
  CHECK(contains(run.err, "there is no folder"));
}

TEST_CASE("Ctrl-C while tracing leaves no file behind") {
  const TempDir dir;
  write_file(dir / "prompts.txt", "Once");
  Invocation how;
  how.errors_to_terminal = true;  // for its progress
  how.interrupt_at = "writing";
  const Outcome run = tandem({"trace", "-f", dir / "prompts.txt", "--out", dir / "t.trace", "-n",
                              "1000000", "-c", "200000", "--ignore-eos"},
                             how);
  INFO(run.err);
  CHECK(run.exit_code == 130);
  CHECK(contains(run.err, "interrupted; "));
  CHECK(contains(run.err, "was not written"));
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
}

}  // namespace tandem::test
