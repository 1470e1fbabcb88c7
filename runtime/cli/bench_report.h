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

// One test: n_prompt tokens read in batches, or n_gen tokens one by one.
struct BenchTest {
  int64_t n_prompt = 0;
  int64_t n_gen = 0;
  std::string type_k{};  // of the KV cache
  std::string type_v{};
  // "pp512", "tg128"
  std::string name() const;
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
