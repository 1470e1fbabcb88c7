#include "scheduler/link_filler.h"

#include <algorithm>
#include <limits>

namespace tandem {
namespace {

// Weight of the newest observation of a layer's times.
constexpr double kNewest = 0.2;

void average(double* value, double now) {
  *value = *value < 0 ? now : *value + kNewest * (now - *value);
}

}  // namespace

LinkFiller::LinkFiller(const CostModel& model, const std::vector<ExpertCost>& experts,
                       const ExpertCache& cache, double overrun, WasteBudget* waste)
    : slow_ratio_(model.profile().link.h2d_gbps / model.link_gbps_beside_cpu()),
      overrun_(overrun),
      pieces_(cache.shape().pieces),
      n_experts_(static_cast<size_t>(cache.shape().n_experts)),
      idle_us_(experts.size(), -1.0),
      missed_us_(experts.size(), -1.0),
      gap_us_(experts.size(), -1.0),
      layer_us_(experts.size(), -1.0),
      transfers_(static_cast<size_t>(cache.n_slots())),
      displaced_by_(experts.size() * n_experts_),
      waste_(waste) {
  double bytes = 0;  // of an expert of each layer
  for (const ExpertCost& expert : experts) bytes += static_cast<double>(expert.bytes);
  for (const ExpertCost& expert : experts) {
    piece_us_.push_back(model.h2d_us(expert.bytes) / pieces_);
    piece_bytes_.push_back(expert.bytes / pieces_);
    piece_size_.push_back(static_cast<double>(expert.bytes) / pieces_ / bytes *
                          static_cast<double>(experts.size()));
    const auto same = std::find(piece_us_.begin(), piece_us_.end(), piece_us_.back());
    if (same + 1 != piece_us_.end()) continue;
    sizes_.push_back(LayerId{static_cast<int32_t>(piece_us_.size()) - 1});
  }
  slices_.reserve(256);
  landed_.reserve(256);
}

void LinkFiller::observe(const RoutingDecision& routing, const ExpertCache& cache) {
  for (const ExpertLoad& load : routing.loads) {
    const ExpertKey key{routing.layer, load.expert};
    const SlotId by = displaced_by_[index(key)];
    if (!by.valid() || cache.find(key).valid()) continue;
    displaced_by_[index(key)] = {};
    if (transfer(by).displaced == key) {
      ++stats_.polluting;
      transfer(by).displaced = {};
    }
  }
}

// What came of the transfers of experts that this layer uses.
void LinkFiller::settle(const LayerPlan& plan) {
  for (const PlannedExpert& expert : plan.experts) {
    if (!expert.slot.valid()) continue;
    Transfer& made = transfer(expert.slot);
    if (made.key != ExpertKey{plan.layer(), expert.expert}) continue;
    const bool there = expert.present == pieces_ && expert.ready <= plan.start.cpu;
    ++(there ? stats_.on_time : stats_.late);
    if (waste_ != nullptr) waste_->used(made.kind, made.sent, made.expected);
    if (made.displaced.layer.valid()) displaced_by_[index(made.displaced)] = {};
    forget(&made);
  }
}

void LinkFiller::lose(SlotId slot) {
  Transfer& lost = transfer(slot);
  if (!lost.key.layer.valid()) return;
  ++stats_.unused;
  stats_.wasted_bytes += lost.bytes;
  if (waste_ != nullptr) waste_->wasted(lost.sent, lost.expected);
  if (lost.displaced.layer.valid()) displaced_by_[index(lost.displaced)] = {};
  forget(&lost);
}

void LinkFiller::forget(Transfer* transfer) {
  begun_us_ -= believed_us(transfer->key.layer, transfer->missing);
  *transfer = {};
}

void LinkFiller::note_token(size_t layer, double idle_us, double missed_us) {
  average(&idle_us_[layer], idle_us);
  average(&missed_us_[layer], missed_us);
  double idle = 0;
  double missed = 0;
  for (size_t l = 0; l < idle_us_.size(); ++l) {
    if (idle_us_[l] < 0) return;
    idle += idle_us_[l];
    missed += missed_us_[l];
  }
  token_idle_us_ = idle;
  token_missed_us_ = missed;
}

double LinkFiller::tokens_until_landed(LayerId layer, int32_t missing) const {
  if (token_idle_us_ <= 0) return std::numeric_limits<double>::infinity();
  return (begun_us_ * factors_.copy + copy_us(layer, missing)) / token_idle_us_;
}

void LinkFiller::open(const LayerPlan& plan, const ExpertCache& cache, const Clocks& now) {
  const auto layer = static_cast<size_t>(plan.layer().value);
  factors_ = plan.factors;
  for (const SlotId slot : plan.slots) {
    if (slot.valid() && transfer(slot).key != cache.occupant(slot)) lose(slot);
  }
  settle(plan);
  const double end = std::max(now.cpu, now.gpu);
  if (last_end_ >= 0) average(&gap_us_[layer], plan.start.cpu - last_end_);
  average(&layer_us_[layer], end - plan.start.cpu);
  last_end_ = end;
  layer_ = plan.layer().value;
  at_ = now.link;
  cpu_until_ = now.cpu;
  const size_t next = (layer + 1) % gap_us_.size();
  deadline_ = end + std::max(0.0, gap_us_[next]);
  int32_t missed = 0;
  for (const PlannedExpert& expert : plan.experts) {
    missed += pieces_ - std::max(expert.gpu, expert.present);
  }
  note_token(layer, std::max(0.0, deadline_ - at_), copy_us(plan.layer(), missed));
  if (waste_ != nullptr) note_demand(plan);
  slices_.clear();
}

void LinkFiller::note_demand(const LayerPlan& plan) {
  if (plan.layer().value == 0) waste_->token();
  int32_t demanded = 0;
  for (const PlannedExpert& expert : plan.experts) {
    demanded += std::max(0, expert.gpu - expert.present);
  }
  waste_->demand(demanded * piece_size_[static_cast<size_t>(plan.layer().value)]);
}

double LinkFiller::until_routed(int32_t ahead) const {
  double us = deadline_ - at_;
  const size_t n = gap_us_.size();
  for (int32_t d = 1; d < ahead; ++d) {
    const size_t layer = (static_cast<size_t>(layer_) + static_cast<size_t>(d)) % n;
    us += std::max(0.0, layer_us_[layer]) + std::max(0.0, gap_us_[(layer + 1) % n]);
  }
  return us;
}

double LinkFiller::copy_us(LayerId layer, int32_t missing) const {
  return believed_us(layer, missing) * factors_.copy;
}

double LinkFiller::tokens_of_misses() const {
  if (token_idle_us_ <= 0) return std::numeric_limits<double>::infinity();
  return token_missed_us_ / token_idle_us_;
}

double LinkFiller::piece_end(double from, LayerId layer) const {
  const double alone = copy_us(layer, 1);
  if (from >= cpu_until_) return from + alone;
  const double slow = believed_us(layer, 1) * slow_ratio_ * factors_.copy_shared;
  if (from + slow <= cpu_until_) return from + slow;
  return cpu_until_ + alone * (1 - (cpu_until_ - from) / slow);
}

void LinkFiller::start(ExpertKey key, const ExpertCache::Offer& offer, ExpertCache* cache,
                       WasteBudget::Kind kind) {
  const ExpertKey displaced = offer.free ? ExpertKey{} : cache->occupant(offer.slot);
  lose(offer.slot);
  cache->insert(key, offer.slot);
  transfer(offer.slot) = {key, displaced, 0, pieces_, kind};
  begun_us_ += believed_us(key.layer, pieces_);
  if (displaced.layer.valid()) displaced_by_[index(displaced)] = offer.slot;
  ++stats_.started;
}

bool LinkFiller::fits(LayerId layer) const {
  return piece_end(at_, layer) <= deadline_ + overrun_ * copy_us(layer, 1) &&
         slices_.size() < slices_.capacity();
}

bool LinkFiller::full() const {
  return std::none_of(sizes_.begin(), sizes_.end(), [&](LayerId layer) { return fits(layer); });
}

bool LinkFiller::send(ExpertKey key, SlotId slot, ExpertCache* cache) {
  if (!fits(key.layer)) return false;
  const double end = piece_end(at_, key.layer);
  at_ = end;
  const int32_t first = cache->pieces(slot);
  // One slot may be given to two experts in one window.
  if (!slices_.empty() && slices_.back().slot == slot && slices_.back().key == key) {
    ++slices_.back().n_pieces;
  } else {
    slices_.push_back({key, slot, first, 1});
  }
  // The exact time is the executor's to tell; until close() this one stands.
  cache->set_pieces(slot, first + 1, end);
  const int64_t bytes = piece_bytes_[static_cast<size_t>(key.layer.value)];
  stats_.bytes += bytes;
  if (transfer(slot).key == key) {
    Transfer& made = transfer(slot);
    made.bytes += bytes;
    --made.missing;
    const double size = piece_size_[static_cast<size_t>(key.layer.value)];
    made.sent += size;
    if (waste_ != nullptr) made.expected += waste_->send(made.kind, size);
    begun_us_ -= believed_us(key.layer, 1);
  }
  return true;
}

void LinkFiller::close(ExpertCache* cache, Executor* exec) {
  if (slices_.empty()) return;
  landed_.assign(slices_.size(), 0);
  exec->prefetch(slices_, landed_);
  for (size_t i = 0; i < slices_.size(); ++i) {
    cache->set_pieces(slices_[i].slot, cache->pieces(slices_[i].slot), landed_[i]);
  }
}

}  // namespace tandem
