#include "runtime/refactor/extract.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "runtime/refactor/dense_forward.h"

namespace tandem {
namespace {

using Channels = std::span<const int32_t>;

// Keys that say what the refactored model has otherwise, or not at all.
bool is_replaced(std::string_view key, std::string_view arch) {
  if (key == "general.architecture" || key == "general.alignment" || key.starts_with("split.")) {
    return true;
  }
  if (key.starts_with("readme-moe.")) return true;
  if (!key.starts_with(arch) || key.substr(arch.size(), 1) != ".") return false;
  return key.substr(arch.size() + 1).starts_with("expert_");
}

void add_metadata(const DenseModel& model, const ExpertMasks& masks, const std::string& router_hash,
                  GgufWriter* writer) {
  const std::string& arch = model.config().arch;
  const GgufFile& file = model.file();
  const auto key = [](std::string_view name) {
    return fmt::format("{}.{}", kRefactoredArchitecture, name);
  };
  writer->add_string("general.architecture", kRefactoredArchitecture);
  for (size_t i = 0; i < file.metadata().size(); ++i) {
    const std::string_view name = file.metadata()[i].first;
    if (is_replaced(name, arch)) continue;
    const bool of_arch = name.starts_with(arch + ".");
    writer->add_raw(of_arch ? key(name.substr(arch.size() + 1)) : std::string(name),
                    file.raw_metadata()[i]);
  }
  writer->add_string(key("dense_architecture"), arch);
  writer->add_u32(key("expert_count"), static_cast<uint32_t>(masks.n_experts()));
  writer->add_u32(key("expert_used_count"), 1);
  writer->add_u32(key("expert_feed_forward_length"), static_cast<uint32_t>(masks.width));
  if (masks.residual > 0) {
    writer->add_u32(key("expert_shared_feed_forward_length"),
                    static_cast<uint32_t>(masks.residual));
  }
  writer->add_string(key("router.sha256"), router_hash);
}

// The rows, or columns, of a matrix that each part has, one part behind the other.
GgufWriter::Source rows_of(const WeightView& w, std::vector<Channels> parts) {
  return [w, parts = std::move(parts)](const GgufWriter::Sink& sink) {
    for (const Channels channels : parts) {
      for (const int32_t channel : channels) {
        sink({w.data + channel * w.run_stride(), static_cast<size_t>(w.row_bytes())});
      }
    }
  };
}

GgufWriter::Source columns_of(const WeightView& w, std::vector<Channels> parts) {
  return [w, parts = std::move(parts)](const GgufWriter::Sink& sink) {
    std::vector<std::byte> gathered;
    for (const Channels channels : parts) {
      gather_columns(w, channels, &gathered);
      sink(gathered);
    }
  };
}

// One of a layer's feed-forward matrices as the given parts; several are GGUF's 3-D tensor.
void add_parts(const std::string& name, const WeightView& w, bool by_rows,
               const std::vector<Channels>& parts, bool merged, GgufWriter* writer) {
  const auto width = static_cast<uint64_t>(parts.front().size());
  std::vector<uint64_t> ne = by_rows ? std::vector<uint64_t>{static_cast<uint64_t>(w.cols), width}
                                     : std::vector<uint64_t>{width, static_cast<uint64_t>(w.rows)};
  if (merged) ne.push_back(parts.size());
  writer->add_tensor(name, static_cast<uint32_t>(w.type), std::move(ne),
                     by_rows ? rows_of(w, parts) : columns_of(w, parts));
}

void add_ffn(int64_t layer, const DenseLayer& w, const LayerChannels& channels,
             GgufWriter* writer) {
  const std::vector<Channels> experts(channels.experts.begin(), channels.experts.end());
  const std::string prefix = fmt::format("blk.{}.ffn_", layer);
  const auto add = [&](const char* which, const WeightView& matrix, bool by_rows) {
    add_parts(fmt::format("{}{}_exps.weight", prefix, which), matrix, by_rows, experts, true,
              writer);
    if (channels.residual.empty()) return;
    add_parts(fmt::format("{}{}_shexp.weight", prefix, which), matrix, by_rows,
              {Channels(channels.residual)}, false, writer);
  };
  add("gate", w.gate, true);
  add("up", w.up, true);
  add("down", w.down, false);
}

// The layer of blk.N.ffn_gate.weight and its like; -1 for other tensors.
int64_t replaced_layer(const DenseModel& model, std::string_view name) {
  for (int64_t layer = 0; layer < model.config().n_layers; ++layer) {
    for (const char* which : {"gate", "up", "down"}) {
      if (name == fmt::format("blk.{}.ffn_{}.weight", layer, which)) return layer;
    }
  }
  return -1;
}

}  // namespace

bool write_refactored(const DenseModel& model, const ExpertMasks& masks,
                      const std::string& router_hash, const std::filesystem::path& path,
                      const GgufWriter::Hooks& hooks) {
  GgufWriter writer;
  add_metadata(model, masks, router_hash, &writer);
  std::vector<bool> added(masks.layers.size());
  for (const GgufTensor& tensor : model.file().tensors()) {
    const int64_t layer = replaced_layer(model, tensor.name);
    if (layer < 0) {
      writer.add_tensor(tensor.name, tensor.type_id, {tensor.ne, tensor.ne + tensor.n_dims},
                        [bytes = tensor.bytes()](const GgufWriter::Sink& sink) { sink(bytes); });
    } else if (!added[static_cast<size_t>(layer)]) {
      added[static_cast<size_t>(layer)] = true;
      add_ffn(layer, model.layers()[static_cast<size_t>(layer)],
              masks.layers[static_cast<size_t>(layer)], &writer);
    }
  }
  return writer.write(path, hooks);
}

}  // namespace tandem
