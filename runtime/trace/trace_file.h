// Routing traces in files: our own compact format, CSV and JSON lines. README.md describes all
// three. Every count is bounded by the limits of a trace and by the bytes that are there before
// anything is allocated for it; a FileError names the file and the line or the offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "scheduler/trace.h"

namespace tandem {

// The format is told by the first bytes.
Trace read_trace(const std::string& path);
// The same for a file that is in memory; `where` opens every message.
Trace parse_trace(std::span<const std::byte> image, const std::string& where);

// In our own format; weights are rounded to half precision. Written under another name and
// renamed, so that `path` holds the whole trace or what it held before. FileError as well for a
// trace that no reader would take. Returns the bytes of the file.
int64_t write_trace(const Trace& trace, const std::string& path);

// ConfigError unless the trace is of a model with this shape. Hashes are compared where both are
// known.
void check_trace_fits(const Trace& trace, int32_t n_layers, int32_t n_experts, int32_t top_k,
                      std::string_view model_hash);

}  // namespace tandem
