#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"
#include "tests/support/npy.h"

namespace tandem::test {
namespace {

std::string heldout(size_t bytes) {
  return read_file(source_file("demo/heldout.txt")).substr(0, bytes);
}

double negative_log_likelihood(const float* row, int64_t n, int64_t token) {
  const double top = *std::max_element(row, row + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(row[i] - top);
  return std::log(sum) - (row[token] - top);
}

// By llama-perplexity's definition, from the logits command: chunks of n_ctx tokens that begin
// with BOS, of which the second half is scored.
double reference_perplexity(const TempDir& dir, std::vector<int> ids, size_t n_ctx) {
  double sum = 0;
  int64_t count = 0;
  for (size_t at = 0; at + n_ctx <= ids.size(); at += n_ctx) {
    ids[at] = 4093;
    std::string list;
    for (size_t i = at; i < at + n_ctx; ++i) list += std::to_string(ids[i]) + ",";
    REQUIRE(tandem({"logits", "--tokens", list, "--out", dir / "l.npy"}).exit_code == 0);
    const Npy npy = read_npy(dir / "l.npy");
    for (size_t i = n_ctx / 2; i + 1 < n_ctx; ++i) {
      sum += negative_log_likelihood(npy.row(static_cast<int64_t>(i)).data(), npy.cols,
                                     ids[at + i + 1]);
      ++count;
    }
  }
  return std::exp(sum / static_cast<double>(count));
}

}  // namespace

TEST_CASE("perplexity is what the logits of the text say") {
  const TempDir dir;
  write_file(dir / "text.txt", heldout(1500));
  const auto ids = tandem({"tokenize", "-f", dir / "text.txt"}).json().get<std::vector<int>>();
  const double expected = reference_perplexity(dir, ids, 96);
  const Outcome run = tandem({"perplexity", "-f", dir / "text.txt", "-c", "96", "--json"});
  REQUIRE(run.exit_code == 0);
  CHECK(run.json()["perplexity"].get<double>() == Approx(expected).epsilon(1e-4));
  CHECK(run.json()["chunks"] == ids.size() / 96);
}

TEST_CASE("perplexity of the demo's held-out text is that of a model which can read") {
  const TempDir dir;
  write_file(dir / "text.txt", heldout(6000));
  const Outcome run = tandem({"perplexity", "-f", dir / "text.txt", "-c", "128"});
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  CHECK(run.out.rfind("Final estimate: PPL = ", 0) == 0);
  CHECK(line_count(run.out) == 1);
  const double value = std::stod(run.out.substr(run.out.find('=') + 1));
  CHECK(value > 5);
  CHECK(value < 100);  // guessing among 4096 tokens: 4096
  CHECK(contains(run.err, "context       128"));
}

TEST_CASE("perplexity does not depend on the batch size or the device") {
  const ReferenceArithmetic reference;
  const TempDir dir;
  write_file(dir / "text.txt", heldout(1500));
  // A cache of f16 would turn a difference in the last bit into one of 2^-11.
  const auto value = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"perplexity", "-f", dir / "text.txt", "-c", "96", "--json",
                               "--cache-type-k", "f32", "--cache-type-v", "f32"});
    return tandem(more).json()["perplexity"].get<double>();
  };
  const double expected = value({});
  CHECK(value({"-b", "17"}) == Approx(expected).epsilon(1e-6));
  CHECK(value({"--device", "sim", "--vram", "8"}) == Approx(expected).epsilon(1e-6));
}

TEST_CASE("perplexity refuses a text or a chunk that is too short") {
  const TempDir dir;
  write_file(dir / "text.txt", "Too short.");
  const Outcome text = tandem({"perplexity", "-f", dir / "text.txt", "-c", "128"});
  CHECK(text.exit_code == 2);
  CHECK(contains(text.err, "a context of 128 needs at least 256"));
  const Outcome chunk = tandem({"perplexity", "-f", dir / "text.txt", "-c", "2"});
  CHECK(chunk.exit_code == 2);
  CHECK(contains(chunk.err, "a context of 2 scores no token"));
  const Outcome file = tandem({"perplexity", "-f", dir / "none.txt"});
  CHECK(file.exit_code == 1);
  CHECK(contains(file.err, "none.txt: cannot be read"));
}

}  // namespace tandem::test
