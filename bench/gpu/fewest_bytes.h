// The bytes that a decode token cannot do without.
#pragma once

#include <cstdint>

#include "runtime/engine/engine.h"

namespace tandem {

// What a token must read in device memory and write there, with all experts in VRAM: each weight
// that it uses once, keys and values of what came before, its own. Activations, which could stay in
// caches, are none of it. Mean of tokens at positions 0 to tokens - 1.
int64_t fewest_bytes(const Model& model, const EngineSettings& settings, int64_t tokens);

}  // namespace tandem
