// The expert tables of a side-car, as tensors of its file. README.md describes them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "runtime/pregate/pregate.h"
#include "runtime/pregate/safetensors.h"

namespace tandem {

// A side-car has all of a lookahead's tables or none.
bool has_tables(const SafeTensors& content);
// Of the layers, experts and distances of `shape`. FileError, opened by `where`, for what is
// missing, has another shape or type, is not finite, or names an expert or token that cannot be.
ExpertTables read_tables(const SafeTensors& content, const Pregate& shape,
                         const std::string& where);
size_t n_table_tensors(const ExpertTables& tables);

// What tensors of a file point to that is no vector of a table.
using TableStorage = std::vector<std::vector<float>>;
// Adds the tables, if there are any; they and the result outlive the content.
TableStorage add_tables(const Pregate& pregate, SafeTensors* content);

}  // namespace tandem
