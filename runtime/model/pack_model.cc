#include "runtime/model/pack_model.h"

#include <sys/mman.h>

#include <algorithm>

#include "kernels/packed.h"

namespace tandem {
namespace {

constexpr int64_t kLine = 64;            // matrices start on a cache line
constexpr int64_t kTaskBytes = 1 << 20;  // about

int64_t room_for(const WeightView& w) {
  return can_pack(w) ? (w.bytes() + kLine - 1) / kLine * kLine : 0;
}

void add_expert(ExpertWeights* expert, std::vector<WeightView*>* out) {
  for (WeightView* w : {&expert->gate, &expert->up, &expert->down}) out->push_back(w);
}

void add_layer(LayerWeights* layer, PackScope scope, std::vector<WeightView*>* out) {
  for (ExpertWeights& expert : layer->experts) add_expert(&expert, out);
  if (scope == PackScope::kExperts) return;
  for (WeightView* w : {&layer->wq, &layer->wk, &layer->wv, &layer->wo, &layer->router}) {
    out->push_back(w);
  }
  if (!layer->shared) return;
  add_expert(&layer->shared->ffn, out);
  if (layer->shared->gate_in) out->push_back(&layer->shared->gate_in);
}

// What is packed together, and then given back: a layer, or the output matrix.
std::vector<std::vector<WeightView*>> stages(ModelWeights* weights, PackScope scope) {
  std::vector<std::vector<WeightView*>> all;
  for (LayerWeights& layer : weights->layers) add_layer(&layer, scope, &all.emplace_back());
  if (scope == PackScope::kAll) all.push_back({&weights->output});
  for (std::vector<WeightView*>& stage : all) {
    std::erase_if(stage, [](const WeightView* w) { return !can_pack(*w); });
  }
  return all;
}

// A run of groups of one matrix.
struct Job {
  WeightView from;
  std::byte* to;
  int64_t first_group;
  int64_t n_groups;
};

void run_job(const Job& job) {
  const int64_t group_bytes = job.from.row_bytes() * kGroupRows;
  for (int64_t g = job.first_group; g < job.first_group + job.n_groups; ++g) {
    pack_group(job.from, g * kGroupRows, kGroupRows, 0, job.from.cols, job.to + g * group_bytes);
  }
}

void add_jobs(const WeightView& from, std::byte* to, std::vector<Job>* jobs) {
  const int64_t groups = from.rows / kGroupRows;
  const int64_t step = std::max<int64_t>(kTaskBytes / (from.row_bytes() * kGroupRows), 1);
  for (int64_t g = 0; g < groups; g += step) {
    jobs->push_back({from, to, g, std::min(step, groups - g)});
  }
}

}  // namespace

int64_t packed_bytes_of(const ModelWeights& weights, PackScope scope) {
  int64_t bytes = 0;
  ModelWeights copy = weights;
  for (const auto& stage : stages(&copy, scope)) {
    for (const WeightView* w : stage) bytes += room_for(*w);
  }
  return bytes;
}

HostRegion pack_weights(ModelWeights* weights, const GgufFile& file, PackScope scope,
                        ParallelFor parallel, const std::function<void(int64_t)>& progress) {
  HostRegion region(packed_bytes_of(*weights, scope));
  std::byte* to = region.data();
  std::vector<Job> jobs;
  for (const std::vector<WeightView*>& stage : stages(weights, scope)) {
    jobs.clear();
    for (WeightView* w : stage) {
      const WeightView from = *w;
      add_jobs(from, to, &jobs);
      w->data = to;
      w->layout = Layout::kPacked;
      to += room_for(from);
    }
    parallel(static_cast<int64_t>(jobs.size()),
             [&](int64_t i) { run_job(jobs[static_cast<size_t>(i)]); });
    for (const Job& job : jobs) {
      // A tied embedding is still looked up in the file.
      if (job.from.data == weights->embedding.data) continue;
      file.advise_dont_need(
          {job.from.data + job.first_group * kGroupRows * job.from.row_bytes(),
           static_cast<size_t>(job.n_groups * kGroupRows * job.from.row_bytes())});
    }
    progress(to - region.data());
  }
  return region;
}

}  // namespace tandem
