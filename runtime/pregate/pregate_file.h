// The side-car of a model, model.pregate.safetensors: a fitted lookahead in a safetensors file.
// README.md describes it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "runtime/model/model.h"
#include "runtime/pregate/pregate.h"

namespace tandem {

inline constexpr const char* kLinearKind = "linear";                    // Pregate
inline constexpr const char* kDecoupledKind = "decoupled-transformer";  // DecoupledRouter

// Which of the two a side-car in memory is; only what is in front of its tensors is looked at.
// FileError, opened by `where`, for what is neither.
std::string pregate_kind(std::span<const std::byte> file, const std::string& where);

// FileError for what is no such file, is of another kind, or damaged, or holds numbers that are not
// finite.
Pregate read_pregate(const std::string& path);
// The same for a file in memory; `where` opens every message.
Pregate parse_pregate(std::span<const std::byte> file, const std::string& where);

// The bytes of the file.
std::string pregate_bytes(const Pregate& pregate);

// FileError, opened by `where`, unless it was fitted for a model of this shape.
void check_pregate_shape(const Pregate& pregate, const ModelConfig& config,
                         const std::string& where);
// The same, unless it was fitted for these very routers, which are read.
void check_pregate_fits(const Pregate& pregate, const Model& model, const std::string& where);

}  // namespace tandem
