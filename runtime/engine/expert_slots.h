// The bytes behind the ExpertCache's slots: where each lies in device memory, and the timepoints
// that order copies and kernels. A copy into a slot waits for its last use; a kernel that reads a
// slot waits until it is ready. No reference counts.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cache/types.h"
#include "runtime/device/device.h"
#include "runtime/model/model.h"

namespace tandem {

class ExpertSlots {
 public:
  // Bytes of one slot: the largest expert of any layer, its three matrices 256-byte aligned.
  static int64_t slot_bytes(const Model& model);

  // Takes `wanted` slots, or as many as fit into what the device has left; never more than the
  // model has experts, and none on a device that reads host memory.
  ExpertSlots(const Model& model, Device& device, std::optional<int32_t> wanted);

  int32_t count() const { return static_cast<int32_t>(state_.size()); }

  // Enqueues the copy of an expert into a slot.
  void fetch(ExpertKey key, SlotId slot);
  // Who is in a slot needs no second copy in this process: gives the pages of the mapped file back.
  // The page cache keeps them, so an expert that is evicted comes back for the price of page
  // faults. Call when the CPU has read the expert for the last time in this step.
  void drop_host_pages(ExpertKey key) const;
  // The expert's matrices at device addresses.
  ExpertWeights weights(ExpertKey key, SlotId slot) const;
  Timepoint ready(SlotId slot) const { return state_[static_cast<size_t>(slot.value)].ready; }
  void used(SlotId slot, Timepoint by) { state_[static_cast<size_t>(slot.value)].last_use = by; }

 private:
  struct State {
    Timepoint ready;
    Timepoint last_use;
  };

  const Model& model_;
  Device& device_;
  int64_t slot_bytes_;
  DeviceAddr base_;
  std::vector<State> state_;
};

}  // namespace tandem
