#include "runtime/model/pack_model.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "kernels/packed.h"
#include "runtime/model/byte_ranges.h"
#include "runtime/model/throwing_tasks.h"

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

// All three matrices or none: parts of an expert are packed or not as a whole.
void add_expert(ExpertWeights* expert, std::vector<Unit>* out) {
  if (!can_pack(expert->gate) || !can_pack(expert->up) || !can_pack(expert->down)) return;
  if (expert->gate.type == expert->up.type) {
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

  ByteRange source() const {
    const int64_t group = kGroupRows * from.row_bytes();
    return {from.data + first_group * group, static_cast<size_t>(n_groups * group)};
  }
};

// Buffers for what is read from the file, one a thread.
class ScratchPool {
 public:
  std::vector<std::byte> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return {};
    std::vector<std::byte> buffer = std::move(free_.back());
    free_.pop_back();
    return buffer;
  }
  void give(std::vector<std::byte> buffer) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(buffer));
  }

 private:
  std::mutex mutex_;
  std::vector<std::vector<std::byte>> free_;
};

// Where pages of the region come from on machines with several nodes.
class PageNodes {
 public:
  PageNodes(const Job& job, const std::byte* region, const MemoryNodes& nodes)
      : job_(job), region_(region), nodes_(nodes) {}
  ~PageNodes() {
    if (node_ >= 0) nodes_.take_pages_from(-1);
  }
  PageNodes(const PageNodes&) = delete;
  PageNodes& operator=(const PageNodes&) = delete;

  // Before a group is written to `to`: if it reaches into a new page, it is the first to write
  // there.
  void before(const std::byte* to) {
    if (nodes_.n == 1) return;
    const int64_t last = to + job_.from.row_bytes() * kGroupRows - 1 - region_;
    const int wanted = node_of_byte(last, job_.unit.begin, job_.unit.end, nodes_.n);
    if (wanted != node_) nodes_.take_pages_from(wanted);
    node_ = wanted;
  }

 private:
  const Job& job_;
  const std::byte* region_;
  const MemoryNodes& nodes_;
  int node_ = -1;
};

void run_job(const Job& job, const GgufFile& file, ScratchPool* scratch, const std::byte* region,
             const MemoryNodes& nodes) {
  std::vector<std::byte> buffer = scratch->take();
  WeightView from = job.from;
  from.data = file.bytes_of(job.source(), &buffer);
  PageNodes pages(job, region, nodes);
  for (int64_t g = 0; g < job.n_groups; ++g) {
    std::byte* to = job.to + (job.first_group + g) * job.stride;
    pages.before(to);
    pack_group(from, g * kGroupRows, kGroupRows, 0, from.cols, to);
  }
  scratch->give(std::move(buffer));
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

// Pieces of the file that a stage reads, in file order.
std::vector<ByteRange> pieces_of(const std::vector<Unit>& stage) {
  std::vector<ByteRange> ranges;
  for (const Unit& unit : stage) {
    for (const WeightView* w : {unit.first, unit.second}) {
      if (w != nullptr) ranges.push_back({w->data, static_cast<size_t>(w->bytes())});
    }
  }
  return cut(merged(std::move(ranges)), kTaskBytes);
}

// Task i of n asks for its share of what the next stage reads, so that a disk is busy while
// processors are.
void ask_ahead(const std::vector<ByteRange>& pieces, size_t i, size_t n, const GgufFile& file) {
  for (size_t k = i * pieces.size() / n; k < (i + 1) * pieces.size() / n; ++k) {
    file.advise_will_need(pieces[k]);
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
  const auto all = stages(weights, scope);
  std::vector<std::vector<ByteRange>> pieces;  // of each stage, and none behind the last
  pieces.reserve(all.size() + 1);
  for (const std::vector<Unit>& stage : all) pieces.push_back(pieces_of(stage));
  pieces.emplace_back();
  ask_ahead(pieces[0], 0, 1, file);
  int64_t done = 0;
  std::vector<Job> jobs;
  ScratchPool scratch;
  for (size_t s = 0; s < all.size(); ++s) {
    jobs.clear();
    for (const Unit& unit : all[s]) done += place(unit, region.data(), done, &jobs);
    run_throwing(parallel, static_cast<int64_t>(jobs.size()), [&](int64_t task) {
      const auto i = static_cast<size_t>(task);
      ask_ahead(pieces[s + 1], i, jobs.size(), file);
      run_job(jobs[i], file, &scratch, region.data(), nodes);
    });
    progress(done);
  }
  return region;
}

void lay_out_packed(ModelWeights* weights, PackScope scope) {
  auto* const nowhere = reinterpret_cast<std::byte*>(uintptr_t{1} << 12);
  int64_t done = 0;
  std::vector<Job> jobs;
  for (const std::vector<Unit>& stage : stages(weights, scope)) {
    for (const Unit& unit : stage) done += place(unit, nowhere, done, &jobs);
    jobs.clear();
  }
}

}  // namespace tandem
