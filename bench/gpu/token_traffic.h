// What decode tokens read and write of a GPU's memory: as their launches declare, and as their
// kernels do, counted in the emulation.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "kernels/gpu/emulation/traffic.h"
#include "runtime/engine/engine.h"

namespace tandem {

struct TokenTraffic {
  int64_t fewest = 0;    // bytes of a token: weights that it uses, keys and values
  int64_t declared = 0;  // by its launches
  std::map<std::string, vgpu::Traffic> by_kernel;  // of all tokens
};

// All experts are in VRAM, and graphs have been captured; counted are the first `tokens` of a
// context. Errors as Engine's.
TokenTraffic token_traffic(const Model& model, int32_t tokens);

}  // namespace tandem
