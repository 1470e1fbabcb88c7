// Routing traces made of random numbers whose statistics are set by knobs: for simulating models
// whose real routes nobody has. Pure: the same settings give the same trace on every platform.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "scheduler/trace.h"

namespace tandem {

// The logit of an expert in one layer, for token t of sequence s, is
//   sharpness * (skew * a + topic * b(s) + sqrt(reuse) * c(s, t) + sqrt(1 - reuse) * w(s, t))
// with a, b, c and w of mean 0 and variance 1. All are drawn anew for every layer and expert, b
// once a sequence, w for every token; c is an autoregressive process: its correlation over n
// tokens is memory^n. The largest logits are selected; weights are the softmax over all experts.
struct SyntheticTraceSettings {
  std::string model = "synthetic";
  int32_t n_layers = 0;
  int32_t n_experts = 0;
  int32_t top_k = 0;
  int32_t n_ranks = 0;  // 0: twice top_k, or all experts where there are fewer

  int32_t n_sequences = 8;
  int32_t n_prompt = 128;  // tokens of the one prefill step of each sequence; 0: no such step
  int32_t n_decode = 256;  // steps of one token
  uint64_t seed = 1;

  double skew = 0.4;       // experts that are popular everywhere, 0 to 4
  double topic = 0.3;      // experts that a sequence prefers, 0 to 4
  double reuse = 0.1;      // share of a token's own part that lasts, 0 to 1
  double memory = 0.9;     // how long it lasts: correlation with the next token, 0 to 0.9999
  double sharpness = 1.0;  // of the gate; changes weights, never ids; 0.01 to 100

  // The share of a token's experts that is predicted one layer ahead, 0 to 1; each further layer
  // loses 0.04. Light experts are missed more often, and what is predicted in their place leans
  // to experts that the layer and the sequence prefer.
  double predictability = 0.85;
  int32_t n_ahead = 3;
};

constexpr double kRecallLossPerLayer = 0.04;

bool is_synthetic_trace(std::string_view spec);  // does it begin with "synthetic"?

// Reads "synthetic", "synthetic:PRESET", "synthetic:KEY=VALUE,…" or "synthetic:PRESET,KEY=VALUE,…"
// into the settings; what is not named keeps its value. Presets: mixtral, deepseek-v2-lite,
// qwen2-57b. Keys: layers, experts, top_k, ranks, sequences, prompt, decode, seed, skew, topic,
// reuse, memory, sharpness, predict, ahead. Returns what is wrong with the text, or "".
std::string parse_synthetic_trace(std::string_view spec, SyntheticTraceSettings& settings);

// What is wrong with the settings as a whole, or "".
std::string check_synthetic_trace(const SyntheticTraceSettings& settings);

// check_synthetic_trace() of the settings is "".
Trace make_synthetic_trace(const SyntheticTraceSettings& settings);

}  // namespace tandem
