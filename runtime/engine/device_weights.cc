#include "runtime/engine/device_weights.h"

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/packed.h"
#include "kernels/quant.h"
#include "runtime/pregate/reused_gate.h"

namespace tandem {
namespace {

constexpr const char* kGuesses = "lookahead";

DType guess_type(int64_t cols) {
  return cols % dtype_info(kGuessType).block_elems == 0 ? kGuessType : DType::kF32;
}

// In Q8_0, where rows are whole blocks: a quarter of the bytes that every token reads of it, and
// what a guess loses is less than what it lacks. `rounded` holds it. Values that are not finite
// have no Q8_0.
WeightView guess_weights(std::span<const float> w, int64_t cols, std::vector<std::byte>* rounded) {
  const DTypeInfo& to = dtype_info(kGuessType);
  const auto n = static_cast<int64_t>(w.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(w.data());
  if (guess_type(cols) != kGuessType || !all_finite(DType::kF32, bytes, n)) {
    return {DType::kF32, n / cols, cols, bytes};
  }
  const int64_t n_blocks = n / to.block_elems;
  rounded->resize(static_cast<size_t>(n_blocks * to.block_bytes));
  for (int64_t b = 0; b < n_blocks; ++b) {
    quantize_q8_0(w.data() + b * to.block_elems, rounded->data() + b * to.block_bytes);
  }
  return {kGuessType, n / cols, cols, rounded->data()};
}

}  // namespace

DeviceWeights::DeviceWeights(const Model& model, Device& device, const Lookahead& lookahead)
    : device_(device) {
  const ModelWeights& w = model.weights();
  for (const LayerWeights& from : w.layers) {
    DeviceLayer to;
    to.attn_norm = upload(from.attn_norm, "norms");
    to.wq = upload(from.wq, "attention weights");
    to.wk = upload(from.wk, "attention weights");
    to.wv = upload(from.wv, "attention weights");
    to.wo = upload(from.wo, "attention weights");
    to.bq = upload(from.bq, "biases");
    to.bk = upload(from.bk, "biases");
    to.bv = upload(from.bv, "biases");
    to.bo = upload(from.bo, "biases");
    to.q_norm = upload(from.q_norm, "norms");
    to.k_norm = upload(from.k_norm, "norms");
    to.ffn_norm = upload(from.ffn_norm, "norms");
    to.router = upload(from.router, "router weights");
    if (from.shared) {
      SharedExpert shared;
      shared.ffn.gate = upload(from.shared->ffn.gate, "shared expert");
      shared.ffn.up = upload(from.shared->ffn.up, "shared expert");
      shared.ffn.down = upload(from.shared->ffn.down, "shared expert");
      shared.gate_in = upload(from.shared->gate_in, "shared expert");
      to.shared = shared;
    }
    layers_.push_back(to);
  }
  output_norm_ = upload(w.output_norm, "norms");
  output_ = upload(w.output, "output weights");
  guesses_.resize(w.layers.size());
  if (lookahead.fitted) {
    upload_fitted(*lookahead.fitted, lookahead.count);
  } else if (lookahead.count > 0) {
    upload_reused(w.layers, lookahead);
  }
  device_.host_wait(last_copy_);
  packed_ = {};
  if (device_.info().host_memory || device_.info().counts_only) return;
  // What was uploaded is not needed in host memory any more. Experts are, and the embedding: its
  // rows are looked up there. Where the file ties it to the output, a row costs a page fault.
  for (const std::span<const std::byte> bytes : uploaded_) model.file().advise_dont_need(bytes);
  uploaded_ = {};
}

void DeviceWeights::upload_fitted(const Pregate& fitted, int32_t count) {
  std::vector<float> w;
  std::vector<std::byte> rounded;
  for (const PregateLink& link : fitted.links) {
    if (link.distance > count) continue;
    w.resize(link.weight.size());
    std::ranges::transform(link.weight, w.begin(), f16_to_f32);
    guesses_[static_cast<size_t>(link.source)].push_back(
        {kept(guess_weights(w, fitted.d_model, &rounded), kGuesses), upload(link.bias, kGuesses)});
  }
}

void DeviceWeights::upload_reused(const std::vector<LayerWeights>& layers,
                                  const Lookahead& lookahead) {
  std::vector<std::byte> rounded;
  for (size_t source = 0; source < layers.size(); ++source) {
    for (int32_t i = 0; i < lookahead.count; ++i) {
      const size_t target = source + static_cast<size_t>(lookahead.first + i);
      if (target >= layers.size()) break;
      if (target == source) {
        guesses_[source].push_back({layers_[source].router, {}});
        continue;
      }
      const WeightView& router = layers[target].router;
      if (device_.info().counts_only) {  // the weights may not be there
        const WeightView like{guess_type(router.cols), router.rows, router.cols, router.data};
        guesses_[source].push_back({kept(like, kGuesses), {}});
        continue;
      }
      const std::vector<float> gate = reused_gate(layers[source], layers[target]);
      guesses_[source].push_back({kept(guess_weights(gate, router.cols, &rounded), kGuesses), {}});
    }
  }
}

// On a CPU packed rows are whole groups.
WeightView DeviceWeights::kept(const WeightView& host, const char* tag) {
  if (device_.kernels() != nullptr || host.rows % kGroupRows == 0) return copied_packed(host, tag);
  const DeviceAddr at = device_.alloc(host.bytes(), tag);
  if (!device_.info().counts_only) {
    device_.host_wait(device_.copy_to_device(Stream::kCopy, at, host.data, host.bytes()));
  }
  WeightView view = host;
  view.data = at.at;
  return view;
}

// Some groups at a time, with zeros for rows that the last one lacks.
WeightView DeviceWeights::copied_packed(const WeightView& host, const char* tag) {
  constexpr int64_t kChunk = int64_t{8} << 20;
  WeightView view = host.as_packed();
  const DeviceAddr at = device_.alloc(view.span_bytes(), tag);
  view.data = at.at;
  if (device_.info().counts_only) return view;  // the weights may not be there
  const int64_t run = view.run_bytes();
  const int64_t some = std::clamp<int64_t>(kChunk / run, 1, view.runs());
  if (packed_.size() < some * run) packed_ = {device_, some * run, "packing of weights"};
  for (int64_t first = 0; first < view.runs(); first += some) {
    const int64_t n = std::min(some, view.runs() - first);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = (first + i) * kGroupRows;
      pack_group(host, row, std::min(kGroupRows, host.rows - row), 0, host.cols,
                 packed_.data() + i * run);
    }
    device_.host_wait(
        device_.copy_to_device(Stream::kCopy, at + first * run, packed_.data(), n * run));
  }
  return view;
}

WeightView DeviceWeights::upload(const WeightView& host, const char* tag) {
  if (!host || device_.info().host_memory) return host;
  uploaded_.emplace_back(host.data, static_cast<size_t>(host.bytes()));
  return copied(host, tag);
}

WeightView DeviceWeights::copied(const WeightView& host, const char* tag) {
  if (device_.info().host_memory) return host;
  if (device_.kernels() != nullptr && host.layout == Layout::kRows) {
    return copied_packed(host, tag);
  }
  const DeviceAddr at = device_.alloc(host.bytes(), tag);
  last_copy_ = device_.copy_to_device(Stream::kCopy, at, host.data, host.bytes());
  WeightView view = host;
  view.data = at.at;
  return view;
}

DeviceVector DeviceWeights::upload(const Vector& host, const char* tag) {
  DeviceVector vector{{}, static_cast<int64_t>(host.size())};
  if (host.empty()) return vector;
  if (device_.info().host_memory) {
    // Never written through: norms and biases are only ever declared as read.
    vector.at = {reinterpret_cast<std::byte*>(const_cast<float*>(host.data()))};
    return vector;
  }
  vector.at = device_.alloc(vector.bytes(), tag);
  last_copy_ = device_.copy_to_device(Stream::kCopy, vector.at, host.data(), vector.bytes());
  return vector;
}

}  // namespace tandem
