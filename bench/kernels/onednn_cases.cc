#include <algorithm>
#include <atomic>

#include "bench/kernels/cases.h"
#include "bench/kernels/weights.h"
#include "kernels/onednn_gemm.h"
#include "kernels/packed_rows.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

constexpr int64_t kTileBytes = 512 * 1024;  // of weights as oneDNN gets them: half of an L2 cache
// Of a product with bf16: both factors are rounded to eight bits.
constexpr double kBf16Tolerance = 1.02 / 256;

// A worker's own, grown once.
struct TileScratch {
  std::vector<float> row;
  std::vector<std::byte> weights;
  std::vector<float> out;
};

int64_t element_bytes(GemmType type) {
  if (type == GemmType::kU8S8) return 1;
  return type == GemmType::kBf16 ? 2 : 4;
}

// What weights of other types become on the way: f32 where this CPU has no bf16.
GemmType gemm_of(const std::string& type) {
  if (type == kU8S8) return GemmType::kU8S8;
  const bool bf16 = find_simd("avx512-bf16") != nullptr && simd().pack_x != nullptr;
  return type == "f32" || !bf16 ? GemmType::kF32 : GemmType::kBf16;
}

// Weights s8 and activations u8 as floats.
std::vector<float> random_integers(std::mt19937& rng, int64_t n, int least, int most) {
  std::uniform_int_distribution<int> some(least, most);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = static_cast<float>(some(rng));
  return out;
}

std::vector<std::byte> as_bytes(const std::vector<float>& values) {
  std::vector<std::byte> out;
  out.reserve(values.size());
  for (const float v : values) out.push_back(static_cast<std::byte>(static_cast<int>(v)));
  return out;
}

// One weight matrix, cut into tiles of rows; a task of the pool is one tile by all tokens.
class OnednnBench : public Bench {
 public:
  OnednnBench(std::mt19937& rng, const std::string& type, int64_t rows, int64_t cols,
              const Pools& pools, const Wanted& wanted)
      : type_(type),
        gemm_(gemm_of(type)),
        rows_(rows),
        cols_(cols),
        pools_(pools),
        wanted_(wanted) {
    tile_rows_ = std::clamp<int64_t>(kTileBytes / (cols * element_bytes(gemm_)) / 64 * 64, 64, 256);
    if (gemm_ == GemmType::kU8S8) {
      // Products in pairs stay in int16 on CPUs without VNNI, too.
      integers_ = random_integers(rng, rows * cols, -63, 63);
      x_ = random_integers(rng, wanted.most_tokens * cols, 0, 127);
      x_bytes_ = as_bytes(x_);
      plain_ = as_bytes(integers_);
    } else {
      matrix_ = std::make_unique<Matrix>(rng, type_named(type), rows, cols);
      x_ = testing::random_floats(rng, wanted.most_tokens * cols);
      plain_ = matrix_->plain();
    }
    dequantised_ = matrix_ != nullptr && type != "f32" && !(type == "bf16" && is_bf16());
    if (wanted.has(kOnednnTile) && matrix_ != nullptr) ring_ = Ring(plain_, wanted.ring_bytes);
  }

  std::vector<Case> cases(int64_t tokens) override {
    y_.assign(static_cast<size_t>(tokens * rows_), 0.0F);
    std::vector<Case> out;
    if (wanted_.has(kOnednn) && !dequantised_ && pack(tokens)) add(kOnednn, tokens, &out);
    if (ring_ && onednn_packed_bytes(shape_of(tokens, 0, false)) > 0) {
      add(kOnednnTile, tokens, &out);
    }
    return out;
  }

 private:
  bool is_bf16() const { return gemm_ == GemmType::kBf16; }
  int64_t tiles() const { return (rows_ + tile_rows_ - 1) / tile_rows_; }

  GemmShape shape_of(int64_t tokens, int64_t tile, bool packed) const {
    GemmShape shape =
        dense_gemm(gemm_, tokens, std::min(tile_rows_, rows_ - tile * tile_rows_), cols_);
    if (is_bf16()) shape.x_stride = x_bytes(XKind::kBf16, cols_) / 2;
    if (is_bf16() && dequantised_) shape.w_stride = shape.x_stride;
    shape.packed = packed;
    return shape;
  }

  // The ring of weights in oneDNN's own order, which may depend on the number of tokens.
  bool pack(int64_t tokens) {
    packed_tile_bytes_ = (onednn_packed_bytes(shape_of(tokens, 0, true)) + 63) / 64 * 64;
    if (packed_tile_bytes_ == 0) return false;
    std::vector<std::byte> packed(static_cast<size_t>(tiles() * packed_tile_bytes_));
    for (int64_t i = 0; i < tiles(); ++i) {
      const std::byte* from = plain_.data() + i * tile_rows_ * cols_ * element_bytes(gemm_);
      if (!onednn_pack(shape_of(tokens, i, true), from, packed.data() + i * packed_tile_bytes_)) {
        return false;
      }
    }
    packed_ring_ = Ring();
    packed_ring_ = Ring(packed, wanted_.ring_bytes);
    return true;
  }

  void add(const char* kernel, int64_t tokens, std::vector<Case>* out) {
    for (const auto& pool : pools_) {
      Case c{kernel, type_, rows_, cols_, tokens, pool.get()};
      c.weight_bytes = static_cast<int64_t>(plain_.size());
      c.ops = 2 * tokens * rows_ * cols_;
      c.peak = gemm_ == GemmType::kF32 ? Peak::kF32 : is_bf16() ? Peak::kBf16 : Peak::kInt8;
      const bool packed = kernel == std::string(kOnednn);
      c.call = [this, tokens, packed, &pool] { call(tokens, packed, *pool); };
      c.check = [this, tokens] { return check(tokens); };
      out->push_back(std::move(c));
    }
  }

  void call(int64_t tokens, bool packed, ThreadPool& pool) {
    const std::byte* w = packed ? packed_ring_.next() : ring_.next();
    const XKind kind = is_bf16() ? XKind::kBf16 : XKind::kFloat;
    const PackedRows rows(kind, x_.data(), tokens, cols_,
                          pool.workspace().at_least(PackedRows::bytes(kind, tokens, cols_)), pool);
    const std::byte* x = gemm_ == GemmType::kU8S8 ? x_bytes_.data() : rows.row(0);
    pool.run(tiles(), [&](int64_t i) { run_tile(shape_of(tokens, i, packed), i, w, x); });
  }

  void run_tile(const GemmShape& shape, int64_t tile, const std::byte* w, const std::byte* x) {
    static thread_local TileScratch scratch;
    scratch.out.resize(static_cast<size_t>(shape.n_tokens * shape.n_rows));
    const int64_t first = tile * tile_rows_;
    const std::byte* weights = w + tile * packed_tile_bytes_;
    if (!shape.packed) {
      weights = w + first * (static_cast<int64_t>(plain_.size()) / rows_);
      if (dequantised_) weights = dequantised(weights, shape, &scratch);
    }
    if (!onednn_gemm(shape, x, weights, scratch.out.data())) failed_ = true;
    for (int64_t t = 0; t < shape.n_tokens; ++t) {
      std::copy_n(scratch.out.data() + t * shape.n_rows, shape.n_rows,
                  y_.data() + t * rows_ + first);
    }
  }

  const std::byte* dequantised(const std::byte* from, const GemmShape& shape,
                               TileScratch* scratch) const {
    const int64_t row_bytes = dtype_bytes(matrix_->type(), cols_);
    const int64_t stride = shape.w_stride * element_bytes(gemm_);
    scratch->row.resize(static_cast<size_t>(cols_));
    scratch->weights.resize(static_cast<size_t>(shape.n_rows * stride));
    for (int64_t r = 0; r < shape.n_rows; ++r) {
      std::byte* to = scratch->weights.data() + r * stride;
      float* row = is_bf16() ? scratch->row.data() : reinterpret_cast<float*>(to);
      dequantize(matrix_->type(), from + r * row_bytes, row, cols_);
      if (is_bf16()) pack_x(XKind::kBf16, row, cols_, to);
    }
    return scratch->weights.data();
  }

  std::string check(int64_t tokens) const {
    if (failed_) return "oneDNN refused a product that it had promised";
    const auto row = [&](int64_t r) {
      return matrix_ != nullptr ? matrix_->row(r) : integers_.data() + r * cols_;
    };
    const double rounding = is_bf16() ? kBf16Tolerance : 0;
    return compare(
        y_, tokens, rows_, cols_, row, [&](int64_t t) { return x_.data() + t * cols_; },
        f32_tolerance(cols_) + rounding);
  }

  std::string type_;
  GemmType gemm_;
  int64_t rows_;
  int64_t cols_;
  int64_t tile_rows_;
  std::unique_ptr<Matrix> matrix_;  // none for bytes
  std::vector<float> integers_;     // these weights, [rows, cols]
  std::vector<std::byte> plain_;
  bool dequantised_ = false;
  Ring ring_;
  Ring packed_ring_;
  int64_t packed_tile_bytes_ = 0;
  std::vector<float> x_;            // [most tokens, cols]
  std::vector<std::byte> x_bytes_;  // the same u8
  std::vector<float> y_;            // [tokens, rows]
  std::atomic<bool> failed_{false};
  const Pools& pools_;
  const Wanted& wanted_;
};

}  // namespace

std::unique_ptr<Bench> onednn_bench(std::mt19937& rng, const std::string& type, int64_t rows,
                                    int64_t cols, const Pools& pools, const Wanted& wanted) {
  return std::make_unique<OnednnBench>(rng, type, rows, cols, pools, wanted);
}

}  // namespace tandem::bench
