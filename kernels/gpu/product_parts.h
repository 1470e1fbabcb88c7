// Up to three products of the same x as one grid of groups of 16 rows.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

VGPU_HOST_DEVICE int groups_of(const PackedWeights& w) { return (w.rows + 15) / 16; }
VGPU_HOST_DEVICE int all_groups(const ProductParts& parts) {
  return groups_of(parts.first.w) + groups_of(parts.second.w) + groups_of(parts.third.w);
}

// The part that a group belongs to, of those one behind the other; *group: in that part.
VGPU_DEVICE ProductPart part_of(const ProductParts& parts, int* group) {
  const int first = groups_of(parts.first.w);
  if (*group < first) return parts.first;
  *group -= first;
  const int second = groups_of(parts.second.w);
  if (*group < second) return parts.second;
  *group -= second;
  return parts.third;
}

VGPU_DEVICE void write_sum(const ProductPart& part, int token, int row, float sum) {
  part.y[static_cast<int64_t>(token) * part.w.rows + row] =
      part.bias != nullptr ? sum + part.bias[row] : sum;
}

}  // namespace VGPU_NAMESPACE
