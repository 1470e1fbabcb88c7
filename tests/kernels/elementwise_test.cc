#include "kernels/elementwise.h"

#include <cmath>
#include <complex>
#include <utility>
#include <vector>

#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"

namespace tandem {
namespace {

using testing::random_floats;

constexpr double kPi = 3.14159265358979323846;

TEST_CASE("rms_norm matches float64, in place and with strides") {
  std::mt19937 rng(21);
  for (const int64_t d : {1, 7, 64, 1000}) {
    const int64_t stride = d + 3;
    const std::vector<float> x = random_floats(rng, 3 * stride, 5.0F);
    const std::vector<float> gain = random_floats(rng, d);
    std::vector<float> y(x.size(), 9.0F);
    rms_norm(x.data(), stride, gain.data(), 1e-5F, 3, d, y.data(), stride);
    std::vector<float> in_place = x;
    rms_norm(in_place.data(), stride, gain.data(), 1e-5F, 3, d, in_place.data(), stride);
    for (size_t t = 0; t < 3; ++t) {
      const size_t row = t * static_cast<size_t>(stride);
      double mean = 0;
      for (size_t c = 0; c < static_cast<size_t>(d); ++c)
        mean += std::pow(x[row + c], 2.0) / static_cast<double>(d);
      for (size_t c = 0; c < static_cast<size_t>(d); ++c) {
        const double expected = x[row + c] / std::sqrt(mean + 1e-5) * gain[c];
        REQUIRE(std::abs(y[row + c] - expected) <= 3e-7 * std::abs(expected));
        REQUIRE(in_place[row + c] == y[row + c]);
      }
      REQUIRE(y[row + static_cast<size_t>(d)] == 9.0F);
    }
  }
}

TEST_CASE("rms_norm does not overflow where the square of a value would") {
  const std::vector<float> x = {3e30F, -3e30F};
  const std::vector<float> gain = {1.0F, 2.0F};
  std::vector<float> y(2);
  rms_norm(x.data(), 2, gain.data(), 1e-6F, 1, 2, y.data(), 2);
  CHECK(y[0] == Approx(1.0F));
  CHECK(y[1] == Approx(-2.0F));
}

TEST_CASE("add adds element by element") {
  const std::vector<float> x = {1.0F, -2.0F, 0.5F};
  std::vector<float> y = {10.0F, 20.0F, 30.0F};
  add(x.data(), 2, y.data());
  CHECK(y == std::vector<float>{11.0F, 18.0F, 30.0F});
}

TEST_CASE("a rope table holds cos and sin of pos * base^(-2i/n) / factor, scaled linearly") {
  RopeParams params;
  params.n_rot = 6;
  params.freq_base = 500000.0F;
  params.freq_scale = 0.25F;
  const std::vector<float> factors = {1.0F, 2.5F, 8.0F};
  params.freq_factors = factors.data();
  std::vector<float> table(4 * 6);
  rope_table(params, 1000, 4, table.data());
  for (size_t t = 0; t < 4; ++t) {
    for (size_t i = 0; i < 3; ++i) {
      const double wavelength = std::exp(std::log(500000.0) * static_cast<double>(i) / 3.0);
      const double angle =
          (1000.0 + static_cast<double>(t)) * 0.25 / wavelength / static_cast<double>(factors[i]);
      CHECK(std::abs(table[t * 6 + i] - std::cos(angle)) < 1e-7);
      CHECK(std::abs(table[t * 6 + 3 + i] - std::sin(angle)) < 1e-7);
    }
  }
}

TEST_CASE("a YaRN table blends interpolated and original angles between the two betas") {
  RopeParams params;
  params.n_rot = 64;
  params.freq_base = 10000.0F;
  params.freq_scale = 1.0F / 16.0F;
  params.yarn_ext_factor = 1.0F;
  params.yarn_attn_factor = 1.1F;
  params.yarn_orig_ctx = 4096;
  std::vector<float> table(64);
  rope_table(params, 4097, 1, table.data());

  // Pairs at which a position's turns over the original context pass 32 and 1, found by search
  // instead of by the closed form: turns(i) = ctx / (2 pi base^(i / 32)).
  const auto turns = [](double i) { return 4096.0 / (2 * kPi * std::pow(10000.0, i / 32.0)); };
  int low = 0;
  while (turns(low + 1) >= 32.0) ++low;
  int high = 0;
  while (turns(high) > 1.0) ++high;
  REQUIRE(low == 10);
  REQUIRE(high == 23);

  const double magnitude = static_cast<double>(1.1F) * (1.0 + 0.1 * std::log(16.0));
  for (int i = 0; i < 32; ++i) {
    const double original = 4097.0 * std::pow(10000.0, -i / 32.0);
    double share = 0.0;  // of interpolation
    if (i >= high) share = 1.0;
    if (i > low && i < high) share = static_cast<double>(i - low) / (high - low);
    const double angle = original * (1.0 - share) + original / 16.0 * share;
    INFO("pair " << i);
    const size_t at = static_cast<size_t>(i);
    CHECK(std::abs(table[at] - magnitude * std::cos(angle)) < 2e-7);
    CHECK(std::abs(table[at + 32] - magnitude * std::sin(angle)) < 2e-7);
  }
}

TEST_CASE("a YaRN table turns as the rope parameters of transformers say") {
  // transformers 4.53.3, ROPE_INIT_FUNCTIONS["yarn"]: head_dim 128, rope_theta 1e6, factor 4,
  // original_max_position_embeddings 32768, beta_fast 32, beta_slow 1: the attention factor, and
  // (pair, inv_freq) on both sides of the ramp and along it.
  const double attention_factor = 1.138629436111989;
  const std::pair<size_t, double> inv_freq[] = {{0, 1.0},
                                                {1, 0.8058422207832336},
                                                {20, 0.01333521492779255},
                                                {22, 0.00865964312106371},
                                                {23, 0.006978305988013744},
                                                {24, 0.005375321488827467},
                                                {25, 0.004131738096475601},
                                                {28, 0.0018482765881344676},
                                                {32, 0.0006029411451891065},
                                                {36, 0.0001798411540221423},
                                                {38, 9.262301318813115e-05},
                                                {39, 6.490394298452884e-05},
                                                {40, 4.4456985051510856e-05},
                                                {41, 3.582531644497067e-05},
                                                {50, 5.133812464919174e-06},
                                                {63, 3.102344408034696e-07}};
  RopeParams params;
  params.n_rot = 128;
  params.freq_base = 1e6F;
  params.freq_scale = 0.25F;
  params.yarn_ext_factor = 1.0F;
  params.yarn_orig_ctx = 32768;
  std::vector<float> table(128);
  rope_table(params, 1, 1, table.data());
  for (const auto& [pair, angle] : inv_freq) {
    INFO("pair " << pair);
    CHECK(std::abs(table[pair] - attention_factor * std::cos(angle)) < 3e-7);
    const double sine = attention_factor * std::sin(angle);
    CHECK(std::abs(table[64 + pair] - sine) < 5e-7 * sine);
  }
}

TEST_CASE("rope turns the pairs of its style and leaves the rest of a head alone") {
  std::mt19937 rng(22);
  const int64_t n_rot = 6;
  const int64_t head_dim = 10;
  const int64_t stride = 2 * head_dim + 1;
  RopeParams params;
  params.n_rot = n_rot;
  std::vector<float> table(3 * 6);
  rope_table(params, 5, 3, table.data());
  for (const RopeStyle style : {RopeStyle::kHalves, RopeStyle::kInterleaved}) {
    const std::vector<float> x = random_floats(rng, 3 * stride);
    std::vector<float> y = x;
    rope_apply(style, table.data(), n_rot, 3, 2, head_dim, y.data(), stride);
    for (size_t t = 0; t < 3; ++t) {
      REQUIRE(y[t * 21 + 20] == x[t * 21 + 20]);
      for (size_t h = 0; h < 2; ++h) {
        const size_t head = t * 21 + h * 10;
        for (size_t i = 0; i < 3; ++i) {
          const size_t a = head + (style == RopeStyle::kHalves ? i : 2 * i);
          const size_t b = head + (style == RopeStyle::kHalves ? i + 3 : 2 * i + 1);
          const double angle = (5.0 + static_cast<double>(t)) *
                               std::pow(10000.0, -2.0 * static_cast<double>(i) / 6.0);
          const std::complex<double> turned =
              std::complex<double>(x[a], x[b]) * std::polar(1.0, angle);
          CHECK(std::abs(y[a] - turned.real()) < 1e-6);
          CHECK(std::abs(y[b] - turned.imag()) < 1e-6);
        }
        for (size_t c = 6; c < 10; ++c) REQUIRE(y[head + c] == x[head + c]);
      }
    }
  }
}

}  // namespace
}  // namespace tandem
