#include "runtime/model/pack_model.h"

#include <algorithm>

#include "kernels/packed.h"

namespace tandem {
namespace {

constexpr int64_t kLine = 64;            // matrices start on a cache line
constexpr int64_t kTaskBytes = 1 << 20;  // about

// A matrix, or gate and up of an expert with their groups taking turns: what one task reads is then
// one run of memory.
struct Unit {
  WeightView* first = nullptr;
  WeightView* second = nullptr;
};

int64_t room_for(const Unit& unit) {
  const int64_t bytes = unit.first->bytes() + (unit.second != nullptr ? unit.second->bytes() : 0);
  return (bytes + kLine - 1) / kLine * kLine;
}

void add_matrix(WeightView* w, std::vector<Unit>* out) {
  if (*w && can_pack(*w)) out->push_back({w, nullptr});
}

void add_expert(ExpertWeights* expert, std::vector<Unit>* out) {
  const bool alike = expert->gate.type == expert->up.type;
  if (alike && can_pack(expert->gate)) {
    out->push_back({&expert->gate, &expert->up});
  } else {
    add_matrix(&expert->gate, out);
    add_matrix(&expert->up, out);
  }
  add_matrix(&expert->down, out);
}

void add_layer(LayerWeights* layer, PackScope scope, std::vector<Unit>* out) {
  for (ExpertWeights& expert : layer->experts) add_expert(&expert, out);
  if (scope == PackScope::kExperts) return;
  for (WeightView* w : {&layer->wq, &layer->wk, &layer->wv, &layer->wo, &layer->router}) {
    add_matrix(w, out);
  }
  if (!layer->shared) return;
  add_expert(&layer->shared->ffn, out);
  add_matrix(&layer->shared->gate_in, out);
}

// What is packed together, and then given back: a layer, or the output matrix.
std::vector<std::vector<Unit>> stages(ModelWeights* weights, PackScope scope) {
  std::vector<std::vector<Unit>> all;
  for (LayerWeights& layer : weights->layers) add_layer(&layer, scope, &all.emplace_back());
  if (scope == PackScope::kAll) add_matrix(&weights->output, &all.emplace_back());
  return all;
}

// Offsets in the region.
struct Extent {
  int64_t begin;
  int64_t end;
};

// Some groups of one matrix.
struct Job {
  WeightView from;
  std::byte* to;   // the packed matrix, whose groups are
  int64_t stride;  // bytes apart
  int64_t first_group;
  int64_t n_groups;
  Extent unit;
};

void run_job(const Job& job, const std::byte* region, const MemoryNodes& nodes) {
  const int64_t group_bytes = job.from.row_bytes() * kGroupRows;
  int node = -1;
  for (int64_t g = job.first_group; g < job.first_group + job.n_groups; ++g) {
    std::byte* to = job.to + g * job.stride;
    if (nodes.n > 1) {
      // A group that reaches into a new page is the first to write there.
      const int64_t last = to + group_bytes - 1 - region;
      const int wanted = node_of_byte(last, job.unit.begin, job.unit.end, nodes.n);
      if (wanted != node) nodes.take_pages_from(wanted);
      node = wanted;
    }
    pack_group(job.from, g * kGroupRows, kGroupRows, 0, job.from.cols, to);
  }
  if (node >= 0) nodes.take_pages_from(-1);
}

// Turns the view to a packed copy at `at`, its groups stride_bytes apart (0: back to back), and
// adds what has to be done for that.
void place(WeightView* w, std::byte* at, int64_t stride_bytes, Extent unit,
           std::vector<Job>* jobs) {
  const WeightView from = *w;
  w->data = at;
  w->layout = Layout::kPacked;
  w->stride_bytes = stride_bytes;
  const int64_t groups = w->runs();
  const int64_t step = std::max<int64_t>(kTaskBytes / w->run_bytes(), 1);
  for (int64_t g = 0; g < groups; g += step) {
    jobs->push_back({from, at, w->run_stride(), g, std::min(step, groups - g), unit});
  }
}

// At this offset of the region; returns the room that it takes.
int64_t place(const Unit& unit, std::byte* region, int64_t offset, std::vector<Job>* jobs) {
  const int64_t room = room_for(unit);
  const int64_t run = unit.first->row_bytes() * kGroupRows;
  const Extent extent{offset, offset + room};
  std::byte* at = region + offset;
  place(unit.first, at, unit.second != nullptr ? 2 * run : 0, extent, jobs);
  if (unit.second != nullptr) place(unit.second, at + run, 2 * run, extent, jobs);
  return room;
}

}  // namespace

int64_t packed_bytes_of(const ModelWeights& weights, PackScope scope) {
  int64_t bytes = 0;
  ModelWeights copy = weights;
  for (const auto& stage : stages(&copy, scope)) {
    for (const Unit& unit : stage) bytes += room_for(unit);
  }
  return bytes;
}

HostRegion pack_weights(ModelWeights* weights, const GgufFile& file, PackScope scope,
                        ParallelFor parallel, const std::function<void(int64_t)>& progress,
                        const MemoryNodes& nodes) {
  HostRegion region(packed_bytes_of(*weights, scope));
  int64_t done = 0;
  std::vector<Job> jobs;
  for (const std::vector<Unit>& stage : stages(weights, scope)) {
    jobs.clear();
    for (const Unit& unit : stage) done += place(unit, region.data(), done, &jobs);
    parallel(static_cast<int64_t>(jobs.size()),
             [&](int64_t i) { run_job(jobs[static_cast<size_t>(i)], region.data(), nodes); });
    for (const Job& job : jobs) {
      // A tied embedding is still looked up in the file.
      if (job.from.data == weights->embedding.data) continue;
      file.advise_dont_need(
          {job.from.data + job.first_group * kGroupRows * job.from.row_bytes(),
           static_cast<size_t>(job.n_groups * kGroupRows * job.from.row_bytes())});
    }
    progress(done);
  }
  return region;
}

}  // namespace tandem
