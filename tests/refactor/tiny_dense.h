// Small dense models of random weights as GGUF files, and what they compute in float64: written
// from the papers' formulas, sharing no code with the runtime.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant.h"
#include "tests/support/gguf_builder.h"

namespace tandem::test {

struct TinyDense {
  std::string arch = "llama";  // or qwen3
  DType type = DType::kF32;
  int64_t layers = 2, d = 20, heads = 4, kv = 2, head_dim = 6, ff = 72, vocab = 23;
  bool tied = false;
  uint32_t seed = 1;
  std::map<std::string, std::vector<double>> weights{};  // as the file has them, row by row

  bool qwen3() const { return arch == "qwen3"; }
  static constexpr double kEpsilon = 1e-5;
  static constexpr double kBase = 500;

  // Fills weights.
  GgufBuilder file() {
    GgufBuilder b;
    b.add("general.architecture", arch).add("general.name", "tiny");
    const auto count = [&](const char* key, int64_t n) {
      b.add_u32(arch + "." + key, static_cast<uint32_t>(n));
    };
    count("block_count", layers);
    count("context_length", 64);
    count("embedding_length", d);
    count("feed_forward_length", ff);
    count("attention.head_count", heads);
    count("attention.head_count_kv", kv);
    count("attention.key_length", head_dim);
    count("attention.value_length", head_dim);
    b.add_f32(arch + ".rope.freq_base", static_cast<float>(kBase));
    b.add_f32(arch + ".attention.layer_norm_rms_epsilon", static_cast<float>(kEpsilon));
    std::mt19937 random(seed);
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
      add(&b, &random, name + ".weight", {cols, rows}, type, 0, 1.5 / std::sqrt(cols));
    };
    const auto gain = [&](const std::string& name, int64_t n) {
      add(&b, &random, name + ".weight", {n}, DType::kF32, 1, 0.3);
    };
    matrix("token_embd", vocab, d);
    gain("output_norm", d);
    if (!tied) matrix("output", vocab, d);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string p = "blk." + std::to_string(i) + ".";
      gain(p + "attn_norm", d);
      matrix(p + "attn_q", heads * head_dim, d);
      matrix(p + "attn_k", kv * head_dim, d);
      matrix(p + "attn_v", kv * head_dim, d);
      matrix(p + "attn_output", d, heads * head_dim);
      if (qwen3()) {
        gain(p + "attn_q_norm", head_dim);
        gain(p + "attn_k_norm", head_dim);
      }
      gain(p + "ffn_norm", d);
      matrix(p + "ffn_gate", ff, d);
      matrix(p + "ffn_up", ff, d);
      matrix(p + "ffn_down", d, ff);
    }
    return b;
  }

 private:
  void add(GgufBuilder* b, std::mt19937* random, const std::string& name,
           const std::vector<int64_t>& ne, DType of, double mean, double deviation) {
    std::normal_distribution<double> normal(mean, deviation);
    size_t n = 1;
    for (const int64_t m : ne) n *= static_cast<size_t>(m);
    Bytes bytes;
    std::vector<double>& values = weights[name];
    values.clear();
    for (size_t i = 0; i < n; ++i) {
      const auto value = static_cast<float>(normal(*random));
      if (of == DType::kF16) {
        const uint16_t half = f32_to_f16(value);
        append(bytes, half);
        values.push_back(f16_to_f32(half));
      } else if (of == DType::kBF16) {
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits &= 0xFFFF0000U;
        append(bytes, static_cast<uint16_t>(bits >> 16));
        float cut;
        std::memcpy(&cut, &bits, 4);
        values.push_back(cut);
      } else {
        append(bytes, value);
        values.push_back(value);
      }
    }
    b->add_tensor(name, static_cast<uint32_t>(of), {ne.begin(), ne.end()}, bytes);
  }
};

using Rows = std::vector<std::vector<double>>;

struct DenseReference {
  std::vector<Rows> hidden;  // [layers][tokens][ff]
  Rows logits;               // [tokens][vocab]
};

class ReferencePass {
 public:
  explicit ReferencePass(const TinyDense& model) : m_(model) {}

  // masks[layer][token][channel]: false: the channel is left out; empty: all are there.
  DenseReference run(const std::vector<int32_t>& tokens,
                     const std::vector<std::vector<std::vector<bool>>>& masks = {}) const {
    DenseReference result;
    Rows x;
    for (const int32_t token : tokens) x.push_back(row("token_embd.weight", token, m_.d));
    for (int64_t i = 0; i < m_.layers; ++i) {
      const std::string p = "blk." + std::to_string(i) + ".";
      add(attention(p, norm(x, p + "attn_norm.weight")), &x);
      const Rows n = norm(x, p + "ffn_norm.weight");
      Rows hidden = product(p + "ffn_gate.weight", n);
      const Rows up = product(p + "ffn_up.weight", n);
      for (size_t t = 0; t < hidden.size(); ++t) {
        for (size_t c = 0; c < hidden[t].size(); ++c) {
          double& h = hidden[t][c];
          h = h / (1 + std::exp(-h)) * up[t][c];
        }
      }
      result.hidden.push_back(hidden);
      if (!masks.empty()) {
        for (size_t t = 0; t < hidden.size(); ++t) {
          for (size_t c = 0; c < hidden[t].size(); ++c) {
            if (!masks[static_cast<size_t>(i)][t][c]) hidden[t][c] = 0;
          }
        }
      }
      add(product(p + "ffn_down.weight", hidden), &x);
    }
    result.logits =
        product(m_.tied ? "token_embd.weight" : "output.weight", norm(x, "output_norm.weight"));
    return result;
  }

 private:
  const std::vector<double>& weights(const std::string& name) const { return m_.weights.at(name); }
  std::vector<double> row(const std::string& name, int64_t r, int64_t cols) const {
    const auto first = weights(name).begin() + r * cols;
    return {first, first + cols};
  }
  static void add(const Rows& more, Rows* x) {
    for (size_t t = 0; t < more.size(); ++t) {
      for (size_t c = 0; c < more[t].size(); ++c) (*x)[t][c] += more[t][c];
    }
  }
  static void norm_row(const std::vector<double>& gain, double* x) {
    double squares = 0;
    for (size_t c = 0; c < gain.size(); ++c) squares += x[c] * x[c];
    const double by = std::sqrt(squares / static_cast<double>(gain.size()) + TinyDense::kEpsilon);
    for (size_t c = 0; c < gain.size(); ++c) x[c] *= gain[c] / by;
  }
  Rows norm(Rows x, const std::string& gain) const {
    for (auto& values : x) norm_row(weights(gain), values.data());
    return x;
  }
  Rows product(const std::string& name, const Rows& x) const {
    const std::vector<double>& w = weights(name);
    Rows y;
    for (const auto& in : x) {
      std::vector<double> out(w.size() / in.size());
      for (size_t r = 0; r < out.size(); ++r) {
        for (size_t c = 0; c < in.size(); ++c) out[r] += w[r * in.size() + c] * in[c];
      }
      y.push_back(out);
    }
    return y;
  }
  // llama turns neighbours, qwen3 what lies half a head apart.
  void turn(double* head, size_t position) const {
    const int64_t pairs = m_.head_dim / 2;
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(position) *
                           std::pow(TinyDense::kBase, -2.0 * static_cast<double>(i) /
                                                          static_cast<double>(m_.head_dim));
      double& a = head[m_.qwen3() ? i : 2 * i];
      double& b = head[m_.qwen3() ? i + pairs : 2 * i + 1];
      const double old = a;
      a = a * std::cos(angle) - b * std::sin(angle);
      b = old * std::sin(angle) + b * std::cos(angle);
    }
  }
  void prepare(const std::string& gain, int64_t heads, Rows* x) const {
    for (size_t t = 0; t < x->size(); ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        double* head = (*x)[t].data() + h * m_.head_dim;
        if (m_.qwen3()) norm_row(weights(gain), head);
        turn(head, t);
      }
    }
  }
  Rows attention(const std::string& p, const Rows& x) const {
    Rows q = product(p + "attn_q.weight", x);
    Rows k = product(p + "attn_k.weight", x);
    const Rows v = product(p + "attn_v.weight", x);
    prepare(p + "attn_q_norm.weight", m_.heads, &q);
    prepare(p + "attn_k_norm.weight", m_.kv, &k);
    Rows mixed(x.size(), std::vector<double>(static_cast<size_t>(m_.heads * m_.head_dim)));
    for (int64_t h = 0; h < m_.heads; ++h) {
      const int64_t kv = h / (m_.heads / m_.kv) * m_.head_dim;
      for (size_t t = 0; t < x.size(); ++t) {
        std::vector<double> p_of(t + 1);
        double sum = 0;
        for (size_t j = 0; j <= t; ++j) {
          double score = 0;
          for (int64_t i = 0; i < m_.head_dim; ++i) {
            score +=
                q[t][static_cast<size_t>(h * m_.head_dim + i)] * k[j][static_cast<size_t>(kv + i)];
          }
          p_of[j] = std::exp(score / std::sqrt(static_cast<double>(m_.head_dim)));
          sum += p_of[j];
        }
        for (size_t j = 0; j <= t; ++j) {
          for (int64_t i = 0; i < m_.head_dim; ++i) {
            mixed[t][static_cast<size_t>(h * m_.head_dim + i)] +=
                p_of[j] / sum * v[j][static_cast<size_t>(kv + i)];
          }
        }
      }
    }
    return product(p + "attn_output.weight", mixed);
  }

  const TinyDense& m_;
};

inline std::vector<int32_t> some_tokens(int64_t n, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab)));
  }
  return tokens;
}

}  // namespace tandem::test
