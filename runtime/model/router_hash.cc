#include "runtime/model/router_hash.h"

#include <array>
#include <bit>
#include <span>

#include "runtime/model/sha256.h"

namespace tandem {

static_assert(std::endian::native == std::endian::little, "numbers are hashed as they are");

std::string router_hash(const Model& model) {
  Sha256 hash;
  for (const LayerWeights& layer : model.weights().layers) {
    const WeightView& router = layer.router;
    const std::array<uint64_t, 3> shape{static_cast<uint64_t>(router.type),
                                        static_cast<uint64_t>(router.rows),
                                        static_cast<uint64_t>(router.cols)};
    hash.add(std::as_bytes(std::span(shape)));
    hash.add({router.data, static_cast<size_t>(router.bytes())});
  }
  return hash.hex();
}

}  // namespace tandem
