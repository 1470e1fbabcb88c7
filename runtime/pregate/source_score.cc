// What the guesses of a source layer are worth: their calibration and the table.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <span>

#include "runtime/pregate/source_fit_parts.h"

namespace tandem {
namespace {

bool is_among(int64_t expert, std::span<const ExpertId> ids) {
  return std::find(ids.begin(), ids.end(), ExpertId{static_cast<int32_t>(expert)}) != ids.end();
}

}  // namespace

int64_t in_common(std::span<const ExpertId> a, std::span<const ExpertId> b) {
  return std::count_if(a.begin(), a.end(),
                       [&](ExpertId id) { return std::find(b.begin(), b.end(), id) != b.end(); });
}

float SourceFit::middle(const float* logits) {
  return selection_middle({logits, static_cast<size_t>(n_experts_)}, static_cast<int32_t>(top_k_),
                          sorted_);
}

template <typename F>
bool SourceFit::for_each_guess(const TapFiles& files, GoOn go_on, F f) {
  Rows guess;
  return for_each_chunk(files, go_on, [&](int64_t first) {
    for (size_t i = 0; i < links_.size(); ++i) {
      chunk_->products.rows_by_rows(chunk_->inputs, links_[i].weight, &guess);
      guess.rowwise() += links_[i].bias.transpose();
      for (int64_t t = 0; t < guess.rows(); ++t) {
        const float* real = chunk_->logits.row(t).data() + static_cast<int64_t>(i) * n_experts_;
        f(i, guess.row(t).data(), real, t, first + t == 0);
      }
    }
  });
}

// What a margin is worth, on the same prompts.
bool SourceFit::calibrate(GoOn go_on) {
  std::vector<std::vector<float>> margins(links_.size());
  std::vector<std::vector<uint8_t>> used(links_.size());
  int64_t n = 0;
  for (const auto& file : data_.validation) n += file->n_tokens() * n_experts_;
  for (size_t i = 0; i < links_.size(); ++i) {
    links_[i].middle = 0;
    margins[i].reserve(static_cast<size_t>(n));
    used[i].reserve(static_cast<size_t>(n));
  }
  std::vector<ExpertId> truth;
  const auto gather = [&](size_t i, const float* guess, const float* real, int64_t, bool) {
    select(real, &truth);
    const float at = middle(guess);
    links_[i].middle +=
        static_cast<double>(at) * static_cast<double>(n_experts_) / static_cast<double>(n);
    for (int64_t e = 0; e < n_experts_; ++e) {
      margins[i].push_back(guess[e] - at);
      used[i].push_back(is_among(e, truth) ? 1 : 0);
    }
  };
  if (!for_each_guess(data_.validation, go_on, gather)) return false;
  for (size_t i = 0; i < links_.size(); ++i) links_[i].curve = fit_platt(margins[i], used[i]);
  return true;
}

std::vector<ExpertId> SourceFit::hot_list(size_t link) const {
  const std::vector<int64_t>& uses = sums_->uses[link];
  std::vector<ExpertId> ids;
  ids.reserve(uses.size());
  for (int32_t e = 0; e < n_experts_; ++e) ids.push_back(ExpertId{e});
  std::stable_sort(ids.begin(), ids.end(), [&](ExpertId a, ExpertId b) {
    return uses[static_cast<size_t>(a.value)] > uses[static_cast<size_t>(b.value)];
  });
  ids.resize(top_k_);
  return ids;
}

// On prompts that were held back from all of that.
bool SourceFit::test(GoOn go_on, std::vector<LinkScore>* scores) {
  scores->assign(links_.size(), {});
  std::vector<std::vector<ExpertId>> hot;
  for (size_t i = 0; i < links_.size(); ++i) hot.push_back(hot_list(i));
  std::vector<std::vector<ExpertId>> before(links_.size());
  std::vector<int64_t> n_followers(links_.size(), 0);
  int64_t n_guesses = 0;
  std::vector<ExpertId> truth;
  std::vector<ExpertId> guessed;
  Eigen::VectorXf reused;
  const auto score = [&](size_t i, const float* guess, const float* real, int64_t t, bool first) {
    LinkScore& sum = (*scores)[i];
    select(real, &truth);
    const auto right = [&](std::span<const ExpertId> ids) {
      return static_cast<double>(in_common(truth, ids));
    };
    select(guess, &guessed);
    sum.fitted += right(guessed);
    reused = sums_->reuse.middleRows(static_cast<int64_t>(i) * n_experts_, n_experts_) *
             chunk_->inputs.row(t).transpose();
    select(reused.data(), &guessed);
    sum.gate_reuse += right(guessed);
    sum.hot_list += right(hot[i]);
    if (!first) {
      sum.previous_token += right(before[i]);
      ++n_followers[i];
    }
    before[i] = truth;
    const float at = middle(guess);
    for (int64_t e = 0; e < n_experts_; ++e) {
      const double p = links_[i].curve.probability(static_cast<double>(guess[e] - at));
      sum.brier += std::pow(p - (is_among(e, truth) ? 1 : 0), 2);
    }
    ++n_guesses;
  };
  if (!for_each_guess(data_.test, go_on, score)) return false;
  const auto n = static_cast<double>(n_guesses) / static_cast<double>(links_.size());
  const auto k = static_cast<double>(top_k_);
  for (size_t i = 0; i < links_.size(); ++i) {
    LinkScore& s = (*scores)[i];
    s.source = source_;
    s.distance = first_ + static_cast<int32_t>(i);
    s.fitted /= n * k;
    s.gate_reuse /= n * k;
    s.hot_list /= n * k;
    s.previous_token /= std::max(1.0, static_cast<double>(n_followers[i])) * k;
    s.brier /= n * static_cast<double>(n_experts_);
    s.ridge = links_[i].ridge;
    s.epochs = links_[i].epochs;
  }
  return true;
}

}  // namespace tandem
