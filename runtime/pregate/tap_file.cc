#include "runtime/pregate/tap_file.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "kernels/check.h"
#include "kernels/quant.h"
#include "runtime/error.h"
#include "runtime/model/byte_reader.h"

namespace tandem {
namespace {

constexpr std::string_view kMagic = "TANDEMTP";
constexpr int64_t kHeadBytes = 8 + 5 * 4;
constexpr int64_t kMostTokens = int64_t{1} << 24;

uint32_t version_of(const TapShape& shape) { return shape.before_attention ? 2 : 1; }

int64_t layer_bytes(const TapShape& shape, int64_t n) {
  const int64_t vectors = shape.before_attention ? 2 : 1;
  return n * (vectors * 2 * shape.d_model + int64_t{4} * shape.n_experts);
}
int64_t bytes_of(const TapShape& shape, int64_t n) {
  return kHeadBytes + 4 * n + shape.n_layers * layer_bytes(shape, n);
}

template <typename T>
void put(std::ofstream* out, const std::vector<T>& values, int64_t n) {
  out->write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(n * static_cast<int64_t>(sizeof(T))));
}

}  // namespace

TapShape tap_shape(const ModelConfig& config) {
  return {static_cast<int32_t>(config.n_layers), config.routing.n_experts,
          static_cast<int32_t>(config.d_model), false};
}

TapBuffer::TapBuffer(const TapShape& shape)
    : shape_(shape),
      inputs_(static_cast<size_t>(shape.n_layers)),
      logits_(static_cast<size_t>(shape.n_layers)),
      before_(static_cast<size_t>(shape.n_layers)) {}

int64_t TapBuffer::token_bytes(const TapShape& shape) {
  return 4 + shape.n_layers * layer_bytes(shape, 1);
}

void TapBuffer::clear() {
  n_whole_ = 0;
  tokens_.clear();
  for (auto& layer : inputs_) layer.clear();
  for (auto& layer : logits_) layer.clear();
  for (auto& layer : before_) layer.clear();
}

void TapBuffer::add(int32_t layer, int32_t token, const float* input, const float* logits,
                    const float* before_attention) {
  const auto l = static_cast<size_t>(layer);
  const auto d = static_cast<size_t>(shape_.d_model);
  const auto e = static_cast<size_t>(shape_.n_experts);
  TANDEM_CHECK(inputs_[l].size() == static_cast<size_t>(n_whole_) * d, "layer %d out of order",
               layer);
  TANDEM_CHECK(shape_.before_attention == (before_attention != nullptr),
               "layer %d: another tap than the shape has", layer);
  if (layer == 0) tokens_.push_back(token);
  for (size_t i = 0; i < d; ++i) inputs_[l].push_back(f32_to_f16(input[i]));
  logits_[l].insert(logits_[l].end(), logits, logits + e);
  for (size_t i = 0; shape_.before_attention && i < d; ++i) {
    before_[l].push_back(f32_to_f16(before_attention[i]));
  }
  if (layer == shape_.n_layers - 1) ++n_whole_;
}

int64_t TapBuffer::file_bytes() const { return bytes_of(shape_, n_whole_); }

void TapBuffer::write(const std::string& path) const {
  const std::string temporary = path + ".part";
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out.write(kMagic.data(), kMagic.size());
  const std::vector<uint32_t> head{
      version_of(shape_), static_cast<uint32_t>(n_whole_), static_cast<uint32_t>(shape_.n_layers),
      static_cast<uint32_t>(shape_.n_experts), static_cast<uint32_t>(shape_.d_model)};
  put(&out, head, static_cast<int64_t>(head.size()));
  put(&out, tokens_, n_whole_);
  for (size_t l = 0; l < inputs_.size(); ++l) {
    put(&out, inputs_[l], n_whole_ * shape_.d_model);
    put(&out, logits_[l], n_whole_ * shape_.n_experts);
    if (shape_.before_attention) put(&out, before_[l], n_whole_ * shape_.d_model);
  }
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(temporary, path, error);
  if (out && !error) return;
  const std::string why = error ? error.message() : std::strerror(errno);
  std::filesystem::remove(temporary, error);
  throw FileError(path, "cannot be written: " + why);
}

TapFile::TapFile(const std::string& path, const TapShape& shape)
    : path_(path), image_(path), shape_(shape) {
  ByteReader in(image_.bytes(), path_);
  const std::string_view magic = in.read_bytes(kMagic.size(), "the magic");
  if (magic != kMagic) in.fail(fmt::format("expected {}, got {}", kMagic, tandem::quoted(magic)));
  const auto version = in.read<uint32_t>("the version");
  if (version != version_of(shape)) {
    in.fail(fmt::format("version {}; expected {}", version, version_of(shape)));
  }
  const auto n = in.read<uint32_t>("the number of tokens");
  const auto layers = in.read<uint32_t>("layers");
  const auto experts = in.read<uint32_t>("experts");
  const auto width = in.read<uint32_t>("the width");
  if (layers != static_cast<uint32_t>(shape.n_layers) ||
      experts != static_cast<uint32_t>(shape.n_experts) ||
      width != static_cast<uint32_t>(shape.d_model)) {
    in.fail(fmt::format("expected {} layers, {} experts and a width of {}, got {}, {} and {}",
                        shape.n_layers, shape.n_experts, shape.d_model, layers, experts, width));
  }
  if (n > kMostTokens) in.fail(fmt::format("expected at most {} tokens, got {}", kMostTokens, n));
  n_ = n;
  const auto size = static_cast<int64_t>(image_.bytes().size());
  if (size != bytes_of(shape, n_)) {
    in.fail(fmt::format("expected {} bytes for {} tokens, got {}{}", bytes_of(shape, n_), n_, size,
                        size < bytes_of(shape, n_) ? " (truncated?)" : ""));
  }
}

const std::byte* TapFile::layer_at(int32_t layer) const {
  return image_.bytes().data() + kHeadBytes + 4 * n_ + layer * layer_bytes(shape_, n_);
}

std::vector<int32_t> TapFile::tokens() const {
  std::vector<int32_t> ids(static_cast<size_t>(n_));
  if (n_ > 0) std::memcpy(ids.data(), image_.bytes().data() + kHeadBytes, 4 * ids.size());
  return ids;
}

void TapFile::read_inputs(int32_t layer, int64_t first, int64_t n, float* inputs) const {
  read_halves(layer_at(layer) + 2 * first * shape_.d_model, layer, first, n, inputs);
}

void TapFile::read_before_attention(int32_t layer, int64_t first, int64_t n, float* before) const {
  TANDEM_CHECK(shape_.before_attention, "layer %d: no such tap", layer);
  const std::byte* behind = layer_at(layer) + n_ * (2 * shape_.d_model + 4 * shape_.n_experts);
  read_halves(behind + 2 * first * shape_.d_model, layer, first, n, before);
}

void TapFile::read_halves(const std::byte* from, int32_t layer, int64_t first, int64_t n,
                          float* inputs) const {
  const int64_t d = shape_.d_model;
  dequantize(DType::kF16, from, inputs, n * d);
  for (int64_t i = 0; i < n * d; ++i) {
    if (!std::isfinite(inputs[i])) {
      throw FileError(
          path_, fmt::format("token {}, layer {}: an input is not finite", first + i / d, layer));
    }
  }
}

void TapFile::read_logits(int32_t layer, int64_t first, int64_t n, float* logits) const {
  const int64_t e = shape_.n_experts;
  std::memcpy(logits, layer_at(layer) + 2 * n_ * shape_.d_model + 4 * first * e,
              static_cast<size_t>(4 * n * e));
  for (int64_t i = 0; i < n * e; ++i) {
    if (!std::isfinite(logits[i])) {
      throw FileError(
          path_, fmt::format("token {}, layer {}: a logit is not finite", first + i / e, layer));
    }
  }
}

}  // namespace tandem
