#include "runtime/model/families.h"

#include <fmt/format.h>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/gguf_file.h"

namespace tandem {
namespace {

// The shared expert's width is in its own key, or in its tensor where old converters left it out.
// Neither: there is no shared expert.
void adjust_qwen2moe(const GgufFile& file, ModelConfig* config) {
  constexpr std::string_view kKey = "qwen2moe.expert_shared_feed_forward_length";
  const GgufTensor* gate = file.find_tensor("blk.0.ffn_gate_shexp.weight");
  const auto said = file.get_uint(kKey);
  const uint64_t width = said.value_or(gate != nullptr ? gate->ne[1] : 0);
  if (width > kMaxWidth || (width == 0 && gate != nullptr)) {
    throw FileError(
        file.name(),
        fmt::format("{} is {}; expected 1 to {}{}",
                    said ? kKey : "the number of rows of blk.0.ffn_gate_shexp.weight", width,
                    kMaxWidth, width == 0 ? " because there is blk.0.ffn_gate_shexp.weight" : ""));
  }
  config->shared_ff = static_cast<int64_t>(width);
}

// What `tandem refactor` makes of a dense model: a router of its own decides, in a file of its own.
void adjust_readme(const GgufFile& file, ModelConfig* config) {
  constexpr std::string_view kWidth = "readme-moe.expert_shared_feed_forward_length";
  const uint64_t width = file.get_uint(kWidth).value_or(0);
  if (width > kMaxWidth) {
    throw FileError(file.name(),
                    fmt::format("{} is {}; expected 0 to {}", kWidth, width, kMaxWidth));
  }
  config->shared_ff = static_cast<int64_t>(width);
  constexpr std::string_view kDense = "readme-moe.dense_architecture";
  const std::string_view dense = file.need_string(kDense);
  if (dense == "qwen3") {
    config->rope.style = RopeStyle::kHalves;
    config->qk_norm = QkNorm::kPerHead;
  } else if (dense != "llama") {
    throw FileError(file.name(), fmt::format("{} is {}; expected llama or qwen3", kDense,
                                             tandem::quoted(dense)));
  }
  constexpr std::string_view kHash = "readme-moe.router.sha256";
  const std::string_view hash = file.need_string(kHash);
  if (hash.size() != 64 || hash.find_first_not_of("0123456789abcdef") != hash.npos) {
    throw FileError(file.name(), fmt::format("{} is {}; expected 64 hexadecimal digits", kHash,
                                             tandem::quoted(hash)));
  }
  config->decoupled_router = hash;
}

// `llama` files hold Mixtral when they have experts. Q and K rows are permuted by the converter so
// that RoPE turns neighbours.
constexpr Family kFamilies[] = {
    {"llama", "Mixtral", RopeStyle::kInterleaved, QkNorm::kNone, true, nullptr},
    {"olmoe", "OLMoE", RopeStyle::kHalves, QkNorm::kWholeRow, false, nullptr},
    {"qwen2moe", "Qwen1.5-MoE, Qwen2-MoE", RopeStyle::kHalves, QkNorm::kNone, false,
     adjust_qwen2moe},
    {"readme-moe", "dense models refactored", RopeStyle::kInterleaved, QkNorm::kNone, true,
     adjust_readme},
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
