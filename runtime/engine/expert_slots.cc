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

}  // namespace

int64_t ExpertSlots::slot_bytes(const Model& model) {
  int64_t most = 0;
  for (const LayerWeights& layer : model.weights().layers) {
    for (const ExpertWeights& expert : layer.experts) {
      most = std::max(most, aligned(expert.gate.bytes()) + aligned(expert.up.bytes()) +
                                aligned(expert.down.bytes()));
    }
  }
  return most;
}

ExpertSlots::ExpertSlots(const Model& model, Device& device, std::optional<int32_t> wanted)
    : model_(model), device_(device), slot_bytes_(slot_bytes(model)) {
  if (device.info().host_memory) return;
  const int64_t experts = model.config().n_layers * model.config().routing.n_experts;
  const int64_t fit = (device.info().vram_bytes - device.used_bytes()) / slot_bytes_;
  const int64_t n = std::min({fit, experts, static_cast<int64_t>(wanted.value_or(INT32_MAX))});
  if (n <= 0) return;
  state_.resize(static_cast<size_t>(n));
  base_ = device.alloc(slot_bytes_ * n, "expert slots");
}

void ExpertSlots::fetch(ExpertKey key, SlotId slot) {
  State& state = state_[static_cast<size_t>(slot.value)];
  device_.wait(Stream::kCopy, state.last_use);
  const ExpertWeights& from = host_weights(model_, key);
  const ExpertWeights to = weights(key, slot);
  for (const auto& [host, device] :
       {std::pair{from.gate, to.gate}, std::pair{from.up, to.up}, std::pair{from.down, to.down}}) {
    state.ready = device_.copy_to_device(Stream::kCopy, {const_cast<std::byte*>(device.data)},
                                         host.data, host.bytes());
  }
}

void ExpertSlots::drop_host_pages(ExpertKey key) const {
  const ExpertWeights& expert = host_weights(model_, key);
  for (const WeightView& host : {expert.gate, expert.up, expert.down}) {
    model_.file().advise_dont_need({host.data, static_cast<size_t>(host.bytes())});
  }
}

ExpertWeights ExpertSlots::weights(ExpertKey key, SlotId slot) const {
  ExpertWeights view = host_weights(model_, key);
  const DeviceAddr gate = base_ + slot.value * slot_bytes_;
  const DeviceAddr up = gate + aligned(view.gate.bytes());
  const DeviceAddr down = up + aligned(view.up.bytes());
  view.gate.data = gate.at;
  view.up.data = up.at;
  view.down.data = down.at;
  return view;
}

}  // namespace tandem
