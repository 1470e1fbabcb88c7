#include "runtime/model/families.h"

#include "runtime/model/gguf_file.h"

namespace tandem {
namespace {

// The shared expert's width is in its own key, or in its tensor where old converters left it out.
void adjust_qwen2moe(const GgufFile& file, ModelConfig* config) {
  if (const auto width = file.get_uint("qwen2moe.expert_shared_feed_forward_length")) {
    config->shared_ff = static_cast<int64_t>(*width);
  } else if (const GgufTensor* gate = file.find_tensor("blk.0.ffn_gate_shexp.weight")) {
    config->shared_ff = static_cast<int64_t>(gate->ne[1]);
  }
}

// `llama` files hold Mixtral when they have experts. Q and K rows are permuted by the converter so
// that RoPE turns neighbours.
constexpr Family kFamilies[] = {
    {"llama", "Mixtral", RopeStyle::kInterleaved, QkNorm::kNone, true, nullptr},
    {"olmoe", "OLMoE", RopeStyle::kHalves, QkNorm::kWholeRow, false, nullptr},
    {"qwen2moe", "Qwen1.5-MoE, Qwen2-MoE", RopeStyle::kHalves, QkNorm::kNone, false,
     adjust_qwen2moe},
    {"qwen3moe", "Qwen3-MoE", RopeStyle::kHalves, QkNorm::kPerHead, true, nullptr},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family* find_family(std::string_view arch) {
  for (const Family& family : kFamilies) {
    if (family.arch == arch) return &family;
  }
  return nullptr;
}

}  // namespace tandem
