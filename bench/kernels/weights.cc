#include "bench/kernels/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/packed.h"
#include "runtime/error.h"
#include "runtime/model/available_memory.h"
#include "runtime/words.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kDistinctRows = 256;
constexpr int64_t kTokenStep = 61;  // between elements that are compared
constexpr int64_t kRowStep = 37;

// Steps through [0, n) that end on its last.
std::vector<int64_t> some_of(int64_t n, int64_t step) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n - 1; i += step) out.push_back(i);
  out.push_back(n - 1);
  return out;
}

}  // namespace

Ring::Ring(std::span<const std::byte> one, int64_t at_least_bytes) {
  const auto bytes = static_cast<int64_t>(one.size());
  stride_ = (bytes + kPage - 1) / kPage * kPage;
  copies_ = std::max<int64_t>((at_least_bytes + stride_ - 1) / stride_, 2);
  if (stride_ * copies_ > available_host_bytes()) {
    throw MemoryError(fmt::format("{} copies of {} of weights do not fit into memory", copies_,
                                  bytes_text(bytes)));
  }
  region_ = HostRegion(stride_ * copies_);
  for (int64_t i = 0; i < copies_; ++i) {
    std::memcpy(region_.data() + i * stride_, one.data(), one.size());
  }
}

const std::byte* Ring::next() {
  turn_ = (turn_ + 1) % copies_;
  return region_.data() + turn_ * stride_;
}

std::span<const std::byte> Ring::all() const {
  return {region_.data(), static_cast<size_t>(region_.size())};
}

Matrix::Matrix(std::mt19937& rng, DType type, int64_t rows, int64_t cols)
    : type_(type), rows_(rows), cols_(cols), distinct_(std::min(rows, kDistinctRows)) {
  const testing::RandomWeights random(rng, type, distinct_, cols);
  const WeightView& view = random.view();
  bytes_.assign(view.data, view.data + view.bytes());
  values_ = random.dequantized();
}

std::vector<std::byte> Matrix::plain() const {
  const int64_t row_bytes = dtype_bytes(type_, cols_);
  std::vector<std::byte> out(static_cast<size_t>(rows_ * row_bytes));
  for (int64_t r = 0; r < rows_; ++r) {
    std::memcpy(out.data() + r * row_bytes, bytes_.data() + r % distinct_ * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  return out;
}

int64_t Matrix::group_bytes() const { return packed_bytes(type_, cols_); }

void Matrix::packed_group(int64_t index, std::byte* to) const {
  const WeightView view{type_, distinct_, cols_, bytes_.data()};
  pack_group(view, index * kGroupRows % distinct_, kGroupRows, 0, cols_, to);
}

std::vector<std::byte> Matrix::packed() const {
  std::vector<std::byte> out(static_cast<size_t>(rows_ / kGroupRows * group_bytes()));
  for (int64_t g = 0; g < rows_ / kGroupRows; ++g) packed_group(g, out.data() + g * group_bytes());
  return out;
}

std::string compare(const std::vector<float>& y, int64_t n_tokens, int64_t n_rows, int64_t cols,
                    const RowOf& weights, const RowOf& x, double tolerance) {
  for (const int64_t t : some_of(n_tokens, kTokenStep)) {
    for (const int64_t r : some_of(n_rows, kRowStep)) {
      const testing::Dot dot = testing::reference_dot(weights(r), x(t), cols);
      const float got = y[static_cast<size_t>(t * n_rows + r)];
      if (!(std::abs(got - dot.sum) <= tolerance * dot.magnitude)) {
        return fmt::format("token {} row {}: expected {}, got {}; magnitudes {}", t, r, dot.sum,
                           got, dot.magnitude);
      }
    }
  }
  return "";
}

}  // namespace tandem::bench
