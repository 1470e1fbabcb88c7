#include "runtime/engine/expert_slots.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/packed.h"
#include "runtime/error.h"

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

// How a matrix lies in a slot.
WeightView in_slot(const WeightView& host, const Device& device) {
  return device.kernels() != nullptr && host.layout == Layout::kRows ? host.as_packed() : host;
}

// As in a slot, but for the addresses.
ExpertWeights in_slot(const ExpertWeights& host, const Device& device) {
  return {in_slot(host.gate, device), in_slot(host.up, device), in_slot(host.down, device)};
}

// Of a matrix that has a place of its own, or takes turns with another of its size.
int64_t slot_bytes(const WeightView& w) { return aligned(w.run_bytes() * w.runs()); }

// Of the matrices that are packed on their way, the largest.
int64_t packing_bytes(const Model& model, const Device& device) {
  int64_t most = 0;
  for (const LayerWeights& layer : model.weights().layers) {
    const ExpertWeights& expert = layer.experts.front();
    for (const WeightView& host : {expert.gate, expert.up, expert.down}) {
      if (in_slot(host, device).layout != host.layout) {
        most = std::max(most, slot_bytes(host.as_packed()));
      }
    }
  }
  return most;
}

int64_t bytes_of(const std::vector<SlotClass>& classes) {
  int64_t bytes = 0;
  for (const SlotClass& c : classes) bytes += c.slot_bytes * c.count;
  return bytes;
}

int32_t count_of(const std::vector<SlotClass>& classes) {
  return classes.empty() ? 0 : classes.back().first + classes.back().count;
}

// What to try after a refusal: three quarters, so that some thirty tries get from a large GPU's
// memory to a slot, and then none.
int64_t fewer_bytes(const std::vector<SlotClass>& refused) {
  return count_of(refused) == 1 ? 0 : bytes_of(refused) / 4 * 3;
}

}  // namespace

std::vector<int64_t> ExpertSlots::expert_bytes(const Model& model, const Device& device) {
  std::vector<int64_t> bytes;
  for (const LayerWeights& layer : model.weights().layers) {
    // A layer's experts have one type.
    const ExpertWeights expert = in_slot(layer.experts.front(), device);
    bytes.push_back(slot_bytes(expert.gate) + slot_bytes(expert.up) + slot_bytes(expert.down));
  }
  return bytes;
}

ExpertSlots::ExpertSlots(const Model& model, Device& device, const SlotRoom& wanted)
    : model_(model), device_(device), shape_(wanted.cache) {
  if (device.info().host_memory) return;
  for (const LayerWeights& layer : model.weights().layers) {
    layouts_.push_back(layout_of(layer.experts.front(), device));  // a layer's experts are alike
  }
  if (const int64_t bytes = packing_bytes(model, device); bytes > 0) {
    packed_ = {device, bytes, "packing of experts"};
  }
  if (wanted.n_buffers > 0) alloc_buffers(wanted);
  classes_ = slot_classes(shape_);
  while (count_of(classes_) > 0) {
    try {
      alloc_classes();
      break;
    } catch (const MemoryError& error) {
      if (refusal_.empty()) refusal_ = error.what();
      shape_.capacity_bytes = fewer_bytes(classes_);
      classes_ = slot_classes(shape_);
    }
  }
  bases_.resize(classes_.size());
  state_.resize(static_cast<size_t>(count_of(classes_)) + static_cast<size_t>(n_buffers_));
}

// A device that refuses them gives its memory to slots.
void ExpertSlots::alloc_buffers(const SlotRoom& wanted) {
  buffer_bytes_ = *std::max_element(shape_.expert_bytes.begin(), shape_.expert_bytes.end());
  try {
    buffers_ = device_.alloc(buffer_bytes_ * wanted.n_buffers, "expert buffers");
    n_buffers_ = wanted.n_buffers;
  } catch (const MemoryError& error) {
    refusal_ = error.what();
    shape_.capacity_bytes = wanted.without_buffers;
  }
}

SlotId ExpertSlots::buffer(int32_t i) const {
  TANDEM_CHECK(i < n_buffers_, "buffer %d of %d", i, n_buffers_);
  return SlotId{count() + i};
}

void ExpertSlots::alloc_classes() {
  try {
    for (const SlotClass& c : classes_) {
      bases_.push_back(c.count > 0 ? device_.alloc(c.slot_bytes * c.count, kSlotsTag)
                                   : DeviceAddr{});
    }
  } catch (const MemoryError&) {
    for (const DeviceAddr base : bases_) {
      if (base) device_.free(base);
    }
    bases_.clear();
    throw;
  }
}

int64_t ExpertSlots::bytes() const { return bytes_of(classes_); }

DeviceAddr ExpertSlots::address(SlotId slot) const {
  if (const int32_t i = buffer_of(slot); i >= 0) return buffers_ + i * buffer_bytes_;
  size_t c = 0;
  while (slot.value >= classes_[c].first + classes_[c].count) ++c;
  return bases_[c] + (slot.value - classes_[c].first) * classes_[c].slot_bytes;
}

void ExpertSlots::expect(ExpertKey key) const {
  constexpr size_t kLine = 64;
  const ExpertWeights& w = host_weights(model_, key);
  const char* at = reinterpret_cast<const char*>(&w);
  for (size_t line = 0; line < sizeof w; line += kLine) __builtin_prefetch(at + line);
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
  device_.mark(Stream::kCopy);
}

Timepoint ExpertSlots::copy_packing(const WeightView& host, const WeightView& device) {
  const int64_t run = device.run_bytes();
  device_.host_wait(packed_until_);
  device_.host_access("packing an expert", packed_.data(), device.runs() * run, true);
  for (int64_t i = 0; i < device.runs(); ++i) {
    const int64_t row = i * kGroupRows;
    pack_group(host, row, std::min(kGroupRows, host.rows - row), 0, host.cols,
               packed_.data() + i * run);
  }
  packed_until_ =
      device_.copy_rows_to_device(Stream::kCopy, {const_cast<std::byte*>(device.data)},
                                  packed_.data(), {device.runs(), run, device.run_stride(), run});
  return packed_until_;
}

Timepoint ExpertSlots::copy(const WeightView& host, const WeightView& device) {
  if (host.layout != device.layout) return copy_packing(host, device);
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

ExpertSlots::SlotLayout ExpertSlots::layout_of(const ExpertWeights& host, const Device& device) {
  SlotLayout layout{in_slot(host, device)};
  const int64_t gate_bytes = slot_bytes(layout.matrices.gate);
  layout.up_at = take_turns(host) ? host.gate.run_bytes() : gate_bytes;
  layout.down_at = gate_bytes + slot_bytes(layout.matrices.up);
  return layout;
}

ExpertWeights ExpertSlots::weights(ExpertKey key, SlotId slot) const {
  const SlotLayout& layout = layouts_[static_cast<size_t>(key.layer.value)];
  ExpertWeights view = layout.matrices;
  const DeviceAddr at = address(slot);
  view.gate.data = at.at;
  view.up.data = (at + layout.up_at).at;
  view.down.data = (at + layout.down_at).at;
  return view;
}

}  // namespace tandem
