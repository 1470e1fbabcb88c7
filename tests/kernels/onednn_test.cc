#include <array>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/onednn_gemm.h"
#include "kernels/onednn_tile.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

using testing::as_seen_by;
using testing::Dot;
using testing::Packed;
using testing::product;
using testing::random_floats;
using testing::reference_dot;

constexpr int64_t kPad = 5;  // behind each row where strides are longer than rows

bool skipped(const char* why = onednn_missing()) {
  if (why == nullptr) return false;
  WARN("skipped: " << why);
  return true;
}

// Rows of either type, `stride` apart, and what they mean.
struct Matrix {
  Matrix(std::mt19937& rng, GemmType type, int64_t rows, int64_t cols, int64_t stride)
      : values(random_floats(rng, rows * stride)), cols(cols), stride(stride) {
    if (type == GemmType::kF32) return;
    for (float& v : values) {
      uint32_t bits = 0;
      std::memcpy(&bits, &v, sizeof bits);
      bits &= 0xFFFF0000;
      std::memcpy(&v, &bits, sizeof bits);
      bf16.push_back(static_cast<uint16_t>(bits >> 16));
    }
  }
  const void* data() const {
    return bf16.empty() ? static_cast<const void*>(values.data()) : bf16.data();
  }
  const float* row(int64_t r) const { return values.data() + r * stride; }

  std::vector<float> values;
  std::vector<uint16_t> bf16;
  int64_t cols;
  int64_t stride;
};

// "" or what differs: assertions of Catch are for one thread. bf16 is not there on every CPU.
std::string differences(GemmShape shape, unsigned seed) {
  std::mt19937 rng(seed);
  const Matrix x(rng, shape.type, shape.n_tokens, shape.cols, shape.x_stride);
  const Matrix w(rng, shape.type, shape.n_rows, shape.cols, shape.w_stride);
  std::vector<float> out(static_cast<size_t>(shape.n_tokens * shape.out_stride), -7.0F);
  const void* weights = w.data();
  std::vector<std::byte> packed;
  if (shape.packed) {
    packed.resize(static_cast<size_t>(onednn_packed_bytes(shape)));
    if (!packed.empty() && !onednn_pack(shape, weights, packed.data())) return "not packed";
    weights = packed.data();
  }
  if (!onednn_gemm(shape, x.data(), weights, out.data())) {
    return shape.type == GemmType::kF32 ? "f32 is not supported" : "";
  }
  // Sums of f32, in an order that oneDNN chooses: at most one rounding for each column.
  const double tolerance = static_cast<double>(shape.cols + 1) / (1 << 24);
  for (int64_t t = 0; t < shape.n_tokens; ++t) {
    const float* row = out.data() + t * shape.out_stride;
    for (int64_t r = 0; r < shape.n_rows; ++r) {
      const Dot dot = reference_dot(w.row(r), x.row(t), shape.cols);
      if (!(std::abs(row[r] - dot.sum) <= tolerance * dot.magnitude)) {
        return "token " + std::to_string(t) + " row " + std::to_string(r) + ": " +
               std::to_string(row[r]) + ", expected " + std::to_string(dot.sum);
      }
    }
    for (int64_t r = shape.n_rows; r < shape.out_stride; ++r) {
      if (row[r] != -7.0F) return "written behind row " + std::to_string(t);
    }
  }
  return "";
}

int64_t threads_of_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

constexpr std::array<std::array<int64_t, 3>, 6> kShapes{
    {{1, 1, 1}, {3, 5, 7}, {12, 33, 519}, {1, 64, 2048}, {32, 64, 96}, {131, 70, 31}}};

TEST_CASE("a product of oneDNN matches float64 for odd shapes, strides and both types") {
  if (skipped()) return;
  for (const GemmType type : {GemmType::kF32, GemmType::kBf16}) {
    for (const auto& [n_tokens, n_rows, cols] : kShapes) {
      for (const bool packed : {false, true}) {
        GemmShape shape = dense_gemm(type, n_tokens, n_rows, cols);
        shape.packed = packed;
        INFO(n_tokens << " tokens by [" << n_rows << ", " << cols << "], type "
                      << static_cast<int>(type) << (packed ? ", packed" : ""));
        CHECK(differences(shape, 1) == "");
        shape.x_stride += kPad;
        shape.w_stride += kPad;
        shape.out_stride += kPad;
        CHECK(differences(shape, 2) == "");
      }
    }
  }
}

TEST_CASE("a product of oneDNN with bytes is exact") {
  if (skipped()) return;
  std::mt19937 rng(3);
  const int64_t cols = 77;
  std::vector<uint8_t> x(static_cast<size_t>(5 * cols));
  std::vector<int8_t> w(static_cast<size_t>(9 * cols));
  for (uint8_t& v : x) v = static_cast<uint8_t>(rng());
  for (int8_t& v : w) v = static_cast<int8_t>(static_cast<int>(rng() % 127) - 63);
  std::vector<float> out(5 * 9);
  if (!onednn_gemm(dense_gemm(GemmType::kU8S8, 5, 9, cols), x.data(), w.data(), out.data())) {
    WARN("not on this CPU");
    return;
  }
  for (size_t t = 0; t < 5; ++t) {
    for (size_t r = 0; r < 9; ++r) {
      int sum = 0;
      for (size_t c = 0; c < cols; ++c) sum += x[t * cols + c] * w[r * cols + c];
      REQUIRE(out[t * 9 + r] == static_cast<float>(sum));
    }
  }
}

TEST_CASE("products of oneDNN run in several threads at once") {
  if (skipped()) return;
  std::array<std::string, 4> found;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < found.size(); ++i) {
    threads.emplace_back([&found, i] {
      // More shapes than a thread remembers, twice.
      for (int64_t turn = 0; turn < 2 && found[i].empty(); ++turn) {
        for (int64_t n = 1; n < kOnednnShapes + 8 && found[i].empty(); ++n) {
          const GemmType type = n % 2 == 0 ? GemmType::kF32 : GemmType::kBf16;
          found[i] = differences(dense_gemm(type, n, 24, 64), static_cast<unsigned>(i));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : found) CHECK(text == "");
}

TEST_CASE("a product of oneDNN starts no threads, whichever thread calls it") {
  if (skipped()) return;
  int64_t started = 0;
  const auto multiply = [&started] {
    const int64_t before = threads_of_process();
    const GemmShape big = dense_gemm(GemmType::kF32, 128, 256, 512);
    if (differences(big, 4) == "") started += threads_of_process() - before;
  };
  multiply();
  CHECK(started == 0);
  std::thread(multiply).join();
  CHECK(started == 0);
}

// Products by oneDNN while it lives.
class OnednnScope {
 public:
  explicit OnednnScope(int64_t from) { use_onednn_from(from); }
  ~OnednnScope() { use_onednn_from(kOnednnNever); }
  OnednnScope(const OnednnScope&) = delete;
  OnednnScope& operator=(const OnednnScope&) = delete;
};

TEST_CASE("a product that oneDNN takes over is float64's of the same rounded tokens") {
  if (skipped(onednn_tile_missing())) return;
  std::mt19937 rng(21);
  for (const SimdOps* ops : testing::all_isas()) {
    const testing::IsaScope isa(ops);
    if (x_kind(DType::kBF16) != XKind::kBf16) continue;
    for (const auto& [rows, cols, n] : std::vector<std::array<int64_t, 3>>{
             {16, 32, 1}, {48, 512, 32}, {80, 1100, 33}, {67, 1031, 130}}) {
      const testing::RandomWeights w(rng, DType::kBF16, rows, cols, 1);
      const std::vector<float> weights = w.dequantized();
      const std::vector<float> x = random_floats(rng, n * cols);
      INFO(ops->name << " [" << rows << ", " << cols << "], " << n << " tokens");
      std::vector<WeightView> views{w.view()};
      std::optional<Packed> packed;
      if (can_pack(w.view())) views.push_back(packed.emplace(w.view()).view());
      for (const WeightView& view : views) {
        const std::vector<float> own = product(view, x, serial_for);
        const OnednnScope scope(1);
        const std::vector<float> theirs = product(view, x, serial_for);
        CHECK(testing::same_bits(theirs, product(view, x, testing::threads_for)));
        for (int64_t t = 0; t < n; ++t) {
          const std::vector<float> seen = as_seen_by(DType::kBF16, x.data() + t * cols, cols);
          for (int64_t r = 0; r < rows; ++r) {
            const Dot dot = reference_dot(weights.data() + r * cols, seen.data(), cols);
            const float y = theirs[static_cast<size_t>(t * rows + r)];
            REQUIRE(std::abs(y - dot.sum) <= 70.0 / (1 << 24) * dot.magnitude);
          }
        }
        if (cols > 1024 && n > 33) CHECK_FALSE(testing::same_bits(own, theirs));  // it was used
      }
    }
  }
}

TEST_CASE("oneDNN takes over from the given number of tokens of a tile on") {
  if (skipped(onednn_tile_missing())) return;
  std::mt19937 rng(22);
  for (const SimdOps* ops : testing::all_isas()) {
    const testing::IsaScope isa(ops);
    if (x_kind(DType::kBF16) != XKind::kBf16) continue;
    const testing::RandomWeights w(rng, DType::kBF16, 64, 2048);
    const std::vector<float> few = random_floats(rng, 31 * 2048);
    const std::vector<float> many = random_floats(rng, 32 * 2048);
    const std::vector<float> own_few = product(w.view(), few, serial_for);
    const std::vector<float> own_many = product(w.view(), many, serial_for);
    const OnednnScope scope(32);
    INFO(ops->name);
    CHECK(testing::same_bits(own_few, product(w.view(), few, serial_for)));
    CHECK_FALSE(testing::same_bits(own_many, product(w.view(), many, serial_for)));
  }
}

}  // namespace
}  // namespace tandem
