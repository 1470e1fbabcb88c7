// Files that travel inside the program, so that it runs from any folder without any other file.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace tandem {

// demo/hearthside-q8_0.gguf
std::span<const std::byte> embedded_model();
inline constexpr std::string_view kEmbeddedModelName = "hearthside-q8_0.gguf (built in)";
// demo/hearthside-q8_0.pregate.safetensors, its fitted lookahead
std::span<const std::byte> embedded_pregate();
inline constexpr std::string_view kEmbeddedPregateName =
    "hearthside-q8_0.pregate.safetensors (built in)";

struct EmbeddedFile {
  std::string_view name;  // without folder and ending: "rtx3060-ddr4"
  std::string_view text;
};

// configs/machines/*.toml
std::span<const EmbeddedFile> embedded_machines();

// configs/models/*.toml
std::span<const EmbeddedFile> embedded_shapes();

// configs/policies/*.toml
std::span<const EmbeddedFile> embedded_policies();

}  // namespace tandem
