// What routers see and say of one text, in a file: what a lookahead is fitted on. README.md has the
// bytes. Layer by layer, since that is how a fit reads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/file_image.h"
#include "runtime/model/model_config.h"

namespace tandem {

struct TapShape {
  int32_t n_layers = 0;
  int32_t n_experts = 0;
  int32_t d_model = 0;
  bool before_attention = false;  // whether the residual before attention is there, too
  bool operator==(const TapShape&) const = default;
};

TapShape tap_shape(const ModelConfig& config);

// Gathers the tokens of one text in memory: token_bytes() for each.
class TapBuffer {
 public:
  explicit TapBuffer(const TapShape& shape);

  static int64_t token_bytes(const TapShape& shape);
  void clear();
  // One token in one layer, layers in order: a layer-0 call begins a token. input: [d] f32, logits:
  // [n_experts] f32, before_attention: [d] f32 or, where the shape has none, null.
  void add(int32_t layer, int32_t token, const float* input, const float* logits,
           const float* before_attention = nullptr);
  // Of tokens that have passed all layers.
  int64_t n_tokens() const { return n_whole_; }
  int64_t file_bytes() const;
  // Under another name first, so that `path` is whole or not there. FileError.
  void write(const std::string& path) const;

 private:
  TapShape shape_;
  int64_t n_whole_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<std::vector<uint16_t>> inputs_;  // [n_layers] of [n, d]
  std::vector<std::vector<float>> logits_;     // [n_layers] of [n, n_experts]
  std::vector<std::vector<uint16_t>> before_;  // [n_layers] of [n, d], or of nothing
};

// A mapped file. Its size is checked when it is opened, numbers when they are read.
class TapFile {
 public:
  // FileError when it is no such file, is cut, or has another shape.
  TapFile(const std::string& path, const TapShape& shape);

  int64_t n_tokens() const { return n_; }
  // All of them, as ids: [n_tokens()].
  std::vector<int32_t> tokens() const;
  // Tokens [first, first + n) of one layer, as f32. inputs, before: [n, d], logits: [n, n_experts].
  // FileError for a number that is not finite.
  void read_inputs(int32_t layer, int64_t first, int64_t n, float* inputs) const;
  void read_logits(int32_t layer, int64_t first, int64_t n, float* logits) const;
  // Only where the shape has it.
  void read_before_attention(int32_t layer, int64_t first, int64_t n, float* before) const;

 private:
  const std::byte* layer_at(int32_t layer) const;
  // Halves [n, d] at `from`, which hold tokens from `first` on.
  void read_halves(const std::byte* from, int32_t layer, int64_t first, int64_t n,
                   float* inputs) const;

  std::string path_;
  FileImage image_;
  TapShape shape_;
  int64_t n_ = 0;
};

}  // namespace tandem
