// Rows of tandem bench: llama-bench's columns and field names, ours behind them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/engine.h"
#include "scheduler/machine_profile.h"

namespace tandem {

// One test: n_prompt tokens read in batches, then n_gen tokens one by one, behind n_depth tokens
// that are not measured.
struct BenchTest {
  int64_t n_prompt = 0;
  int64_t n_gen = 0;
  int64_t n_depth = 0;
  std::string type_k{};  // of the KV cache
  std::string type_v{};
  // As llama-bench: "pp512", "tg128", "pp512+tg128", "tg128 @ d4096".
  std::string name() const;
  int64_t n_context() const { return n_prompt + n_gen + n_depth; }
};

struct BenchSamples {
  std::vector<double> seconds;  // of each repetition
  EngineStats stats;            // of all repetitions; modelled_seconds too
};

// What llama-bench reports of a test.
nlohmann::ordered_json bench_row(const Engine& engine, const MachineProfile& machine,
                                 const std::vector<EffectiveSetting>& settings,
                                 const BenchTest& test, const BenchSamples& samples);

// Prints rows as they come (json: at the end). One object per run of the command.
class BenchPrinter {
 public:
  explicit BenchPrinter(std::string format) : format_(std::move(format)) {}  // md, csv, json, jsonl
  void print(const nlohmann::ordered_json& row);
  void finish();

 private:
  std::string format_;
  std::vector<nlohmann::ordered_json> rows_;
};

}  // namespace tandem
