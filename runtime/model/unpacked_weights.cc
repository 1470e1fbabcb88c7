#include "runtime/model/unpacked_weights.h"

#include <algorithm>

#include "runtime/model/throwing_tasks.h"

namespace tandem {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr size_t kAhead = 64;  // pieces; also what is done between two reports of progress

void add(const WeightView& w, std::vector<ByteRange>* ranges) {
  if (!w || w.layout == Layout::kPacked) return;
  ranges->push_back({w.data, static_cast<size_t>(w.bytes())});
}

void add(const ExpertWeights& expert, std::vector<ByteRange>* ranges) {
  for (const WeightView& w : {expert.gate, expert.up, expert.down}) add(w, ranges);
}

}  // namespace

std::vector<ByteRange> unpacked_ranges(const ModelWeights& weights, PackScope scope) {
  std::vector<ByteRange> ranges;
  add(weights.embedding, &ranges);
  if (scope == PackScope::kAll) add(weights.output, &ranges);
  for (const LayerWeights& layer : weights.layers) {
    for (const ExpertWeights& expert : layer.experts) add(expert, &ranges);
    if (scope == PackScope::kExperts) continue;
    for (const WeightView& w : {layer.wq, layer.wk, layer.wv, layer.wo, layer.router}) {
      add(w, &ranges);
    }
    if (!layer.shared) continue;
    add(layer.shared->ffn, &ranges);
    add(layer.shared->gate_in, &ranges);
  }
  return merged(std::move(ranges));
}

void bring_in(const std::vector<ByteRange>& ranges, GgufFile* file, ParallelFor parallel,
              const std::function<void(int64_t)>& progress) {
  const std::vector<ByteRange> pieces = cut(ranges, kPieceBytes);
  for (size_t i = 0; i < std::min(kAhead, pieces.size()); ++i) file->advise_will_need(pieces[i]);
  int64_t done = 0;
  for (size_t begin = 0; begin < pieces.size(); begin += kAhead) {
    const size_t n = std::min(kAhead, pieces.size() - begin);
    run_throwing(parallel, static_cast<int64_t>(n), [&](int64_t task) {
      const size_t i = begin + static_cast<size_t>(task);
      if (i + kAhead < pieces.size()) file->advise_will_need(pieces[i + kAhead]);
      if (file->access() == FileAccess::kRead) {
        file->fill(pieces[i]);
      } else {
        file->touch(pieces[i]);
      }
    });
    for (size_t i = begin; i < begin + n; ++i) done += static_cast<int64_t>(pieces[i].size());
    progress(done);
  }
}

}  // namespace tandem
