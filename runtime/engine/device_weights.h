// The dense weights (attention, norms, router, shared expert, head) where the device can read
// them: in the mapped file itself for a CPU, uploaded for a GPU, packed where GPU kernels read
// them. Experts are not here; they pass through slots. Owned by the executor; addresses are valid
// as long as it lives.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/device/host_array.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/model/model.h"

namespace tandem {

inline constexpr int64_t kFloat = sizeof(float);

// A WeightView here holds a device address; KernelScope::read makes it readable.
struct DeviceVector {
  DeviceAddr at;  // null: the layer has none
  int64_t n = 0;
  explicit operator bool() const { return n > 0; }
  int64_t bytes() const { return n * kFloat; }
};

// What a launch declares of a weight that its kernel reads; nothing for one that is absent.
inline Touch read_of(const WeightView& w) {
  return {{const_cast<std::byte*>(w.data)}, w ? w.span_bytes() : 0, false};
}
inline Touch read_of(const DeviceVector& v) { return {v.at, v.bytes(), false}; }

struct DeviceLayer {
  DeviceVector attn_norm, bq, bk, bv, bo, q_norm, k_norm, ffn_norm;
  WeightView wq, wk, wv, wo, router;
  std::optional<SharedExpert> shared;
};

// A guess of a later layer's logits: w x + bias of what the layer's own router sees. w is of
// kGuessType, or of f32 where that has no such blocks, or values that are not finite.
inline constexpr DType kGuessType = DType::kQ8_0;
struct DeviceGuess {
  WeightView w;  // [n_experts, d]
  DeviceVector bias;
};

class DeviceWeights {
 public:
  // MemoryError when the device is too small. Waits for the copies. What the lookahead's guesses
  // are made with is among the weights.
  DeviceWeights(const Model& model, Device& device, const Lookahead& lookahead);

  const DeviceLayer& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  // By distance, from the lookahead's first one on; those that lead to a layer.
  std::span<const DeviceGuess> guesses(int64_t layer) const {
    return guesses_[static_cast<size_t>(layer)];
  }
  const DeviceVector& output_norm() const { return output_norm_; }
  const WeightView& output() const { return output_; }

 private:
  void upload_fitted(const Pregate& fitted, int32_t count);
  void upload_reused(const std::vector<LayerWeights>& layers, const Lookahead& lookahead);
  // Of the model's file, whose pages are not needed afterwards.
  WeightView upload(const WeightView& host, const char* tag);
  WeightView copied(const WeightView& host, const char* tag);
  WeightView copied_packed(const WeightView& host, const char* tag);
  // A copy in any case: `host` is gone afterwards.
  WeightView kept(const WeightView& host, const char* tag);
  DeviceVector upload(const Vector& host, const char* tag);

  Device& device_;
  Timepoint last_copy_{};
  std::vector<std::span<const std::byte>> uploaded_;  // parts of the file, while uploading
  HostArray<std::byte> packed_;                       // likewise
  std::vector<DeviceLayer> layers_;
  std::vector<std::vector<DeviceGuess>> guesses_;  // [n_layers]
  DeviceVector output_norm_;
  WeightView output_;
};

}  // namespace tandem
