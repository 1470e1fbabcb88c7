// Which model a routing trace is of.
#pragma once

#include <string>

#include "runtime/model/model.h"

namespace tandem {

// SHA-256, in hexadecimal, of the routers alone: for each layer the tensor's type id, rows and
// columns as little-endian u64, then its bytes as the file has them. Files of one model that are
// quantised differently have the same hash as long as their routers are stored alike.
std::string router_hash(const Model& model);

}  // namespace tandem
