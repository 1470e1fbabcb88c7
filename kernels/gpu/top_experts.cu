// The experts that a router's logits select, best first: a warp a row.
#include "kernels/gpu/gpu_launchers.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {
namespace {

constexpr int kRowWarps = 4;
constexpr float kLargest = 3.402823466e38F;
constexpr int kPerLane = kMostExperts / kWarpSize;

// A lane's share of a row: of experts lane, lane + 32, … scores, which are not negative.
struct LaneScores {
  static constexpr float kNone = -1;
  float of[kPerLane];
  int lane;

  // f(its place, expert) for each that there is.
  template <typename F>
  VGPU_DEVICE void each(int n_experts, const F& f) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = lane + kWarpSize * i;
      if (e < n_experts) f(&of[i], e);
    }
  }
};

// False where a logit is not finite.
VGPU_DEVICE bool load_scores(const float* logits, const TopExperts& call, LaneScores* scores) {
  float top = -INFINITY;
  int bad = 0;
#pragma unroll
  for (float& score : scores->of) score = LaneScores::kNone;
  scores->each(call.n_experts, [&](float* score, int e) {
    *score = logits[e];
    bad |= !(fabsf(*score) <= kLargest);
    top = fmaxf(top, *score);
  });
  if (__any_sync(kAllLanes, bad)) return false;
  if (call.sigmoid) {
    scores->each(call.n_experts, [&](float* score, int) { *score = 1 / (1 + expf(-*score)); });
    return true;
  }
  top = warp_max(top);
  float sum = 0;
  scores->each(call.n_experts, [&](float* score, int) { sum += * score = expf(*score - top); });
  sum = warp_sum(sum);
  scores->each(call.n_experts, [&](float* score, int) { *score /= sum; });
  return true;
}

// The best of all lanes, of equals the lower id; it is then taken out.
VGPU_DEVICE int take_best(LaneScores* scores, float* value) {
  float best = LaneScores::kNone;
  int id = kMostExperts;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (scores->of[i] > best) {
      best = scores->of[i];
      id = scores->lane + kWarpSize * i;
    }
  }
#pragma unroll
  for (int bit = kWarpSize / 2; bit > 0; bit /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, bit);
    const int other_id = __shfl_xor_sync(kAllLanes, id, bit);
    if (other > best || (other == best && other_id < id)) {
      best = other;
      id = other_id;
    }
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (id == scores->lane + kWarpSize * i) scores->of[i] = LaneScores::kNone;
  }
  *value = best;
  return id;
}

// blockIdx: kRowWarps rows.
VGPU_KERNEL void VGPU_LAUNCH_BOUNDS(kRowWarps* kWarpSize)
    top_experts_kernel(TopExperts call, int n) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x) * kRowWarps + thread / kWarpSize;
  if (row >= n) return;
  LaneScores scores;
  scores.lane = thread % kWarpSize;
  const bool finite =
      load_scores(call.logits + static_cast<int64_t>(row) * call.n_experts, call, &scores);
  const int64_t first = static_cast<int64_t>(row) * call.count;
  for (int r = 0; r < call.count; ++r) {
    float score = 0;
    const int id = finite ? take_best(&scores, &score) : -1;
    if (scores.lane != 0) continue;
    call.ids[first + r] = id;
    if (call.scores != nullptr) call.scores[first + r] = score;
  }
}

}  // namespace

void top_experts(void* stream, const TopExperts& call, int n) {
  if (n == 0) return;
  VGPU_LAUNCH(top_experts_kernel, dim3((static_cast<unsigned>(n) + kRowWarps - 1) / kRowWarps),
              dim3(kRowWarps * kWarpSize), 0, stream, call, n);
}

}  // namespace VGPU_NAMESPACE
