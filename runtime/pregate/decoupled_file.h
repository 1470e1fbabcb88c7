// The file of a decoupled router: a side-car as pregate_file.h's, of kind decoupled-transformer.
// README.md describes it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "runtime/pregate/decoupled_router.h"

namespace tandem {

// FileError for what is no such file, or damaged, or holds numbers that are not finite.
DecoupledRouter read_decoupled(const std::string& path);
// The same for a file in memory; `where` opens every message.
DecoupledRouter parse_decoupled(std::span<const std::byte> file, const std::string& where);

// The bytes of the file.
std::string decoupled_bytes(const DecoupledRouter& router);

}  // namespace tandem
