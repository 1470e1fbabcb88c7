// Matrices that stay as the file has them: in its mapping, or in memory that they are read into.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/parallel.h"
#include "runtime/model/byte_ranges.h"
#include "runtime/model/gguf_file.h"
#include "runtime/model/model.h"

namespace tandem {

// In file order. kExperts: routed experts and the embedding, what the CPU reads beside a GPU.
std::vector<ByteRange> unpacked_ranges(const ModelWeights& weights, PackScope scope);

// Reads the ranges to their places, or touches the pages that are mapped; in order, and asks the
// kernel for what follows. Errors as GgufFile::fill. progress: bytes done.
void bring_in(const std::vector<ByteRange>& ranges, GgufFile* file, ParallelFor parallel,
              const std::function<void(int64_t)>& progress);

}  // namespace tandem
