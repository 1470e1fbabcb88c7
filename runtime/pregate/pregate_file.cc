#include "runtime/pregate/pregate_file.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/quant.h"
#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/file_image.h"
#include "runtime/model/router_hash.h"
#include "runtime/pregate/safetensors.h"
#include "runtime/pregate/tables_file.h"

namespace tandem {
namespace {

constexpr const char* kFormat = "tandem-pregate";
constexpr const char* kVersion = "2";
constexpr const char* kBare = "1";  // the version that has no tables
constexpr const char* kKind = "linear";
constexpr const char* kTap = "router-input";
constexpr int64_t kMostLayers = 4096;
constexpr int64_t kMostExperts = 4096;
constexpr int64_t kMostTokens = int64_t{1} << 48;

std::string tensor_name(int32_t target, int32_t distance, const char* part) {
  return fmt::format("pregate.{}.d{}.{}", target, distance, part);
}

class Reader {
 public:
  Reader(const SafeTensors& content, const std::string& where) : content_(content), where_(where) {}

  Pregate read() {
    expect("format", kFormat);
    const bool bare = text("version") == kBare;
    if (!bare) expect("version", kVersion);
    expect("kind", kKind);
    expect("tap", kTap);
    Pregate out;
    out.model = text("model");
    out.router_hash = text("router_sha256");
    out.n_layers = static_cast<int32_t>(number("layers", 1, kMostLayers));
    out.n_experts = static_cast<int32_t>(number("experts", 1, kMostExperts));
    out.top_k = static_cast<int32_t>(number("top_k", 1, out.n_experts));
    out.d_model = static_cast<int32_t>(number("width", 1, kMaxWidth));
    out.n_distances = static_cast<int32_t>(number("distances", 1, Pregate::kMostDistances));
    out.training_tokens = number("training_tokens", 0, kMostTokens);
    for (int32_t s = 0; s < out.n_layers; ++s) {
      for (int32_t d = 1; d <= out.n_distances && s + d < out.n_layers; ++d) {
        out.links.push_back(read_link(out, s, d));
      }
    }
    size_t expected = kParts * out.links.size();
    if (!bare && has_tables(content_)) {
      out.tables = read_tables(content_, out, where_);
      expected += n_table_tensors(*out.tables);
    }
    if (content_.tensors.size() != expected) {
      fail(fmt::format("expected {} tensors, got {}", expected, content_.tensors.size()));
    }
    return out;
  }

 private:
  static constexpr size_t kParts = 4;

  [[noreturn]] void fail(const std::string& what) const { throw FileError(where_, what); }

  const std::string& text(const char* key) const {
    const auto at = content_.metadata.find(key);
    if (at == content_.metadata.end()) {
      fail(fmt::format("__metadata__: expected the key {}", key));
    }
    return at->second;
  }

  void expect(const char* key, const char* value) const {
    if (text(key) == value) return;
    fail(fmt::format("__metadata__: {}: expected {}, got {}", key, value,
                     tandem::quoted(text(key))));
  }

  int64_t number(const char* key, int64_t least, int64_t most) const {
    const std::string& digits = text(key);
    int64_t value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    if (error == std::errc() && stop == end && value >= least && value <= most) return value;
    fail(fmt::format("__metadata__: {}: expected a whole number from {} to {}, got {}", key, least,
                     most, tandem::quoted(digits)));
  }

  std::vector<float> floats(const std::string& name, int64_t n) const {
    return tensor_values<float>(content_, name, "F32", {n}, where_);
  }

  PregateLink read_link(const Pregate& shape, int32_t source, int32_t distance) const {
    const int32_t target = source + distance;
    PregateLink link;
    link.source = source;
    link.distance = distance;
    link.weight = tensor_values<uint16_t>(content_, tensor_name(target, distance, "weight"), "F16",
                                          {shape.n_experts, shape.d_model}, where_);
    link.bias = floats(tensor_name(target, distance, "bias"), shape.n_experts);
    const std::vector<float> calib = floats(tensor_name(target, distance, "calib"), 2);
    link.calib_scale = calib[0];
    link.calib_offset = calib[1];
    const std::vector<float> recall = floats(tensor_name(target, distance, "recall"), 2);
    link.recall = recall[0];
    link.reuse_recall = recall[1];
    return link;
  }

  const SafeTensors& content_;
  const std::string& where_;
};

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

Pregate parse_pregate(std::span<const std::byte> file, const std::string& where) {
  const SafeTensors content = parse_safetensors(file, where);
  return Reader(content, where).read();
}

Pregate read_pregate(const std::string& path) {
  const FileImage image(path);
  return parse_pregate(image.bytes(), path);
}

std::string pregate_bytes(const Pregate& pregate) {
  SafeTensors content;
  content.metadata = {{"format", kFormat},
                      {"version", kVersion},
                      {"kind", kKind},
                      {"tap", kTap},
                      {"model", pregate.model},
                      {"router_sha256", pregate.router_hash},
                      {"layers", std::to_string(pregate.n_layers)},
                      {"experts", std::to_string(pregate.n_experts)},
                      {"top_k", std::to_string(pregate.top_k)},
                      {"width", std::to_string(pregate.d_model)},
                      {"distances", std::to_string(pregate.n_distances)},
                      {"training_tokens", std::to_string(pregate.training_tokens)}};
  std::vector<std::vector<float>> pairs;  // what is no vector in a link
  pairs.reserve(2 * pregate.links.size());
  for (const PregateLink& link : pregate.links) {
    const auto name = [&](const char* part) {
      return tensor_name(link.source + link.distance, link.distance, part);
    };
    content.tensors[name("weight")] = {
        "F16", {pregate.n_experts, pregate.d_model}, bytes_of(link.weight)};
    content.tensors[name("bias")] = {"F32", {pregate.n_experts}, bytes_of(link.bias)};
    pairs.push_back({link.calib_scale, link.calib_offset});
    content.tensors[name("calib")] = {"F32", {2}, bytes_of(pairs.back())};
    pairs.push_back({link.recall, link.reuse_recall});
    content.tensors[name("recall")] = {"F32", {2}, bytes_of(pairs.back())};
  }
  const TableStorage storage = add_tables(pregate, &content);
  return safetensors_bytes(content);
}

void check_pregate_shape(const Pregate& pregate, const ModelConfig& c, const std::string& where) {
  const auto check = [&](const char* what, int64_t got, int64_t expected) {
    if (got == expected) return;
    throw FileError(where, fmt::format("it is for another model: {}: expected {}, got {}", what,
                                       expected, got));
  };
  check("layers", pregate.n_layers, c.n_layers);
  check("experts", pregate.n_experts, c.routing.n_experts);
  check("experts of a token", pregate.top_k, c.routing.top_k);
  check("width", pregate.d_model, c.d_model);
}

void check_pregate_fits(const Pregate& pregate, const Model& model, const std::string& where) {
  check_pregate_shape(pregate, model.config(), where);
  const std::string hash = router_hash(model);
  if (hash == pregate.router_hash) return;
  throw FileError(where, fmt::format("it is for another model: SHA-256 of the routers: expected "
                                     "{}, got {}",
                                     hash, tandem::quoted(pregate.router_hash)));
}

}  // namespace tandem
