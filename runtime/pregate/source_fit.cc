#include "runtime/pregate/source_fit.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <span>
#include <utility>

#include "runtime/pregate/refine.h"
#include "runtime/pregate/reused_gate.h"
#include "runtime/pregate/source_fit_parts.h"
#include "scheduler/routing.h"

namespace tandem {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using Eigen::VectorXf;

constexpr int64_t kChunk = 512;  // tokens that are read at once
constexpr int64_t kBatch = 256;  // tokens of a step of refinement
// Shares of the mean square of an input.
constexpr std::array kRidges{1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0};

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

SourceFit::SourceFit(const Model& model, const TapSplit& data, const FitTask& task)
    : model_(model),
      data_(data),
      source_(task.source),
      first_(task.first_distance),
      n_links_(task.n_distances),
      epochs_(task.epochs),
      n_experts_(model.config().routing.n_experts),
      top_k_(static_cast<size_t>(model.config().routing.top_k)),
      router_(model.config().routing, 1),
      sorted_(static_cast<size_t>(n_experts_)),
      chunk_(std::make_unique<Chunk>()),
      sums_(std::make_unique<Sums>()) {
  const int64_t d = model.config().d_model;
  const int64_t all = n_links_ * n_experts_;
  const auto& layers = model.weights().layers;
  const auto from = static_cast<size_t>(source_);
  sums_->reuse.resize(all, d);
  for (int64_t i = 0; i < n_links_; ++i) {
    const std::vector<float> gate =
        reused_gate(layers[from], layers[from + static_cast<size_t>(first_ + i)]);
    sums_->reuse.middleRows(i * n_experts_, n_experts_) =
        Eigen::Map<const Rows>(gate.data(), n_experts_, d);
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
  const int64_t sides = (3 * 8 + 4 * (3 + std::ssize(kRidges))) * d * all;
  // Squares are gone when margins are gathered.
  const int64_t margins = validation_tokens * all * int64_t{sizeof(float) + sizeof(uint8_t)};
  return std::max(squares, margins) + sides +
         4 * kChunk * (3 * d + (6 + std::ssize(kRidges)) * all);
}

void SourceFit::select(const float* logits, std::vector<ExpertId>* ids) {
  ids->resize(top_k_);
  if (!router_.select(logits, 1, *ids)) ids->clear();
}

void SourceFit::read_inputs(const TapFile& file, int64_t first, int64_t n, float* inputs) const {
  if (first_ == 0) {
    file.read_before_attention(source_, first, n, inputs);
  } else {
    file.read_inputs(source_, first, n, inputs);
  }
}

bool SourceFit::for_each_chunk(const TapFiles& files, GoOn go_on, FunctionRef<void(int64_t)> f) {
  Rows one;
  for (const auto& file : files) {
    for (int64_t first = 0; first < file->n_tokens(); first += kChunk) {
      if (!go_on()) return false;
      const int64_t n = std::min(kChunk, file->n_tokens() - first);
      chunk_->inputs.resize(n, model_.config().d_model);
      read_inputs(*file, first, n, chunk_->inputs.data());
      chunk_->logits.resize(n, n_links_ * n_experts_);
      one.resize(n, n_experts_);
      for (int64_t i = 0; i < n_links_; ++i) {
        file->read_logits(source_ + first_ + static_cast<int32_t>(i), first, n, one.data());
        chunk_->logits.middleCols(i * n_experts_, n_experts_) = one;
      }
      f(first);
    }
  }
  return true;
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
  // What all logits of a softmax have in common selects nobody.
  const bool centred = model_.config().routing.score == ScoreFunction::kSoftmax;
  Sums& s = *sums_;
  Rows reused, square, cross;
  const bool done = for_each_chunk(data_.training, go_on, [&](int64_t) {
    count_uses();
    const Rows& x = chunk_->inputs;
    Rows& lacks = chunk_->logits;
    chunk_->products.rows_by_rows(x, s.reuse, &reused);
    lacks -= reused;
    for (int64_t i = 0; centred && i < n_links_; ++i) {
      auto part = lacks.middleCols(i * n_experts_, n_experts_);
      part.colwise() -= part.rowwise().mean().eval();
    }
    chunk_->products.columns_by_columns(x, x, &square);
    s.gram.triangularView<Eigen::Lower>() += square.cast<double>();
    chunk_->products.columns_by_columns(x, lacks, &cross);
    s.cross += cross.cast<double>();
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

bool SourceFit::count_right(GoOn go_on, std::span<const Guess> guesses, Counts* right) {
  const auto n_links = static_cast<size_t>(n_links_);
  right->assign(guesses.size(), std::vector<int64_t>(n_links, 0));
  std::vector<ExpertId> truth;
  std::vector<ExpertId> guessed;
  return for_each_chunk(data_.validation, go_on, [&](int64_t) {
    std::vector<Rows> logits;
    logits.reserve(guesses.size());
    for (const Guess& guess : guesses) {
      chunk_->products.rows_by_rows(chunk_->inputs, guess.weight, &logits.emplace_back());
      logits.back().rowwise() += guess.bias.transpose();
    }
    for (int64_t t = 0; t < chunk_->logits.rows(); ++t) {
      for (size_t i = 0; i < n_links; ++i) {
        const auto at = static_cast<int64_t>(i) * n_experts_;
        select(chunk_->logits.row(t).data() + at, &truth);
        for (size_t g = 0; g < guesses.size(); ++g) {
          select(logits[g].row(t).data() + at, &guessed);
          (*right)[g][i] += in_common(truth, guessed);
        }
      }
    }
  });
}

void SourceFit::take(const Guess& guess, size_t link) {
  const auto at = static_cast<int64_t>(link) * n_experts_;
  links_[link].weight = guess.weight.middleRows(at, n_experts_);
  links_[link].bias = guess.bias.segment(at, n_experts_);
}

// Of gate reuse and its corrections the best on prompts that were not fitted, for each distance.
bool SourceFit::choose(GoOn go_on) {
  std::vector<Guess> guesses{reuse()};
  for (const double ridge : kRidges) {
    if (!go_on()) return false;
    guesses.push_back(solve(ridge));
  }
  sums_->gram.resize(0, 0);  // not needed any more
  sums_->cross.resize(0, 0);
  Counts right;
  const bool done = count_right(go_on, guesses, &right);
  links_.resize(static_cast<size_t>(n_links_));
  for (size_t i = 0; i < links_.size(); ++i) {
    size_t best = 0;
    for (size_t g = 1; g < guesses.size(); ++g) {
      if (right[g][i] > right[best][i]) best = g;
    }
    links_[i].ridge = guesses[best].ridge;
    links_[i].right = right[best][i];
    take(guesses[best], i);
  }
  return done;
}

// What was chosen, as logits of P(use) by its calibration.
SourceFit::Guess SourceFit::calibrated() const {
  Guess guess{0, Rows(sums_->reuse.rows(), sums_->reuse.cols()), VectorXf(sums_->reuse.rows())};
  for (size_t i = 0; i < links_.size(); ++i) {
    const Link& link = links_[i];
    const auto at = static_cast<int64_t>(i) * n_experts_;
    const double scale = link.curve.scale > 0 ? link.curve.scale : 1;
    const double shift = link.curve.offset - scale * link.middle;
    guess.weight.middleRows(at, n_experts_) = static_cast<float>(scale) * link.weight;
    guess.bias.segment(at, n_experts_).array() =
        static_cast<float>(scale) * link.bias.array() + static_cast<float>(shift);
  }
  return guess;
}

// Inputs and, in place of logits, who was selected: 0 or 1.
void SourceFit::read_tokens(std::span<const TokenAt> tokens) {
  chunk_->inputs.resize(std::ssize(tokens), model_.config().d_model);
  chunk_->logits.resize(std::ssize(tokens), n_links_ * n_experts_);
  std::vector<float> real(static_cast<size_t>(n_experts_));
  std::vector<ExpertId> ids;
  for (int64_t t = 0; t < std::ssize(tokens); ++t) {
    const auto& [file, at] = tokens[static_cast<size_t>(t)];
    read_inputs(*file, at, 1, chunk_->inputs.row(t).data());
    auto used = chunk_->logits.row(t);
    used.setZero();
    for (int64_t i = 0; i < n_links_; ++i) {
      file->read_logits(source_ + first_ + static_cast<int32_t>(i), at, 1, real.data());
      select(real.data(), &ids);
      for (const ExpertId id : ids) used[i * n_experts_ + id.value] = 1;
    }
  }
}

// Logistic regression from what was chosen on. Of each distance the guess behind that epoch is
// kept that is best on the prompts that choose, or the one from before.
bool SourceFit::refine(GoOn go_on) {
  std::vector<TokenAt> tokens;
  for (const auto& file : data_.training) {
    for (int64_t t = 0; t < file->n_tokens(); ++t) tokens.push_back({file.get(), t});
  }
  const int64_t n_batches = (std::ssize(tokens) + kBatch - 1) / kBatch;
  Guess guess = calibrated();
  LogisticRegression regression(std::move(guess.weight), std::move(guess.bias),
                                epochs_ * n_batches);
  std::mt19937 random(1);  // the same order in every fit
  Counts right;
  for (int32_t epoch = 1; epoch <= epochs_; ++epoch) {
    for (size_t i = tokens.size(); i > 1; --i) std::swap(tokens[i - 1], tokens[random() % i]);
    for (int64_t b = 0; b < n_batches; ++b) {
      if (!go_on()) return false;
      const auto first = static_cast<size_t>(b * kBatch);
      const size_t n = std::min<size_t>(kBatch, tokens.size() - first);
      read_tokens(std::span(tokens).subspan(first, n));
      regression.step(chunk_->inputs, &chunk_->logits);
    }
    guess = {0, rounded(regression.weight()), regression.bias()};
    if (!count_right(go_on, {&guess, 1}, &right)) return false;
    for (size_t i = 0; i < links_.size(); ++i) {
      if (right[0][i] <= links_[i].right) continue;
      links_[i].right = right[0][i];
      links_[i].epochs = epoch;
      take(guess, i);
    }
  }
  return true;
}

std::vector<FittedLink> SourceFit::run(GoOn go_on) {
  std::vector<LinkScore> scores;
  if (!accumulate(go_on) || !choose(go_on) || !calibrate(go_on)) return {};
  if (epochs_ > 0 && (!refine(go_on) || !calibrate(go_on))) return {};
  if (!test(go_on, &scores)) return {};
  std::vector<FittedLink> out;
  for (size_t i = 0; i < links_.size(); ++i) {
    Link& link = links_[i];
    std::vector<uint16_t> halves;
    for (const float w : link.weight.reshaped<Eigen::RowMajor>()) halves.push_back(to_half(w));
    out.push_back({{source_, scores[i].distance, std::move(halves),
                    std::vector<float>(link.bias.begin(), link.bias.end()),
                    static_cast<float>(link.curve.scale), static_cast<float>(link.curve.offset),
                    static_cast<float>(scores[i].fitted), static_cast<float>(scores[i].gate_reuse)},
                   scores[i]});
  }
  return out;
}

}  // namespace tandem
