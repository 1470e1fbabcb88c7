#include "runtime/pregate/source_fit.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "runtime/pregate/platt.h"
#include "scheduler/routing.h"

namespace tandem {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using Eigen::VectorXf;

constexpr int64_t kChunk = 512;  // tokens that are read at once
constexpr double kNoCorrection = std::numeric_limits<double>::infinity();
// Shares of the mean square of an input.
constexpr std::array kRidges{1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0};

int64_t in_common(std::span<const ExpertId> a, std::span<const ExpertId> b) {
  return std::count_if(a.begin(), a.end(),
                       [&](ExpertId id) { return std::find(b.begin(), b.end(), id) != b.end(); });
}

bool is_among(int64_t expert, std::span<const ExpertId> ids) {
  return std::find(ids.begin(), ids.end(), ExpertId{static_cast<int32_t>(expert)}) != ids.end();
}

// Router of the target layer on the source layer's router input: the gains of the two differ.
Rows reused_gate(const LayerWeights& source, const LayerWeights& target) {
  const WeightView& w = target.router;
  Rows gate(w.rows, w.cols);
  for (int64_t r = 0; r < w.rows; ++r) {
    dequantize(w.type, w.data + r * w.row_bytes(), gate.row(r).data(), w.cols);
  }
  for (int64_t c = 0; c < w.cols; ++c) {
    const float from = source.ffn_norm[static_cast<size_t>(c)];
    const float to = target.ffn_norm[static_cast<size_t>(c)];
    constexpr float kMost = 1e4F;  // what has hardly any gain is not seen
    gate.col(c) *= std::abs(to) < kMost * std::abs(from) ? to / from : 0;
  }
  return gate;
}

uint16_t to_half(float v) {
  constexpr float kLargest = 65504;
  return f32_to_f16(std::clamp(v, -kLargest, kLargest));
}

// As a file stores it.
Rows rounded(Rows weight) {
  for (float& w : weight.reshaped<Eigen::RowMajor>()) w = f16_to_f32(to_half(w));
  return weight;
}

}  // namespace

// logits of all distances = weight x + bias.
struct SourceFit::Guess {
  double ridge = kNoCorrection;
  Rows weight;    // [links * E, d]
  VectorXf bias;  // [links * E]
};

struct SourceFit::Sums {
  Rows reuse;  // [links * E, d]
  int64_t n = 0;
  MatrixXd gram;                           // [d, d], its lower half
  MatrixXd cross;                          // [d, links * E] of inputs and what gate reuse lacks
  VectorXd x;                              // [d]
  VectorXd lacks;                          // [links * E]
  std::vector<std::vector<int64_t>> uses;  // [links] of [E]
};

struct SourceFit::Chunk {
  Rows inputs;  // [n, d]
  Rows logits;  // [n, links * E] of later layers' routers
};

struct SourceFit::Link {
  double ridge = kNoCorrection;
  std::vector<uint16_t> halves;  // [E, d]
  Rows weight;                   // the same
  VectorXf bias;                 // [E]
  PlattCurve curve;
};

SourceFit::SourceFit(const Model& model, const TapSplit& data, int32_t source, int32_t n_distances)
    : model_(model),
      data_(data),
      source_(source),
      n_links_(std::min<int64_t>(n_distances, model.config().n_layers - 1 - source)),
      n_experts_(model.config().routing.n_experts),
      top_k_(static_cast<size_t>(model.config().routing.top_k)),
      router_(model.config().routing, 1),
      sorted_(static_cast<size_t>(n_experts_)),
      chunk_(std::make_unique<Chunk>()),
      sums_(std::make_unique<Sums>()) {
  const int64_t d = model.config().d_model;
  const int64_t all = n_links_ * n_experts_;
  const auto& layers = model.weights().layers;
  const auto from = static_cast<size_t>(source);
  sums_->reuse.resize(all, d);
  for (int64_t i = 0; i < n_links_; ++i) {
    sums_->reuse.middleRows(i * n_experts_, n_experts_) =
        reused_gate(layers[from], layers[from + 1 + static_cast<size_t>(i)]);
  }
  sums_->gram = MatrixXd::Zero(d, d);
  sums_->cross = MatrixXd::Zero(d, all);
  sums_->x = VectorXd::Zero(d);
  sums_->lacks = VectorXd::Zero(all);
  sums_->uses.assign(static_cast<size_t>(n_links_),
                     std::vector<int64_t>(static_cast<size_t>(n_experts_), 0));
}

SourceFit::~SourceFit() = default;

int64_t SourceFit::bytes(const TapShape& shape, int32_t n_distances, int64_t validation_tokens) {
  const int64_t d = shape.d_model;
  const int64_t all = int64_t{n_distances} * shape.n_experts;
  const int64_t squares = (2 * 8 + 4) * d * d;  // the sum and its factor, a chunk's
  const int64_t sides = (3 * 8 + 4 * (2 + std::ssize(kRidges))) * d * all;
  // Squares are gone when margins are gathered.
  const int64_t margins = validation_tokens * all * int64_t{sizeof(float) + sizeof(uint8_t)};
  return std::max(squares, margins) + sides + 4 * kChunk * (d + (4 + std::ssize(kRidges)) * all);
}

void SourceFit::select(const float* logits, std::vector<ExpertId>* ids) {
  ids->resize(top_k_);
  if (!router_.select(logits, 1, *ids)) ids->clear();
}

float SourceFit::middle(const float* logits) {
  return selection_middle({logits, static_cast<size_t>(n_experts_)}, static_cast<int32_t>(top_k_),
                          sorted_);
}

template <typename F>
bool SourceFit::for_each_chunk(const TapFiles& files, GoOn go_on, F f) {
  Rows one;
  for (const auto& file : files) {
    for (int64_t first = 0; first < file->n_tokens(); first += kChunk) {
      if (!go_on()) return false;
      const int64_t n = std::min(kChunk, file->n_tokens() - first);
      chunk_->inputs.resize(n, model_.config().d_model);
      file->read_inputs(source_, first, n, chunk_->inputs.data());
      chunk_->logits.resize(n, n_links_ * n_experts_);
      one.resize(n, n_experts_);
      for (int64_t i = 0; i < n_links_; ++i) {
        file->read_logits(source_ + 1 + static_cast<int32_t>(i), first, n, one.data());
        chunk_->logits.middleCols(i * n_experts_, n_experts_) = one;
      }
      f(first);
    }
  }
  return true;
}

template <typename F>
bool SourceFit::for_each_guess(const TapFiles& files, GoOn go_on, F f) {
  return for_each_chunk(files, go_on, [&](int64_t first) {
    for (size_t i = 0; i < links_.size(); ++i) {
      Rows guess = chunk_->inputs * links_[i].weight.transpose();
      guess.rowwise() += links_[i].bias.transpose();
      for (int64_t t = 0; t < guess.rows(); ++t) {
        const float* real = chunk_->logits.row(t).data() + static_cast<int64_t>(i) * n_experts_;
        f(i, guess.row(t).data(), real, t, first + t == 0);
      }
    }
  });
}

void SourceFit::count_uses() {
  std::vector<ExpertId> ids;
  for (int64_t t = 0; t < chunk_->logits.rows(); ++t) {
    for (int64_t i = 0; i < n_links_; ++i) {
      select(chunk_->logits.row(t).data() + i * n_experts_, &ids);
      auto& uses = sums_->uses[static_cast<size_t>(i)];
      for (const ExpertId id : ids) ++uses[static_cast<size_t>(id.value)];
    }
  }
}

bool SourceFit::accumulate(GoOn go_on) {
  const int64_t d = model_.config().d_model;
  // What all logits of a softmax have in common selects nobody.
  const bool centred = model_.config().routing.score == ScoreFunction::kSoftmax;
  Sums& s = *sums_;
  Rows square(d, d);
  const bool done = for_each_chunk(data_.training, go_on, [&](int64_t) {
    count_uses();
    const Rows& x = chunk_->inputs;
    Rows& lacks = chunk_->logits;
    lacks.noalias() -= x * s.reuse.transpose();
    for (int64_t i = 0; centred && i < n_links_; ++i) {
      auto part = lacks.middleCols(i * n_experts_, n_experts_);
      part.colwise() -= part.rowwise().mean().eval();
    }
    square.setZero();
    square.selfadjointView<Eigen::Lower>().rankUpdate(x.transpose());
    s.gram.triangularView<Eigen::Lower>() += square.cast<double>();
    s.cross += (x.transpose() * lacks).cast<double>();
    s.x += x.colwise().sum().transpose().cast<double>();
    s.lacks += lacks.colwise().sum().transpose().cast<double>();
    s.n += x.rows();
  });
  // Around the means, so that the bias costs nothing.
  const auto n = static_cast<double>(s.n);
  s.gram.selfadjointView<Eigen::Lower>().rankUpdate(s.x, -1 / n);
  s.cross.noalias() -= s.x * s.lacks.transpose() / n;
  return done;
}

SourceFit::Guess SourceFit::reuse() const {
  return {kNoCorrection, rounded(sums_->reuse), VectorXf::Zero(sums_->reuse.rows())};
}

SourceFit::Guess SourceFit::solve(double ridge) const {
  const Sums& s = *sums_;
  MatrixXd damped = s.gram;
  damped.diagonal().array() += ridge * s.gram.trace() / static_cast<double>(s.gram.rows());
  const Eigen::LLT<Eigen::Ref<MatrixXd>, Eigen::Lower> factor(damped);
  if (factor.info() != Eigen::Success) return reuse();
  const MatrixXd correction = factor.solve(s.cross);  // [d, links * E]
  const VectorXd bias = (s.lacks - correction.transpose() * s.x) / static_cast<double>(s.n);
  return {ridge, rounded(s.reuse + correction.transpose().cast<float>()), bias.cast<float>()};
}

// Of gate reuse and its corrections the best on prompts that were not fitted, for each distance.
bool SourceFit::choose(GoOn go_on) {
  std::vector<Guess> guesses{reuse()};
  for (const double ridge : kRidges) {
    if (!go_on()) return false;
    guesses.push_back(solve(ridge));
  }
  const auto n_links = static_cast<size_t>(n_links_);
  std::vector<std::vector<int64_t>> right(guesses.size(), std::vector<int64_t>(n_links, 0));
  std::vector<ExpertId> truth;
  std::vector<ExpertId> guessed;
  const bool done = for_each_chunk(data_.validation, go_on, [&](int64_t) {
    std::vector<Rows> logits;
    logits.reserve(guesses.size());
    for (const Guess& guess : guesses) {
      logits.emplace_back(chunk_->inputs * guess.weight.transpose());
      logits.back().rowwise() += guess.bias.transpose();
    }
    for (int64_t t = 0; t < chunk_->logits.rows(); ++t) {
      for (size_t i = 0; i < n_links; ++i) {
        const auto at = static_cast<int64_t>(i) * n_experts_;
        select(chunk_->logits.row(t).data() + at, &truth);
        for (size_t g = 0; g < guesses.size(); ++g) {
          select(logits[g].row(t).data() + at, &guessed);
          right[g][i] += in_common(truth, guessed);
        }
      }
    }
  });
  sums_->gram.resize(0, 0);  // not needed any more
  sums_->cross.resize(0, 0);
  for (size_t i = 0; i < n_links; ++i) {
    size_t best = 0;
    for (size_t g = 1; g < guesses.size(); ++g) {
      if (right[g][i] > right[best][i]) best = g;
    }
    const auto at = static_cast<int64_t>(i) * n_experts_;
    Link link;
    link.ridge = guesses[best].ridge;
    link.weight = guesses[best].weight.middleRows(at, n_experts_);
    link.bias = guesses[best].bias.segment(at, n_experts_);
    for (const float w : link.weight.reshaped<Eigen::RowMajor>()) link.halves.push_back(to_half(w));
    links_.push_back(std::move(link));
  }
  return done;
}

// What a margin is worth, on the same prompts.
bool SourceFit::calibrate(GoOn go_on) {
  std::vector<std::vector<float>> margins(links_.size());
  std::vector<std::vector<uint8_t>> used(links_.size());
  int64_t n = 0;
  for (const auto& file : data_.validation) n += file->n_tokens() * n_experts_;
  for (size_t i = 0; i < links_.size(); ++i) {
    margins[i].reserve(static_cast<size_t>(n));
    used[i].reserve(static_cast<size_t>(n));
  }
  std::vector<ExpertId> truth;
  const auto gather = [&](size_t i, const float* guess, const float* real, int64_t, bool) {
    select(real, &truth);
    const float at = middle(guess);
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
  VectorXf reused;
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
    s.distance = static_cast<int32_t>(i) + 1;
    s.fitted /= n * k;
    s.gate_reuse /= n * k;
    s.hot_list /= n * k;
    s.previous_token /= std::max(1.0, static_cast<double>(n_followers[i])) * k;
    s.brier /= n * static_cast<double>(n_experts_);
    s.ridge = links_[i].ridge;
  }
  return true;
}

std::vector<FittedLink> SourceFit::run(GoOn go_on) {
  std::vector<LinkScore> scores;
  if (!accumulate(go_on) || !choose(go_on) || !calibrate(go_on) || !test(go_on, &scores)) return {};
  std::vector<FittedLink> out;
  for (size_t i = 0; i < links_.size(); ++i) {
    Link& link = links_[i];
    out.push_back({{source_, scores[i].distance, std::move(link.halves),
                    std::vector<float>(link.bias.begin(), link.bias.end()),
                    static_cast<float>(link.curve.scale), static_cast<float>(link.curve.offset),
                    static_cast<float>(scores[i].fitted), static_cast<float>(scores[i].gate_reuse)},
                   scores[i]});
  }
  return out;
}

}  // namespace tandem
