// The smallest model that loads: one llama layer of width 8, two heads, two experts. Its parts are
// for tests to change before it is built.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/support/gguf_builder.h"

namespace tandem::test {

struct TinyModel {
  std::string arch = "llama";
  // Of `arch`: written as "ARCH.key". What is not listed here is absent.
  std::map<std::string, uint32_t> counts = {{"block_count", 1},      {"context_length", 32},
                                            {"embedding_length", 8}, {"attention.head_count", 2},
                                            {"expert_count", 2},     {"expert_used_count", 1}};
  // Shapes as GGUF has them, the row length first; every tensor is f32 and holds 0.5.
  std::map<std::string, std::vector<uint64_t>> shapes = {
      {"token_embd.weight", {8, 4}},
      {"output_norm.weight", {8}},
      {"blk.0.attn_norm.weight", {8}},
      {"blk.0.attn_q.weight", {8, 8}},
      {"blk.0.attn_k.weight", {8, 8}},
      {"blk.0.attn_v.weight", {8, 8}},
      {"blk.0.attn_output.weight", {8, 8}},
      {"blk.0.ffn_norm.weight", {8}},
      {"blk.0.ffn_gate_inp.weight", {8, 2}},
      {"blk.0.ffn_gate_exps.weight", {8, 16, 2}},
      {"blk.0.ffn_up_exps.weight", {8, 16, 2}},
      {"blk.0.ffn_down_exps.weight", {16, 8, 2}}};
  // Replaces what the tensor of this name holds.
  std::map<std::string, std::vector<float>> values;
  GgufBuilder extra;  // begins the file: further keys and tensors

  std::string key(const std::string& name) const { return arch + "." + name; }

  GgufBuilder file() const {
    GgufBuilder builder = extra;
    builder.add("general.architecture", arch);
    for (const auto& [name, value] : counts) builder.add_u32(key(name), value);
    for (const auto& [name, shape] : shapes) {
      size_t n = 1;
      for (const uint64_t ne : shape) n *= ne;
      const auto given = values.find(name);
      builder.add_tensor_f32(name, shape,
                             given != values.end() ? given->second : std::vector<float>(n, 0.5F));
    }
    return builder;
  }
};

}  // namespace tandem::test
