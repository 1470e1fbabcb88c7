#include "runtime/engine/expert_slots.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

const ExpertWeights& host_weights(const Model& model, ExpertKey key) {
  return model.weights()
      .layers[static_cast<size_t>(key.layer.value)]
      .experts[static_cast<size_t>(key.expert.value)];
}

// Whether the groups of gate and up stand side by side (pack_model.h); in a slot they do so too.
bool take_turns(const ExpertWeights& w) {
  return w.up.data == w.gate.data + w.gate.run_bytes() &&
         w.gate.stride_bytes == 2 * w.gate.run_bytes();
}

// Gate and up that take turns, as one matrix.
WeightView both(WeightView gate) {
  gate.rows *= 2;
  gate.stride_bytes = 0;
  return gate;
}

}  // namespace

std::vector<int64_t> ExpertSlots::expert_bytes(const Model& model) {
  std::vector<int64_t> bytes;
  for (const LayerWeights& layer : model.weights().layers) {
    const ExpertWeights& expert = layer.experts.front();  // a layer's experts have one type
    bytes.push_back(aligned(expert.gate.bytes()) + aligned(expert.up.bytes()) +
                    aligned(expert.down.bytes()));
  }
  return bytes;
}

ExpertSlots::ExpertSlots(const Model& model, Device& device, const CacheShape& shape)
    : model_(model), device_(device) {
  if (device.info().host_memory) return;
  classes_ = slot_classes(shape);
  for (const SlotClass& c : classes_) {
    state_.resize(state_.size() + static_cast<size_t>(c.count));
    bases_.push_back(c.count > 0 ? device.alloc(c.slot_bytes * c.count, "expert slots")
                                 : DeviceAddr{});
  }
}

int64_t ExpertSlots::bytes() const {
  int64_t bytes = 0;
  for (const SlotClass& c : classes_) bytes += c.slot_bytes * c.count;
  return bytes;
}

DeviceAddr ExpertSlots::address(SlotId slot) const {
  size_t c = 0;
  while (slot.value >= classes_[c].first + classes_[c].count) ++c;
  return bases_[c] + (slot.value - classes_[c].first) * classes_[c].slot_bytes;
}

void ExpertSlots::fetch(ExpertKey key, SlotId slot, int64_t begin, int64_t end) {
  State& state = state_[static_cast<size_t>(slot.value)];
  device_.wait(Stream::kCopy, state.last_use);
  const ExpertWeights from = expert_part(host_weights(model_, key), begin, end);
  const ExpertWeights to = expert_part(weights(key, slot), begin, end);
  if (take_turns(from)) {
    state.ready = copy(both(from.gate), both(to.gate));
  } else {
    copy(from.gate, to.gate);
    state.ready = copy(from.up, to.up);
  }
  state.ready = copy(from.down, to.down);
}

Timepoint ExpertSlots::copy(const WeightView& host, const WeightView& device) {
  const DeviceAddr at{const_cast<std::byte*>(device.data)};
  if (host.bytes() == host.span_bytes()) {
    return device_.copy_to_device(Stream::kCopy, at, host.data, host.bytes());
  }
  return device_.copy_rows_to_device(
      Stream::kCopy, at, host.data,
      {host.runs(), host.run_bytes(), device.run_stride(), host.run_stride()});
}

void ExpertSlots::drop_host_pages(ExpertKey key) const {
  const ExpertWeights& expert = host_weights(model_, key);
  if (expert.gate.layout == Layout::kPacked) return;  // the only copy
  for (const WeightView& host : {expert.gate, expert.up, expert.down}) {
    model_.file().advise_dont_need({host.data, static_cast<size_t>(host.bytes())});
  }
}

ExpertWeights ExpertSlots::weights(ExpertKey key, SlotId slot) const {
  ExpertWeights view = host_weights(model_, key);
  const DeviceAddr gate = address(slot);
  const DeviceAddr behind = gate + aligned(view.gate.bytes());
  const DeviceAddr down = behind + aligned(view.up.bytes());
  const DeviceAddr up = take_turns(view) ? gate + view.gate.run_bytes() : behind;
  view.gate.data = gate.at;
  view.up.data = up.at;
  view.down.data = down.at;
  return view;
}

}  // namespace tandem
