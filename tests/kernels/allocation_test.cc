// No kernel may allocate: a decode step runs thousands of them.
#include <vector>

#include "kernels/attention.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"
#include "kernels/expert_ffn.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem {
namespace {

using testing::random_floats;
using testing::RandomWeights;

TEST_CASE("no kernel allocates memory") {
  std::mt19937 rng(41);
  const int64_t d = 256;
  const RandomWeights w(rng, DType::kQ4_K, d, d);
  const std::vector<float> x = random_floats(rng, 5 * d);
  std::vector<float> y(x.size());
  std::vector<float> hidden(x.size());
  std::vector<float> table(static_cast<size_t>(5 * 64));
  const KvShape kv{KvType::kF16, KvType::kF16, 4, 64, 64};
  const KvShape kv_q8{KvType::kQ8_0, KvType::kQ8_0, 4, 64, 64};
  std::vector<std::byte> k(static_cast<size_t>(kv.k_bytes(8)));
  std::vector<std::byte> v(static_cast<size_t>(kv.v_bytes(8)));
  RopeParams rope;
  rope.n_rot = 64;
  const ExpertRow rows[] = {{0, 1.0F}, {4, 1.0F}};
  const ExpertCall calls[] = {{{w.view(), w.view(), w.view()}, rows}};

  Workspace scratch;
  scratch.at_least(64 * 1024);
  const int64_t before = test::allocation_count.load();
  for (const int64_t n : {1, 5}) {
    rms_norm(x.data(), d, x.data(), 1e-6F, n, d, y.data(), d);
    const MatmulPart parts[] = {{w.view(), nullptr, y.data()}};
    matmul(parts, x.data(), n, scratch, serial_for);
    rope_table(rope, 0, n, table.data());
    rope_apply(RopeStyle::kHalves, table.data(), 64, n, 4, 64, y.data(), d);
    for (const KvShape& shape : {kv, kv_q8}) {
      attention({shape, k.data(), v.data()}, {x.data(), x.data(), x.data(), 0, n}, 4, 0.125F,
                y.data(), scratch, serial_for);
    }
  }
  expert_ffn(calls, x.data(), 5, d, y.data(), hidden.data(), scratch, serial_for);
  const int64_t after = test::allocation_count.load();
  CHECK(after == before);
  CHECK((before > 0) == test::kCountsAllocations);
}

}  // namespace
}  // namespace tandem
