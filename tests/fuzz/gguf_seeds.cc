// Writes the seed corpus of gguf_fuzz: small valid files, into the folder named by the argument.
#include <filesystem>
#include <string>

#include "tests/fuzz/seeds.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

GgufBuilder all_values() {
  GgufBuilder b;
  b.add("s", "text").add("b", true).add("f", 1.5F).add("d", 2.5);
  b.add("u1", uint8_t{1}).add("u2", uint16_t{2}).add("u4", 4U).add("u8", uint64_t{8});
  b.add("i1", int8_t{-1}).add("i2", int16_t{-2}).add("i4", -4).add("i8", int64_t{-8});
  return b;
}

GgufBuilder all_arrays() {
  GgufBuilder b;
  b.add_strings("s", {"a", "", "bc"}).add_array<bool>("b", {true, false});
  b.add_array<float>("f", {1, 2}).add_array<double>("d", {3});
  b.add_array<uint8_t>("u1", {1, 2}).add_array<uint16_t>("u2", {3}).add_array<uint32_t>("u4", {4});
  b.add_array<uint64_t>("u8", {5}).add_array<int8_t>("i1", {-1}).add_array<int16_t>("i2", {-2});
  b.add_array<int32_t>("i4", {-3}).add_array<int64_t>("i8", {-4});
  return b;
}

GgufBuilder tensors(uint32_t version, uint32_t alignment) {
  GgufBuilder b;
  b.set_version(version).set_alignment(alignment).add("general.architecture", "llama");
  b.add_tensor_f32("norm", {4}, {1, 2, 3, 4});
  b.add_tensor("q8_0", 8, {32, 2}, Bytes(68)).add_tensor("q4_K", 12, {256, 1, 2, 1}, Bytes(288));
  return b;
}

TinyModel qwen2moe() {
  TinyModel model;
  model.arch = "qwen2moe";
  model.counts["expert_shared_feed_forward_length"] = 12;
  model.shapes["blk.0.ffn_gate_shexp.weight"] = {8, 12};
  model.shapes["blk.0.ffn_up_shexp.weight"] = {8, 12};
  model.shapes["blk.0.ffn_down_shexp.weight"] = {12, 8};
  model.extra.add(model.key("rope.scaling.type"), "yarn")
      .add(model.key("rope.scaling.factor"), 4.0F);
  return model;
}

void write_all(const std::filesystem::path& dir) {
  GgufBuilder().write_file(dir / "empty.gguf");
  all_values().write_file(dir / "values.gguf");
  all_arrays().write_file(dir / "arrays.gguf");
  tensors(3, 32).write_file(dir / "tensors.gguf");
  tensors(2, 8).write_file(dir / "tensors_v2.gguf");
  tensors(3, 256).write_file(dir / "tensors_256.gguf");
  TinyModel().file().write_file(dir / "llama.gguf");
  qwen2moe().file().write_file(dir / "qwen2moe.gguf");
  tensors(3, 32)
      .add("split.no", uint16_t{0})
      .add("split.count", uint16_t{1})
      .write_file(dir / "split.gguf");
}

}  // namespace
}  // namespace tandem::test

int main(int argc, char** argv) {
  return tandem::fuzz::write_seeds(argc, argv, tandem::test::write_all);
}
