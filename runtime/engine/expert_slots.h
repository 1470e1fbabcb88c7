// The bytes behind the ExpertCache's slots: where each lies in device memory, and the timepoints
// that order copies and kernels. In slots that GPU kernels read, experts are packed; if they are
// not in host memory, then on their way. A copy into a slot waits for its last use; a kernel that
// reads a slot waits until it is ready. No reference counts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/types.h"
#include "runtime/device/device.h"
#include "runtime/device/host_array.h"
#include "runtime/model/model.h"

namespace tandem {

inline constexpr const char* kSlotsTag = "expert slots";
inline constexpr int32_t kExpertBuffers = 2;  // one is filled while the other is read

struct SlotRoom {
  CacheShape cache;
  int32_t n_buffers = 0;        // 0 or kExpertBuffers
  int64_t without_buffers = 0;  // capacity where the device refuses them
};

class ExpertSlots {
 public:
  // Bytes of one expert of each layer in a slot of the device, its three matrices 256-byte aligned:
  // [n_layers].
  static std::vector<int64_t> expert_bytes(const Model& model, const Device& device);

  // Slots for a cache of this shape, whose expert_bytes are the above; fewer where the device
  // refuses that much, although it seemed to have it: free memory may lie in pieces, and other
  // programs take some. None on a device that reads host memory. HostMemoryError. And buffers for
  // experts of any layer that are fetched without a slot.
  ExpertSlots(const Model& model, Device& device, const SlotRoom& wanted);

  // What the device granted: what was wanted, or with less capacity.
  const CacheShape& shape() const { return shape_; }
  // Why it was less, or why there are no buffers; empty: it was not.
  const std::string& refusal() const { return refusal_; }
  int32_t count() const { return static_cast<int32_t>(state_.size()) - n_buffers_; }
  int32_t n_buffers() const { return n_buffers_; }
  // A slot that is no cache's: behind the others.
  SlotId buffer(int32_t i) const;
  int32_t buffer_of(SlotId slot) const { return slot.value - count(); }  // < 0: a cache's
  int64_t bytes() const;

  // What fetch() reads of the expert is wanted soon: with many experts it is in no near cache.
  void expect(ExpertKey key) const;
  // Enqueues the copy of an expert's intermediate values [begin, end) into a slot.
  void fetch(ExpertKey key, SlotId slot, int64_t begin, int64_t end);
  // Who is in a slot needs no second copy in this process: gives the pages of the mapped file back,
  // where weights are mapped.
  // The page cache keeps them, so an expert that is evicted comes back for the price of page
  // faults. Call when the CPU has read the expert for the last time in this step.
  void drop_host_pages(ExpertKey key) const;
  // The expert's matrices at device addresses.
  ExpertWeights weights(ExpertKey key, SlotId slot) const;
  Timepoint ready(SlotId slot) const { return state_[static_cast<size_t>(slot.value)].ready; }
  void used(SlotId slot, Timepoint by) { state_[static_cast<size_t>(slot.value)].last_use = by; }

 private:
  // Memory of every class; MemoryError, and then there is none.
  void alloc_classes();
  void alloc_buffers(const SlotRoom& wanted);
  DeviceAddr address(SlotId slot) const;
  Timepoint copy(const WeightView& host, const WeightView& device);
  Timepoint copy_packing(const WeightView& host, const WeightView& device);

  struct State {
    Timepoint ready;
    Timepoint last_use;
  };
  // How a layer's experts lie in a slot, with no address yet.
  struct SlotLayout {
    ExpertWeights matrices;
    int64_t up_at = 0;
    int64_t down_at = 0;
  };
  static SlotLayout layout_of(const ExpertWeights& host, const Device& device);

  const Model& model_;
  Device& device_;
  CacheShape shape_;
  std::vector<SlotLayout> layouts_;  // [n_layers]
  std::string refusal_;
  std::vector<SlotClass> classes_;
  std::vector<DeviceAddr> bases_;  // of each class
  int32_t n_buffers_ = 0;
  int64_t buffer_bytes_ = 0;  // of one
  DeviceAddr buffers_{};
  std::vector<State> state_;  // of slots, then of buffers
  // Of an expert that GPU kernels read and that is not packed in host memory.
  HostArray<std::byte> packed_;
  Timepoint packed_until_;
};

}  // namespace tandem
