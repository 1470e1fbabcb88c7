#include "scheduler/synthetic_trace.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "cache/check.h"

namespace tandem {
namespace {

// Only additions, multiplications, divisions and square roots of IEEE numbers, so that every
// platform gives the same bits: no std::normal_distribution, no std::exp.

class Draws {
 public:
  // Streams with different purposes or sequences are independent: one more decode step of a
  // sequence changes nothing in the next one, and predictions change no routes.
  Draws(uint64_t seed, uint64_t purpose, uint64_t sequence)
      : bits_(mix(mix(seed) ^ mix(purpose << 32 | sequence))) {}

  // Mean 0, variance 1: the sum of four uniform numbers of 16 bits. Ends at 3.46.
  float normal() {
    constexpr float kSigma = 37837.2266F;  // sqrt(4 * (2^32 - 1) / 12)
    const uint64_t bits = bits_();
    const auto sum = static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                          (bits >> 32 & 0xffff) + (bits >> 48));
    return static_cast<float>(sum - 2 * 0xffff) / kSigma;
  }
  // In [0, 1).
  double uniform() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }

 private:
  // SplitMix64's finaliser.
  static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }

  std::mt19937_64 bits_;
};

enum Purpose : uint64_t { kPopularity, kTopic, kTokens, kPredictions };

// e^x for x <= 0, to about 2e-7; 0 below -80.
float exp_of(float x) {
  if (x < -80.0F) return 0.0F;
  const float scaled = x * 1.44269504F;  // 1 / ln 2
  const auto whole = static_cast<int32_t>(scaled - 0.5F);
  const float r = (scaled - static_cast<float>(whole)) * 0.693147181F;  // |r| <= ln 2 / 2
  const float series =
      1.0F + r * (1.0F + r * (0.5F + r * (1.0F / 6 +
                                          r * (1.0F / 24 + r * (1.0F / 120 + r * (1.0F / 720))))));
  return series * std::bit_cast<float>((whole + 127) << 23);
}

int32_t ranks_of(const SyntheticTraceSettings& s) {
  return s.n_ranks > 0 ? s.n_ranks : std::min(2 * s.top_k, s.n_experts);
}

class Generator {
 public:
  explicit Generator(const SyntheticTraceSettings& settings)
      : s_(settings),
        n_experts_(static_cast<size_t>(s_.n_experts)),
        n_ranks_(static_cast<size_t>(ranks_of(s_))),
        top_k_(static_cast<size_t>(s_.top_k)),
        popularity_(static_cast<size_t>(s_.n_layers) * n_experts_),
        bias_(popularity_.size()),
        lasting_(popularity_.size()),
        logits_(n_experts_),
        scores_(n_experts_),
        order_(n_experts_),
        leaning_(popularity_.size()) {}

  Trace make() {
    reserve();
    Draws draws(s_.seed, kPopularity, 0);
    for (float& a : popularity_) a = draws.normal() * static_cast<float>(s_.skew);
    for (int32_t sequence = 0; sequence < s_.n_sequences; ++sequence) {
      const int64_t first = trace_.n_tokens();
      add_steps(sequence);
      start_sequence(sequence);
      Draws tokens(s_.seed, kTokens, static_cast<uint64_t>(sequence));
      for (float& c : lasting_) c = tokens.normal();
      for (int64_t t = first; t < trace_.n_tokens(); ++t) route_token(tokens);
      Draws predictions(s_.seed, kPredictions, static_cast<uint64_t>(sequence));
      for (int64_t t = first; t < trace_.n_tokens(); ++t) predict_token(t, predictions);
    }
    return std::move(trace_);
  }

 private:
  void reserve() {
    TraceHeader& h = trace_.header;
    h.model = s_.model;
    h.n_layers = s_.n_layers;
    h.n_experts = s_.n_experts;
    h.top_k = s_.top_k;
    h.n_ranks = static_cast<int32_t>(n_ranks_);
    h.n_ahead = s_.n_ahead;
    h.lookahead = s_.n_ahead > 0 ? LookaheadName::kSynthetic : LookaheadName::kNone;
    const size_t n_cells = static_cast<size_t>(s_.n_sequences) *
                           static_cast<size_t>(s_.n_prompt + s_.n_decode) *
                           static_cast<size_t>(s_.n_layers);
    trace_.ids.reserve(n_cells * n_ranks_);
    trace_.weights.reserve(n_cells * n_ranks_);
    trace_.predicted.reserve(n_cells * static_cast<size_t>(s_.n_ahead) * top_k_);
  }

  void add_steps(int32_t sequence) {
    if (s_.n_prompt > 0) trace_.steps.push_back({sequence, true, trace_.n_tokens(), s_.n_prompt});
    for (int32_t i = 0; i < s_.n_decode; ++i) {
      trace_.steps.push_back({sequence, false, trace_.n_tokens(), 1});
    }
  }

  void start_sequence(int32_t sequence) {
    Draws draws(s_.seed, kTopic, static_cast<uint64_t>(sequence));
    for (size_t i = 0; i < bias_.size(); ++i) {
      bias_[i] = popularity_[i] + draws.normal() * static_cast<float>(s_.topic);
    }
    for (size_t layer = 0; layer < bias_.size(); layer += n_experts_) {
      const float top = *std::max_element(&bias_[layer], &bias_[layer] + n_experts_);
      double sum = 0.0;
      for (size_t e = layer; e < layer + n_experts_; ++e) {
        leaning_[e] = sum += exp_of(bias_[e] - top);
      }
    }
  }

  void route_token(Draws& draws) {
    const auto memory = static_cast<float>(s_.memory);
    const float fresh = std::sqrt(1.0F - memory * memory);
    const float lasting = std::sqrt(static_cast<float>(s_.reuse));
    const float white = std::sqrt(1.0F - static_cast<float>(s_.reuse));
    for (size_t layer = 0; layer < bias_.size(); layer += n_experts_) {
      for (size_t e = 0; e < n_experts_; ++e) {
        float& c = lasting_[layer + e];
        c = memory * c + fresh * draws.normal();
        logits_[e] = bias_[layer + e] + lasting * c + white * draws.normal();
      }
      add_cell();
    }
  }

  // Appends the heaviest experts of logits_ with their scores.
  void add_cell() {
    std::iota(order_.begin(), order_.end(), int16_t{0});
    std::partial_sort(order_.begin(), order_.begin() + static_cast<ptrdiff_t>(n_ranks_),
                      order_.end(), [this](int16_t a, int16_t b) {
                        const float x = logits_[static_cast<size_t>(a)];
                        const float y = logits_[static_cast<size_t>(b)];
                        return x > y || (x == y && a < b);
                      });
    const float top = logits_[static_cast<size_t>(order_[0])];
    const auto sharpness = static_cast<float>(s_.sharpness);
    float sum = 0.0F;
    for (size_t e = 0; e < n_experts_; ++e) {
      scores_[e] = exp_of(sharpness * (logits_[e] - top));
      sum += scores_[e];
    }
    for (size_t rank = 0; rank < n_ranks_; ++rank) {
      trace_.ids.push_back(order_[rank]);
      trace_.weights.push_back(scores_[static_cast<size_t>(order_[rank])] / sum);
    }
  }

  void predict_token(int64_t token, Draws& draws) {
    for (int32_t layer = 0; layer < s_.n_layers; ++layer) {
      for (int32_t ahead = 1; ahead <= s_.n_ahead; ++ahead) {
        if (layer + ahead < s_.n_layers) {
          predict(trace_.ids_of(token, layer + ahead).first(top_k_), layer + ahead, ahead, draws);
        } else {
          trace_.predicted.insert(trace_.predicted.end(), top_k_, int16_t{-1});
        }
      }
    }
  }

  // Appends the truth with some experts exchanged for wrong ones.
  void predict(std::span<const int16_t> truth, int32_t layer, int32_t ahead, Draws& draws) {
    const double recall =
        std::max(0.0, s_.predictability - kRecallLossPerLayer * static_cast<double>(ahead - 1));
    // The chance to miss grows with the rank; its mean is 1 - recall and it stays below 1.
    const double tilt = recall < 0.5 ? 0.8 * recall / (1.0 - recall) : 0.8;
    size_t n_wrong_left = n_experts_ - top_k_;
    const size_t begin = trace_.predicted.size();
    for (size_t rank = 0; rank < top_k_; ++rank) {
      const double place =
          (2.0 * static_cast<double>(rank) + 1.0) / static_cast<double>(top_k_) - 1.0;
      const bool missed = draws.uniform() < (1.0 - recall) * (1.0 + tilt * place);
      if (missed && n_wrong_left > 0) {
        --n_wrong_left;
        trace_.predicted.push_back(wrong_expert(truth, begin, layer, draws));
      } else {
        trace_.predicted.push_back(truth[rank]);
      }
    }
  }

  // One that is neither true nor predicted already; there is one.
  int16_t wrong_expert(std::span<const int16_t> truth, size_t begin, int32_t layer, Draws& draws) {
    const auto taken = [&](int16_t e) {
      return std::find(truth.begin(), truth.end(), e) != truth.end() ||
             std::find(trace_.predicted.begin() + static_cast<ptrdiff_t>(begin),
                       trace_.predicted.end(), e) != trace_.predicted.end();
    };
    const auto from = leaning_.begin() + static_cast<ptrdiff_t>(layer) * s_.n_experts;
    const auto to = from + s_.n_experts;
    constexpr int kTries = 32;
    int16_t expert = 0;
    for (int i = 0; i < kTries; ++i) {
      const auto hit = std::upper_bound(from, to, draws.uniform() * *(to - 1));
      expert = static_cast<int16_t>(std::min<ptrdiff_t>(hit - from, s_.n_experts - 1));
      if (!taken(expert)) return expert;
    }
    while (taken(expert)) expert = static_cast<int16_t>((expert + 1) % s_.n_experts);
    return expert;
  }

  const SyntheticTraceSettings& s_;
  size_t n_experts_;
  size_t n_ranks_;
  size_t top_k_;
  std::vector<float> popularity_;  // [n_layers, n_experts], times skew
  std::vector<float> bias_;        // the same, with this sequence's topic
  std::vector<float> lasting_;     // the same: c of the last token
  std::vector<float> logits_;      // [n_experts], over sharpness
  std::vector<float> scores_;      // [n_experts]
  std::vector<int16_t> order_;     // [n_experts]
  std::vector<double> leaning_;    // [n_layers, n_experts], running sum over a layer's experts
  Trace trace_;
};

}  // namespace

Trace make_synthetic_trace(const SyntheticTraceSettings& settings) {
  const std::string fault = check_synthetic_trace(settings);
  TANDEM_CHECK(fault.empty(), "%s", fault.c_str());
  return Generator(settings).make();
}

}  // namespace tandem
