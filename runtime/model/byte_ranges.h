// Lists of ranges of a file's bytes. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model/file_image.h"

namespace tandem {

// In the order of their addresses; those that touch become one.
std::vector<ByteRange> merged(std::vector<ByteRange> ranges);
// Each cut into pieces of at most piece_bytes.
std::vector<ByteRange> cut(const std::vector<ByteRange>& ranges, size_t piece_bytes);
int64_t total_bytes(const std::vector<ByteRange>& ranges);

}  // namespace tandem
