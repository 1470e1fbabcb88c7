// Writes the refactored model: of each feed-forward network the residual's and the experts'
// channels as matrices of their own, everything else as it was. README.md describes the file.
#pragma once

#include <filesystem>
#include <string>

#include "runtime/model/gguf_writer.h"
#include "runtime/refactor/dense_model.h"
#include "runtime/refactor/masks.h"

namespace tandem {

inline constexpr std::string_view kRefactoredArchitecture = "readme-moe";

// Rows of gate and up, columns of down, in the order of the channels; weights keep their type and
// bits. router_hash: decoupled_hash() of the router that goes with it.
// False when hooks.interrupted() said so. FileError when it cannot be written.
bool write_refactored(const DenseModel& model, const ExpertMasks& masks,
                      const std::string& router_hash, const std::filesystem::path& path,
                      const GgufWriter::Hooks& hooks);

}  // namespace tandem
