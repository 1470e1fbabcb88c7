#include "runtime/pregate/decoupled_file.h"

#include <fmt/format.h>

#include <limits>

#include "runtime/model/file_image.h"
#include "runtime/pregate/pregate_file.h"
#include "runtime/pregate/safetensors.h"
#include "runtime/pregate/side_car.h"

namespace tandem {
namespace {

constexpr const char* kScope = "shared-all-layers";

DecoupledShape read_shape(const SideCar& in) {
  const auto count = [&](const char* key) {
    return static_cast<int32_t>(in.number(key, 1, std::numeric_limits<int32_t>::max()));
  };
  DecoupledShape shape;
  shape.n_vocab = count("vocab");
  shape.width = count("width");
  shape.n_heads = count("heads");
  shape.n_blocks = count("blocks");
  shape.ff = count("ff");
  shape.n_experts = count("experts");
  shape.top_k = count("top_k");
  shape.n_layers = count("layers");
  shape.window = static_cast<int32_t>(in.number("window", 0, std::numeric_limits<int32_t>::max()));
  shape.rope_base = in.real("rope_base");
  shape.attention_scale = in.real("attention_scale");
  const std::string fault = decoupled_shape_fault(shape);
  if (!fault.empty()) in.fail(fmt::format("__metadata__: {}", fault));
  return shape;
}

}  // namespace

DecoupledRouter parse_decoupled(std::span<const std::byte> file, const std::string& where) {
  const SideCar in(file, where);
  in.expect_kind(kDecoupledKind);
  in.expect("scope", kScope);
  DecoupledRouter router;
  router.shape = read_shape(in);
  router.model = in.text("model");
  router.training_tokens = in.number("training_tokens", 0, kMostTrainingTokens);
  router.validation_accuracy = in.real("validation_accuracy");
  if (!(router.validation_accuracy >= 0 && router.validation_accuracy <= 1)) {
    in.fail(fmt::format("__metadata__: validation_accuracy: expected 0 to 1, got {}",
                        router.validation_accuracy));
  }
  router.blocks.resize(static_cast<size_t>(router.shape.n_blocks));
  size_t n_tensors = 0;
  for_each_decoupled_tensor(
      router, [&](const std::string& name, const std::vector<int64_t>& shape, auto& values) {
        values = in.floats(name, shape);
        ++n_tensors;
      });
  in.expect_tensors(n_tensors);
  return router;
}

DecoupledRouter read_decoupled(const std::string& path) {
  const FileImage image(path);
  return parse_decoupled(image.bytes(), path);
}

std::string decoupled_bytes(const DecoupledRouter& router) {
  const DecoupledShape& s = router.shape;
  SafeTensors content;
  content.metadata = {{"format", kSideCarFormat},
                      {"version", kSideCarVersion},
                      {"kind", kDecoupledKind},
                      {"scope", kScope},
                      {"model", router.model},
                      {"vocab", std::to_string(s.n_vocab)},
                      {"width", std::to_string(s.width)},
                      {"heads", std::to_string(s.n_heads)},
                      {"blocks", std::to_string(s.n_blocks)},
                      {"ff", std::to_string(s.ff)},
                      {"experts", std::to_string(s.n_experts)},
                      {"top_k", std::to_string(s.top_k)},
                      {"layers", std::to_string(s.n_layers)},
                      {"window", std::to_string(s.window)},
                      {"rope_base", fmt::format("{}", s.rope_base)},
                      {"attention_scale", fmt::format("{}", s.attention_scale)},
                      {"training_tokens", std::to_string(router.training_tokens)},
                      {"validation_accuracy", fmt::format("{}", router.validation_accuracy)}};
  for_each_decoupled_tensor(
      router, [&](const std::string& name, const std::vector<int64_t>& shape, const auto& values) {
        content.tensors[name] = {"F32", shape, std::as_bytes(std::span(values))};
      });
  return safetensors_bytes(content);
}

}  // namespace tandem
