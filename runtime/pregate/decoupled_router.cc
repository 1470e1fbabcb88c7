#include "runtime/pregate/decoupled_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/check.h"
#include "runtime/model/sha256.h"

namespace tandem {

static_assert(std::endian::native == std::endian::little, "numbers are hashed as they are");

namespace {

constexpr int64_t kLanes = 16;           // sums that a dot product has at once
constexpr int64_t kRowsOfTask = 16;      // of a matrix
constexpr int64_t kAttentionTasks = 16;  // each with scores of its own

// Its order of additions is the same everywhere: what is summed in which lane is written here.
float dot(const float* a, const float* b, int64_t n) {
  std::array<float, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) sums[static_cast<size_t>(l)] += a[i + l] * b[i + l];
  }
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t l = 0; l < half; ++l) sums[l] += sums[l + half];
  }
  float sum = sums[0];
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// out [n, rows] = x [n, cols] weight^T + bias; no bias: empty.
void linear(const std::vector<float>& weight, const std::vector<float>& bias, const float* x,
            int64_t n, int64_t rows, int64_t cols, float* out, ParallelFor parallel) {
  parallel((rows + kRowsOfTask - 1) / kRowsOfTask, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kRowsOfTask);
    for (int64_t r = task * kRowsOfTask; r < end; ++r) {
      const float* row = weight.data() + r * cols;
      const float b = bias.empty() ? 0 : bias[static_cast<size_t>(r)];
      for (int64_t t = 0; t < n; ++t) out[t * rows + r] = dot(row, x + t * cols, cols) + b;
    }
  });
}

// out [n, w] = x / rms(x) gain
void normalize(const float* x, const std::vector<float>& gain, int64_t n, float* out) {
  const auto w = static_cast<int64_t>(gain.size());
  for (int64_t t = 0; t < n; ++t) {
    const float* from = x + t * w;
    const float mean = dot(from, from, w) / static_cast<float>(w);
    const float scale = 1 / std::sqrt(mean + kDecoupledNormEpsilon);
    for (int64_t i = 0; i < w; ++i) out[t * w + i] = from[i] * scale * gain[static_cast<size_t>(i)];
  }
}

// Turns pairs (i, i + head / 2) of each head. row: [heads * head]; cosines, sines: [head / 2]
void rotate(float* row, const float* cosines, const float* sines, int64_t n_heads, int64_t head) {
  const int64_t half = head / 2;
  for (int64_t h = 0; h < n_heads; ++h) {
    float* at = row + h * head;
    for (int64_t i = 0; i < half; ++i) {
      const float a = at[i];
      const float b = at[i + half];
      at[i] = a * cosines[i] - b * sines[i];
      at[i + half] = a * sines[i] + b * cosines[i];
    }
  }
}

void softmax(float* scores, int64_t n) {
  const float most = *std::max_element(scores, scores + n);
  float sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    scores[j] = std::exp(scores[j] - most);
    sum += scores[j];
  }
  for (int64_t j = 0; j < n; ++j) scores[j] /= sum;
}

void add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void check_tensors(const DecoupledRouter& router) {
  TANDEM_CHECK(std::ssize(router.blocks) == router.shape.n_blocks, "%zu blocks",
               router.blocks.size());
  for_each_decoupled_tensor(
      router, [](const std::string& name, const std::vector<int64_t>& sides, const auto& values) {
        int64_t n = 1;
        for (const int64_t side : sides) n *= side;
        TANDEM_CHECK(std::ssize(values) == n, "%s has %zu values", name.c_str(), values.size());
      });
}

std::string range_fault(const char* what, int64_t got, int64_t least, int64_t most) {
  if (got >= least && got <= most) return "";
  return fmt::format("{}: expected {} to {}, got {}", what, least, most, got);
}

}  // namespace

std::string decoupled_shape_fault(const DecoupledShape& s) {
  constexpr int32_t kMostVocab = 1 << 24;
  constexpr int32_t kMostWidth = 1 << 14;
  constexpr int32_t kMostFf = 1 << 16;
  constexpr int32_t kMostBlocks = 64;
  constexpr int32_t kMostExperts = 4096;
  constexpr int32_t kMostLayers = 4096;
  constexpr int32_t kMostWindow = 1 << 24;
  std::string fault;
  const auto check = [&](const char* what, int64_t got, int64_t least, int64_t most) {
    if (fault.empty()) fault = range_fault(what, got, least, most);
  };
  check("vocab", s.n_vocab, 1, kMostVocab);
  check("width", s.width, 2, kMostWidth);
  check("heads", s.n_heads, 1, s.width / 2);
  check("blocks", s.n_blocks, 1, kMostBlocks);
  check("ff", s.ff, 1, kMostFf);
  check("experts", s.n_experts, 1, kMostExperts);
  check("top_k", s.top_k, 1, s.n_experts);
  check("layers", s.n_layers, 1, kMostLayers);
  check("window", s.window, 0, kMostWindow);
  if (!fault.empty()) return fault;
  if (s.width % (2 * s.n_heads) != 0) {
    return fmt::format("width: expected a multiple of twice the {} heads, got {}", s.n_heads,
                       s.width);
  }
  constexpr float kMostBase = 1e12F;
  if (!(s.rope_base >= 1 && s.rope_base <= kMostBase)) {
    return fmt::format("rope_base: expected 1 to {}, got {}", kMostBase, s.rope_base);
  }
  constexpr float kMostScale = 1e6F;
  if (!(s.attention_scale > 0 && s.attention_scale <= kMostScale)) {
    return fmt::format("attention_scale: expected more than 0 and at most {}, got {}", kMostScale,
                       s.attention_scale);
  }
  return "";
}

std::string decoupled_tensor_name(size_t block, const char* part) {
  return fmt::format("router.blk.{}.{}", block, part);
}

std::string decoupled_hash(const DecoupledRouter& router) {
  const DecoupledShape& s = router.shape;
  Sha256 hash;
  const std::array<int32_t, 9> numbers{s.n_vocab,   s.width, s.n_heads,  s.n_blocks, s.ff,
                                       s.n_experts, s.top_k, s.n_layers, s.window};
  hash.add(std::as_bytes(std::span(numbers)));
  const std::array<float, 2> reals{s.rope_base, s.attention_scale};
  hash.add(std::as_bytes(std::span(reals)));
  for_each_decoupled_tensor(router, [&](const std::string&, const auto&, const auto& values) {
    hash.add(std::as_bytes(std::span(values)));
  });
  return hash.hex();
}

DecoupledState::DecoupledState(const DecoupledRouter& router, int64_t n_ctx, int64_t max_tokens)
    : router_(router), n_ctx_(n_ctx), max_tokens_(max_tokens) {
  const DecoupledShape& s = router.shape;
  const std::string fault = decoupled_shape_fault(s);
  TANDEM_CHECK(fault.empty(), "%s", fault.c_str());
  check_tensors(router);
  TANDEM_CHECK(n_ctx > 0 && max_tokens > 0, "n_ctx %lld, max_tokens %lld",
               static_cast<long long>(n_ctx), static_cast<long long>(max_tokens));
  const int64_t head = s.width / s.n_heads;
  for (int64_t i = 0; i < head / 2; ++i) {
    frequencies_.push_back(std::pow(static_cast<double>(s.rope_base),
                                    -2 * static_cast<double>(i) / static_cast<double>(head)));
  }
  const auto sized = [](std::vector<float>* values, int64_t n) {
    values->resize(static_cast<size_t>(n));
  };
  sized(&cos_, max_tokens * (head / 2));
  sized(&sin_, max_tokens * (head / 2));
  sized(&keys_, s.n_blocks * n_ctx * s.width);
  sized(&values_, s.n_blocks * n_ctx * s.width);
  sized(&scores_, kAttentionTasks * n_ctx);
  for (auto* rows : {&x_, &normed_, &queries_, &attended_, &added_}) {
    sized(rows, max_tokens * s.width);
  }
  sized(&hidden_, max_tokens * s.ff);
  sized(&logits_, max_tokens * s.n_experts);
}

int64_t DecoupledState::bytes(const DecoupledShape& s, int64_t n_ctx, int64_t max_tokens) {
  const int64_t held = n_ctx * (int64_t{2} * s.n_blocks * s.width + kAttentionTasks);
  const int64_t rows = int64_t{5} * s.width + s.ff + s.n_experts + s.width / s.n_heads;
  return (held + max_tokens * rows) * static_cast<int64_t>(sizeof(float));
}

void DecoupledState::rewind(int64_t n) {
  TANDEM_CHECK(n >= 0 && n <= n_tokens_, "%lld of %lld tokens", static_cast<long long>(n),
               static_cast<long long>(n_tokens_));
  n_tokens_ = n;
}

void DecoupledState::fill_rotations(int64_t n) {
  const size_t half = frequencies_.size();
  for (int64_t t = 0; t < n; ++t) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(n_tokens_ + t) * frequencies_[i];
      cos_[static_cast<size_t>(t) * half + i] = static_cast<float>(std::cos(angle));
      sin_[static_cast<size_t>(t) * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void DecoupledState::attend(size_t block, int64_t n, ParallelFor parallel) {
  const int64_t w = router_.shape.width;
  const int64_t n_heads = router_.shape.n_heads;
  const int64_t head = w / n_heads;
  const int64_t window = router_.shape.window;
  const float* keys = keys_.data() + static_cast<int64_t>(block) * n_ctx_ * w;
  const float* values = values_.data() + static_cast<int64_t>(block) * n_ctx_ * w;
  const auto one = [&](int64_t t, int64_t h, float* scores) {
    const float* query = queries_.data() + t * w + h * head;
    const int64_t end = n_tokens_ + t + 1;
    const int64_t first = window > 0 ? std::max<int64_t>(0, end - window) : 0;
    for (int64_t j = first; j < end; ++j) {
      scores[j] = router_.shape.attention_scale * dot(query, keys + j * w + h * head, head);
    }
    softmax(scores + first, end - first);
    float* out = attended_.data() + t * w + h * head;
    std::fill(out, out + head, 0.0F);
    for (int64_t j = first; j < end; ++j) {
      const float* value = values + j * w + h * head;
      for (int64_t i = 0; i < head; ++i) out[i] += scores[j] * value[i];
    }
  };
  parallel(std::min(kAttentionTasks, n * n_heads), [&](int64_t task) {
    for (int64_t i = task; i < n * n_heads; i += kAttentionTasks) {
      one(i / n_heads, i % n_heads, scores_.data() + task * n_ctx_);
    }
  });
}

void DecoupledState::run_block(size_t block, int64_t n, ParallelFor parallel) {
  const DecoupledRouter::Block& b = router_.blocks[block];
  const int64_t w = router_.shape.width;
  const int64_t ff = router_.shape.ff;
  const int64_t n_heads = router_.shape.n_heads;
  const int64_t here = (static_cast<int64_t>(block) * n_ctx_ + n_tokens_) * w;
  float* keys = keys_.data() + here;
  normalize(x_.data(), b.attn_norm, n, normed_.data());
  linear(b.wq, b.bq, normed_.data(), n, w, w, queries_.data(), parallel);
  linear(b.wk, b.bk, normed_.data(), n, w, w, keys, parallel);
  linear(b.wv, b.bv, normed_.data(), n, w, w, values_.data() + here, parallel);
  const auto half = static_cast<int64_t>(frequencies_.size());
  for (int64_t t = 0; t < n; ++t) {
    const float* cosines = cos_.data() + t * half;
    const float* sines = sin_.data() + t * half;
    rotate(queries_.data() + t * w, cosines, sines, n_heads, 2 * half);
    rotate(keys + t * w, cosines, sines, n_heads, 2 * half);
  }
  attend(block, n, parallel);
  linear(b.wo, {}, attended_.data(), n, w, w, added_.data(), parallel);
  add(x_.data(), added_.data(), n * w);

  normalize(x_.data(), b.ffn_norm, n, normed_.data());
  linear(b.w1, b.b1, normed_.data(), n, ff, w, hidden_.data(), parallel);
  for (int64_t i = 0; i < n * ff; ++i) {
    float& v = hidden_[static_cast<size_t>(i)];
    v = v / (1 + std::exp(-v));
  }
  linear(b.w2, b.b2, hidden_.data(), n, w, ff, added_.data(), parallel);
  add(x_.data(), added_.data(), n * w);
}

std::span<const float> DecoupledState::append(std::span<const int32_t> tokens,
                                              ParallelFor parallel) {
  const DecoupledShape& s = router_.shape;
  const auto n = static_cast<int64_t>(tokens.size());
  TANDEM_CHECK(n <= max_tokens_ && n <= n_ctx_ - n_tokens_, "%lld tokens behind %lld",
               static_cast<long long>(n), static_cast<long long>(n_tokens_));
  for (int64_t t = 0; t < n; ++t) {
    const int32_t token = tokens[static_cast<size_t>(t)];
    TANDEM_CHECK(token >= 0 && token < s.n_vocab, "token %d of %d", token, s.n_vocab);
    std::copy_n(router_.embed.data() + int64_t{token} * s.width, s.width, x_.data() + t * s.width);
  }
  if (n == 0) return {};
  fill_rotations(n);
  for (size_t b = 0; b < router_.blocks.size(); ++b) run_block(b, n, parallel);
  normalize(x_.data(), router_.out_norm, n, normed_.data());
  linear(router_.out, {}, normed_.data(), n, s.n_experts, s.width, logits_.data(), parallel);
  n_tokens_ += n;
  return {logits_.data(), static_cast<size_t>(n * s.n_experts)};
}

}  // namespace tandem
