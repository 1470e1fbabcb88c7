// A model as the simulator sees it: how many layers and experts, and how many bytes each part
// moves. Read from configs/models/*.toml by the runtime, or taken from a GGUF file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

struct ModelShape {
  std::string name;
  int32_t n_layers = 0;  // layers with routed experts; dense ones are in `other`
  int32_t n_experts = 0;
  int32_t top_k = 0;

  // One routed expert of each layer, [n_layers].
  std::vector<int64_t> expert_bytes;
  int64_t expert_params = 0;  // 2 flops each and token
  int32_t split_pieces = 1;   // equal parts along the intermediate dimension that can run apart

  // What the GPU does in each MoE layer beside routed experts: attention, norms, router.
  struct Part {
    int64_t bytes = 0;   // weights, read once a step
    int64_t params = 0;  // 2 flops each and token
  };
  Part attention;
  Part shared_expert;              // zero where there is none
  int64_t kv_bytes_per_token = 0;  // of one layer, at 16 bits
  int64_t attention_width = 0;     // heads x head size: 4 flops each, token and position
  // Once a step: leading dense layers and the output head.
  Part other;
};

}  // namespace tandem
