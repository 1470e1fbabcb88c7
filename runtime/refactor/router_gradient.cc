#include "runtime/refactor/router_gradient.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/check.h"

namespace tandem {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::VectorXf;
using Floats = std::vector<float>;

Eigen::Map<const Rows> matrix(const Floats& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols};
}
Eigen::Map<Rows> matrix(Floats* values, int64_t cols) {
  return {values->data(), static_cast<int64_t>(values->size()) / cols, cols};
}
Eigen::Map<const Eigen::RowVectorXf> row_vector(const Floats& values) {
  return {values.data(), static_cast<int64_t>(values.size())};
}
Eigen::Map<Eigen::RowVectorXf> row_vector(Floats* values) {
  return {values->data(), static_cast<int64_t>(values->size())};
}

// y = x w^T + b
void linear(const Floats& w, const Floats& b, const Rows& x, Rows* y) {
  y->noalias() = x * matrix(w, x.cols()).transpose();
  if (!b.empty()) y->rowwise() += row_vector(b);
}

// From dy: dw, db, and dx, to which it is added.
void linear_back(const Floats& w, const Rows& x, const Rows& dy, Floats* dw, Floats* db, Rows* dx) {
  matrix(dw, x.cols()).noalias() = dy.transpose() * x;
  if (db != nullptr) row_vector(db) = dy.colwise().sum();
  dx->noalias() += dy * matrix(w, x.cols());
}

// y = x / rms(x) gain
struct Norm {
  VectorXf scale;  // [n] 1 / rms
  Rows y;          // [n, w]

  void run(const Rows& x, const Floats& gain) {
    const auto w = static_cast<float>(x.cols());
    scale = (x.rowwise().squaredNorm().array() / w + kDecoupledNormEpsilon).rsqrt().matrix();
    y = (x.array().colwise() * scale.array()).rowwise() * row_vector(gain).array();
  }

  void back(const Rows& x, const Floats& gain, const Rows& dy, Floats* dgain, Rows* dx) const {
    const auto w = static_cast<float>(x.cols());
    const Rows scaled = x.array().colwise() * scale.array();
    row_vector(dgain) = (dy.array() * scaled.array()).colwise().sum().matrix();
    const Rows d = dy.array().rowwise() * row_vector(gain).array();
    const VectorXf along = (d.array() * scaled.array()).rowwise().sum().matrix() / w;
    dx->array() += (d.array() - scaled.array().colwise() * along.array()).colwise() * scale.array();
  }
};

struct BlockPass {
  Rows x;  // [n, w] what it is given
  Norm attn_norm;
  Rows q, k, v;              // [n, w] q and k rotated
  std::vector<Rows> shares;  // [heads] of [n, n]: softmax of scores
  Rows attended;             // [n, w]
  Rows mid;                  // [n, w] the residual behind attention
  Norm ffn_norm;
  Rows hidden;  // [n, ff] before SiLU
  Rows silu;    // [n, ff]
};

}  // namespace

struct RouterGradient::Pass {
  DecoupledShape shape;
  int64_t head;
  Rows cosines, sines;  // [most_tokens, head / 2]
  std::vector<BlockPass> blocks;
  Rows x;  // [n, w] what the last block gives
  Norm out_norm;
  Rows logits;  // [n, E]; then their gradient
  Rows dx;      // [n, w] of the residual, from the last to the first
  Rows d_in, dq, dk, dv, d_attended, d_hidden;
  DecoupledRouter gradient;

  // Pairs (i, i + head / 2) by their position's angle times 1, or -1 to undo it.
  void rotate(Rows* rows, float direction) const {
    const int64_t half = head / 2;
    const Rows cosine = cosines.topRows(rows->rows());
    const Rows sine = direction * sines.topRows(rows->rows());
    for (int64_t first = 0; first < shape.width; first += head) {
      auto re = rows->middleCols(first, half);
      auto im = rows->middleCols(first + half, half);
      const Rows turned = re.cwiseProduct(cosine) - im.cwiseProduct(sine);
      im = (im.cwiseProduct(cosine) + re.cwiseProduct(sine)).eval();
      re = turned;
    }
  }

  void attend(BlockPass* pass) const {
    const auto n = pass->q.rows();
    pass->attended.resize(n, shape.width);
    for (size_t h = 0; h < pass->shares.size(); ++h) {
      const int64_t first = static_cast<int64_t>(h) * head;
      Rows& p = pass->shares[h];
      p.noalias() = pass->q.middleCols(first, head) * pass->k.middleCols(first, head).transpose();
      for (int64_t t = 0; t < n; ++t) {
        const int64_t from = shape.window > 0 ? std::max<int64_t>(0, t + 1 - shape.window) : 0;
        auto seen = p.row(t).segment(from, t + 1 - from).array();
        seen = (shape.attention_scale * (seen - seen.maxCoeff())).exp();
        seen /= seen.sum();
        p.row(t).head(from).setZero();
        p.row(t).tail(n - t - 1).setZero();
      }
      pass->attended.middleCols(first, head).noalias() = p * pass->v.middleCols(first, head);
    }
  }

  // From d_attended: dq, dk, dv.
  void attend_back(const BlockPass& pass) {
    const auto n = pass.q.rows();
    for (Rows* d : {&dq, &dk, &dv}) d->resize(n, shape.width);
    Rows ds;
    for (size_t h = 0; h < pass.shares.size(); ++h) {
      const int64_t first = static_cast<int64_t>(h) * head;
      const Rows& p = pass.shares[h];
      const auto da = d_attended.middleCols(first, head);
      dv.middleCols(first, head).noalias() = p.transpose() * da;
      ds.noalias() = da * pass.v.middleCols(first, head).transpose();
      const VectorXf mean = (ds.array() * p.array()).rowwise().sum().matrix();
      ds.array() = p.array() * (ds.array().colwise() - mean.array()) * shape.attention_scale;
      dq.middleCols(first, head).noalias() = ds * pass.k.middleCols(first, head);
      dk.middleCols(first, head).noalias() = ds.transpose() * pass.q.middleCols(first, head);
    }
  }

  // pass->x to *out.
  void run_block(const DecoupledRouter::Block& b, BlockPass* pass, Rows* out) const {
    pass->attn_norm.run(pass->x, b.attn_norm);
    linear(b.wq, b.bq, pass->attn_norm.y, &pass->q);
    linear(b.wk, b.bk, pass->attn_norm.y, &pass->k);
    linear(b.wv, b.bv, pass->attn_norm.y, &pass->v);
    rotate(&pass->q, 1);
    rotate(&pass->k, 1);
    attend(pass);
    linear(b.wo, {}, pass->attended, &pass->mid);
    pass->mid += pass->x;
    pass->ffn_norm.run(pass->mid, b.ffn_norm);
    linear(b.w1, b.b1, pass->ffn_norm.y, &pass->hidden);
    pass->silu = pass->hidden.array() / (1 + (-pass->hidden.array()).exp());
    linear(b.w2, b.b2, pass->silu, out);
    *out += pass->mid;
  }

  // dx behind the block becomes dx before it.
  void run_block_back(const DecoupledRouter::Block& b, const BlockPass& pass,
                      DecoupledRouter::Block* d) {
    const auto n = pass.x.rows();
    d_hidden.setZero(n, shape.ff);
    linear_back(b.w2, pass.silu, dx, &d->w2, &d->b2, &d_hidden);
    const auto gate = (1 + (-pass.hidden.array()).exp()).inverse();
    d_hidden.array() *= gate * (1 + pass.hidden.array() * (1 - gate));
    d_in.setZero(n, shape.width);
    linear_back(b.w1, pass.ffn_norm.y, d_hidden, &d->w1, &d->b1, &d_in);
    pass.ffn_norm.back(pass.mid, b.ffn_norm, d_in, &d->ffn_norm, &dx);

    d_attended.setZero(n, shape.width);
    linear_back(b.wo, pass.attended, dx, &d->wo, nullptr, &d_attended);
    attend_back(pass);
    rotate(&dq, -1);
    rotate(&dk, -1);
    d_in.setZero(n, shape.width);
    linear_back(b.wq, pass.attn_norm.y, dq, &d->wq, &d->bq, &d_in);
    linear_back(b.wk, pass.attn_norm.y, dk, &d->wk, &d->bk, &d_in);
    linear_back(b.wv, pass.attn_norm.y, dv, &d->wv, &d->bv, &d_in);
    pass.attn_norm.back(pass.x, b.attn_norm, d_in, &d->attn_norm, &dx);
  }

  // The loss; `logits` become their gradient.
  double cross_entropy(std::span<const float> targets) {
    double loss = 0;
    for (int64_t t = 0; t < logits.rows(); ++t) {
      auto row = logits.row(t).array();
      const Eigen::Map<const Eigen::RowVectorXf> target(targets.data() + t * logits.cols(),
                                                        logits.cols());
      row -= row.maxCoeff();
      const float log_sum = std::log(row.exp().sum());
      loss -= static_cast<double>((target.array() * (row - log_sum)).sum());
      row = (row - log_sum).exp() - target.array();
    }
    return loss;
  }
};

RouterGradient::RouterGradient(const DecoupledShape& shape, int64_t most_tokens)
    : pass_(std::make_unique<Pass>()) {
  Pass& p = *pass_;
  p.shape = shape;
  p.head = shape.width / shape.n_heads;
  p.cosines.resize(most_tokens, p.head / 2);
  p.sines.resize(most_tokens, p.head / 2);
  for (int64_t i = 0; i < p.head / 2; ++i) {
    const double frequency = std::pow(static_cast<double>(shape.rope_base),
                                      -2 * static_cast<double>(i) / static_cast<double>(p.head));
    for (int64_t t = 0; t < most_tokens; ++t) {
      p.cosines(t, i) = static_cast<float>(std::cos(static_cast<double>(t) * frequency));
      p.sines(t, i) = static_cast<float>(std::sin(static_cast<double>(t) * frequency));
    }
  }
  const auto n_blocks = static_cast<size_t>(shape.n_blocks);
  p.blocks.resize(n_blocks);
  for (BlockPass& block : p.blocks) block.shares.resize(static_cast<size_t>(shape.n_heads));
  p.gradient.shape = shape;
  p.gradient.blocks.resize(n_blocks);
  for_each_decoupled_tensor(p.gradient, [&](const auto&, const auto& sides, Floats& values) {
    if (&values == &p.gradient.embed) return;
    int64_t n = 1;
    for (const int64_t side : sides) n *= side;
    values.assign(static_cast<size_t>(n), 0.0F);
  });
}

RouterGradient::~RouterGradient() = default;
RouterGradient::RouterGradient(RouterGradient&&) noexcept = default;

double RouterGradient::run(const DecoupledRouter& router, std::span<const int32_t> tokens,
                           std::span<const float> targets) {
  Pass& p = *pass_;
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t w = p.shape.width;
  TANDEM_CHECK(n > 0 && n <= p.cosines.rows(), "%lld tokens", static_cast<long long>(n));
  Rows* x = p.blocks.empty() ? &p.x : &p.blocks[0].x;
  x->resize(n, w);
  for (int64_t t = 0; t < n; ++t) {
    x->row(t) = matrix(router.embed, w).row(tokens[static_cast<size_t>(t)]);
  }
  const size_t n_blocks = p.blocks.size();
  for (size_t b = 0; b < n_blocks; ++b) {
    p.run_block(router.blocks[b], &p.blocks[b], b + 1 < n_blocks ? &p.blocks[b + 1].x : &p.x);
  }
  p.out_norm.run(p.x, router.out_norm);
  linear(router.out, {}, p.out_norm.y, &p.logits);
  const double loss = p.cross_entropy(targets);

  p.d_in.setZero(n, w);
  linear_back(router.out, p.out_norm.y, p.logits, &p.gradient.out, nullptr, &p.d_in);
  p.dx.setZero(n, w);
  p.out_norm.back(p.x, router.out_norm, p.d_in, &p.gradient.out_norm, &p.dx);
  for (size_t b = n_blocks; b-- > 0;) {
    p.run_block_back(router.blocks[b], p.blocks[b], &p.gradient.blocks[b]);
  }
  return loss;
}

const DecoupledRouter& RouterGradient::gradient() const { return pass_->gradient; }

std::span<const float> RouterGradient::row_gradients() const {
  return {pass_->dx.data(), static_cast<size_t>(pass_->dx.size())};
}

int64_t RouterGradient::bytes(const DecoupledShape& s, int64_t n) {
  const int64_t w = s.width;
  const int64_t ff = s.ff;
  const int64_t block = 8 * n * w + 2 * n * ff + s.n_heads * n * n;
  const int64_t shared = 9 * n * w + n * (ff + 2 * s.n_experts) + n * n;
  const int64_t gradient =
      s.n_blocks * (4 * w * w + 2 * w * ff + ff + 6 * w) + w * (1 + s.n_experts);
  return (s.n_blocks * block + shared + gradient) * static_cast<int64_t>(sizeof(float));
}

}  // namespace tandem
