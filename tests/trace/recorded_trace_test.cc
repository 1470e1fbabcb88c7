// Known answers on recorded traces, which are not part of the project: they are looked for in the
// folder that the environment variable TANDEM_ROUTE_TRACES names, as NAME.route.csv.
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "runtime/trace/trace_file.h"
#include "tests/support/catch.h"
#include "tests/trace/replay.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

std::optional<Trace> recorded(const std::string& name) {
  const char* folder = std::getenv("TANDEM_ROUTE_TRACES");
  if (folder == nullptr) {
    WARN("skipped: TANDEM_ROUTE_TRACES names no folder with " << name << ".route.csv");
    return std::nullopt;
  }
  return read_trace((std::filesystem::path(folder) / (name + ".route.csv")).string());
}

constexpr int64_t kCache = int64_t{4000} << 20;

TEST_CASE("a recorded trace of Qwen3-30B hits 74.9 % in an LRU of 4000 MiB") {
  const auto trace = recorded("qwen");
  if (!trace) return;
  CHECK(trace->header.n_layers == 48);
  CHECK(trace->header.n_experts == 128);
  CHECK(trace->header.top_k == 6);
  CHECK(trace->n_tokens() == 28 + 128);
  CHECK(trace->steps.size() == 1 + 128);
  CHECK(trace->ids_of(26, 47)[0] == -1);
  CHECK(trace->ids_of(27, 47)[0] == 105);
  CHECK(global_lru_hits(*trace, kCache) == Approx(74.9).margin(0.05));
}

TEST_CASE("a recorded trace of Gemma-4-26B hits 76.8 % in an LRU of 4000 MiB") {
  const auto trace = recorded("gemma");
  if (!trace) return;
  CHECK(trace->header.n_layers == 30);
  CHECK(trace->n_tokens() == 29 + 128);
  CHECK(global_lru_hits(*trace, kCache) == Approx(76.8).margin(0.05));
}

TEST_CASE("a recorded trace of gpt-oss-20b has ten sequences and survives our own format") {
  const auto trace = recorded("gptoss20b");
  if (!trace) return;
  CHECK(trace->header.n_experts == 32);
  CHECK(trace->header.top_k == 4);
  CHECK(trace->steps.back().sequence == 9);
  CHECK(trace->n_tokens() == 9 * 511 + 434);
  CHECK(difference(*trace, parse(encode(*trace)), 0x1p-11) == "");
}

}  // namespace
}  // namespace tandem::test
