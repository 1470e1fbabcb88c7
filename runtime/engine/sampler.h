// Picks the next token from logits, with llama.cpp's parameters, defaults and order:
// repetition penalty, top-k, top-p, min-p, temperature, draw. One per sequence; not thread-safe.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace tandem {

struct SamplingSettings {
  float temperature = 0.8F;     // <= 0: greedy, the most likely token (lowest id on a tie)
  int32_t top_k = 40;           // <= 0: all
  float top_p = 0.95F;          // >= 1: off
  float min_p = 0.05F;          // <= 0: off
  float repeat_penalty = 1.0F;  // 1: off
  int32_t repeat_last_n = 64;   // tokens that the penalty looks back; 0: off, -1: all
  uint32_t seed = 0;
};

class Sampler {
 public:
  Sampler(const SamplingSettings& settings, int64_t n_vocab, int64_t n_ctx);

  // Takes note of a token of the prompt or the answer, for the repetition penalty.
  void accept(int32_t token);
  // Forgets the tokens that were accepted. The draws go on.
  void forget() { accepted_ = 0; }
  // logits: [n_vocab] f32, finite. Does not accept() the token. Never allocates.
  int32_t sample(std::span<const float> logits);

 private:
  struct Candidate {
    int32_t token;
    float logit;
    float probability;
  };
  void penalize();
  void keep_top_k();
  void keep_top_p();
  void keep_min_p();
  void softmax();
  int32_t draw();

  SamplingSettings settings_;
  std::mt19937 random_;
  std::vector<Candidate> candidates_;  // sorted by logit, descending, once top-k has run
  std::vector<int32_t> history_;       // ring of the last tokens
  size_t accepted_ = 0;
  std::vector<uint8_t> seen_;  // [n_vocab], scratch of penalize()
};

}  // namespace tandem
