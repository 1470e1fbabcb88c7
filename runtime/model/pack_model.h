// A model's matrices in the layout that CPU kernels read (kernels/packed.h). The file is read in
// small pieces, also where it is mapped: the model is in memory once.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/tensor.h"
#include "runtime/model/gguf_file.h"
#include "runtime/model/host_memory.h"
#include "runtime/model/model.h"

namespace tandem {

// Bytes that packing takes. Matrices that make no whole groups stay as they are.
int64_t packed_bytes_of(const ModelWeights& weights, PackScope scope);

// Moves the views to packed copies, one layer after the other, while the next one is read ahead.
// Returns the memory that they point into. MemoryError when there is none; weights are then as
// before. FileError when the file cannot be read; weights are then of no use. progress: bytes done,
// of packed_bytes_of(). Pages come from `nodes` as node_of_byte() has it.
HostRegion pack_weights(ModelWeights* weights, const GgufFile& file, PackScope scope,
                        ParallelFor parallel, const std::function<void(int64_t)>& progress,
                        const MemoryNodes& nodes);

// Only turns the views to what pack_weights() would make of them. They lead to no memory: for
// whoever needs sizes and layouts.
void lay_out_packed(ModelWeights* weights, PackScope scope);

}  // namespace tandem
