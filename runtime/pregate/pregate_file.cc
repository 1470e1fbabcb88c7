#include "runtime/pregate/pregate_file.h"

#include <fmt/format.h>

#include <vector>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/file_image.h"
#include "runtime/model/router_hash.h"
#include "runtime/pregate/safetensors.h"
#include "runtime/pregate/side_car.h"
#include "runtime/pregate/tables_file.h"

namespace tandem {
namespace {

constexpr const char* kTap = "router-input";
constexpr int64_t kMostLayers = 4096;
constexpr int64_t kMostExperts = 4096;
constexpr size_t kTensorsOfLink = 4;

std::string tensor_name(int32_t target, int32_t distance, const char* part) {
  return fmt::format("pregate.{}.d{}.{}", target, distance, part);
}

PregateLink read_link(const SideCar& file, const Pregate& shape, int32_t source, int32_t distance) {
  const int32_t target = source + distance;
  PregateLink link;
  link.source = source;
  link.distance = distance;
  link.weight =
      file.halves(tensor_name(target, distance, "weight"), {shape.n_experts, shape.d_model});
  link.bias = file.floats(tensor_name(target, distance, "bias"), {shape.n_experts});
  const std::vector<float> calib = file.floats(tensor_name(target, distance, "calib"), {2});
  link.calib_scale = calib[0];
  link.calib_offset = calib[1];
  const std::vector<float> recall = file.floats(tensor_name(target, distance, "recall"), {2});
  link.recall = recall[0];
  link.reuse_recall = recall[1];
  return link;
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

Pregate parse_pregate(std::span<const std::byte> file, const std::string& where) {
  const SideCar in(file, where);
  in.expect_kind(kLinearKind);
  in.expect("tap", kTap);
  Pregate out;
  out.model = in.text("model");
  out.router_hash = in.text("router_sha256");
  out.n_layers = static_cast<int32_t>(in.number("layers", 1, kMostLayers));
  out.n_experts = static_cast<int32_t>(in.number("experts", 1, kMostExperts));
  out.top_k = static_cast<int32_t>(in.number("top_k", 1, out.n_experts));
  out.d_model = static_cast<int32_t>(in.number("width", 1, kMaxWidth));
  out.n_distances = static_cast<int32_t>(in.number("distances", 1, Pregate::kMostDistances));
  out.training_tokens = in.number("training_tokens", 0, kMostTrainingTokens);
  for (int32_t s = 0; s < out.n_layers; ++s) {
    for (int32_t d = 1; d <= out.n_distances && s + d < out.n_layers; ++d) {
      out.links.push_back(read_link(in, out, s, d));
    }
  }
  size_t n_tensors = kTensorsOfLink * out.links.size();
  if (!in.bare() && has_tables(in.content())) {
    out.tables = read_tables(in.content(), out, where);
    n_tensors += n_table_tensors(*out.tables);
  }
  in.expect_tensors(n_tensors);
  return out;
}

std::string pregate_kind(std::span<const std::byte> file, const std::string& where) {
  return SideCar(file, where).kind();
}

Pregate read_pregate(const std::string& path) {
  const FileImage image(path);
  return parse_pregate(image.bytes(), path);
}

std::string pregate_bytes(const Pregate& pregate) {
  SafeTensors content;
  content.metadata = {{"format", kSideCarFormat},
                      {"version", kSideCarVersion},
                      {"kind", kLinearKind},
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
