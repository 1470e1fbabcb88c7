#include "runtime/model/router_hash.h"

#include <array>
#include <bit>
#include <span>
#include <vector>

#include "kernels/packed.h"
#include "runtime/model/sha256.h"

namespace tandem {

static_assert(std::endian::native == std::endian::little, "numbers are hashed as they are");

std::string router_hash(const Model& model) {
  if (!model.config().decoupled_router.empty()) return model.config().decoupled_router;
  Sha256 hash;
  for (const LayerWeights& layer : model.weights().layers) {
    const WeightView& router = layer.router;
    const std::array<uint64_t, 3> shape{static_cast<uint64_t>(router.type),
                                        static_cast<uint64_t>(router.rows),
                                        static_cast<uint64_t>(router.cols)};
    hash.add(std::as_bytes(std::span(shape)));
    if (router.layout == Layout::kRows) {
      hash.add({router.data, static_cast<size_t>(router.bytes())});
      continue;
    }
    std::vector<std::byte> row(static_cast<size_t>(router.row_bytes()));
    for (int64_t r = 0; r < router.rows; ++r) {
      unpack_row(router, r, row.data());
      hash.add(row);
    }
  }
  return hash.hex();
}

}  // namespace tandem
