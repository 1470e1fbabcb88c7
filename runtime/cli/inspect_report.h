// What tandem inspect tells about a GGUF file, as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "runtime/model/gguf_file.h"

namespace tandem {

// Keys: file, version, parts, alignment, file_bytes, metadata, tensor_count, types,
// expert_bytes, all_expert_bytes, other_bytes, active_bytes_per_token; tensors when asked for.
// Arrays of the metadata are {"length": n, "first": [up to 8]}.
nlohmann::ordered_json inspect_report(const GgufFile& file, bool tensors);

}  // namespace tandem
