// The checks of GPU kernels pass on kernels that are right, and each fails on one that is wrong.
#include "runtime/selftest/kernel_checks.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/device/cuda_device.h"
#include "tests/engine/fake_cuda.h"
#include "tests/selftest/selftest_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

Results results_with(const gpu::GpuOps& ops) {
  SimDevice device(some_machine(), kSomeVram, emulated());
  Results results;
  CheckRun run = results.run();
  run_kernel_checks(device, ops, {}, &run);
  CHECK(device.used_bytes() == 0);
  return results;
}

const gpu::GpuOps& right() { return gpu::kEmulatedOps; }

// Operations of which any check failed.
Strings wrong_with(const gpu::GpuOps& ops) { return results_with(ops).failed_names(); }

}  // namespace

TEST_CASE("all checks of GPU kernels pass on the emulated kernels, every type in its turn") {
  const Results results = results_with(right());
  CHECK(results.failed() == Strings{});
  std::set<std::string> types;
  for (const Check& check : results.checks) {
    INFO(check.name << " " << check.type << " " << check.shape);
    CHECK(check.values > 0);
    CHECK(check.error <= check.tolerance);
    if (check.name == "product") types.insert(check.type);
  }
  CHECK(types.size() == 9);
}

TEST_CASE("all checks of GPU kernels pass on a CUDA device whose runtime is the tests'") {
  FakeCuda fake;
  Results results;
  {
    CudaDevice device(some_machine(), FakeCuda::table(), right(), FakeCuda::facts(), 0,
                      int64_t{1} << 28);
    CheckRun run = results.run();
    run_kernel_checks(device, right(), {}, &run);
    CHECK(device.used_bytes() == 0);
  }
  CHECK(results.failed() == Strings{});
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("activations with one byte wrong are found") {
  gpu::GpuOps ops = right();
  ops.pack_x = [](void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to,
                  int stride) {
    right().pack_x(stream, kind, x, n, cols, to, stride);
    to[stride + 5] ^= 1;
  };
  CHECK(wrong_with(ops) == Strings{"pack_x"});
}

TEST_CASE("a product that swaps two rows is found") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::PackedWeights& w, const gpu::PackedX& x,
                   const gpu::TokenList& tokens, const float* bias, float* y) {
    right().product(stream, type, w, x, tokens, bias, y);
    if (w.rows > 1) std::swap(y[0], y[1]);
  };
  CHECK(wrong_with(ops) == Strings{"product"});
}

TEST_CASE("a product that forgets its bias is found, where there is one") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::PackedWeights& w, const gpu::PackedX& x,
                   const gpu::TokenList& tokens, const float* /*bias*/,
                   float* y) { right().product(stream, type, w, x, tokens, nullptr, y); };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"product"});
  CHECK(results.failed().size() == 9);
}

TEST_CASE("a product whose values are a thousandth too large is found in every shape") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::PackedWeights& w, const gpu::PackedX& x,
                   const gpu::TokenList& tokens, const float* bias, float* y) {
    right().product(stream, type, w, x, tokens, bias, y);
    for (int i = 0; i < w.rows * tokens.n; ++i) y[i] *= 1.001F;
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"product"});
  const auto products = std::count_if(results.checks.begin(), results.checks.end(),
                                      [](const Check& c) { return c.name == "product"; });
  CHECK(results.failed().size() == static_cast<size_t>(products));
}

TEST_CASE("a product of one type only that is wrong is found in that type only") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::PackedWeights& w, const gpu::PackedX& x,
                   const gpu::TokenList& tokens, const float* bias, float* y) {
    right().product(stream, type, w, x, tokens, bias, y);
    if (type == DType::kQ5_K) y[0] *= 1.05F;
  };
  for (const Check& check : results_with(ops).checks) {
    INFO(check.name << " " << check.type << " " << check.shape);
    CHECK(check.ok == !(check.name == "product" && check.type == "q5_K"));
  }
}

TEST_CASE("a product that writes one value too many is found") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::PackedWeights& w, const gpu::PackedX& x,
                   const gpu::TokenList& tokens, const float* bias, float* y) {
    right().product(stream, type, w, x, tokens, bias, y);
    y[w.rows * tokens.n] = 0;
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"product"});
  CHECK(results.failed().front().find("behind an array") != std::string::npos);
}

TEST_CASE("an expert that takes gate for up is found") {
  gpu::GpuOps ops = right();
  ops.expert_hidden = [](void* stream, DType type, gpu::HiddenPart part,
                         const gpu::ExpertCalls& calls, const gpu::PackedX& x, const int* tokens,
                         int ff, float* hidden) {
    std::vector<gpu::ExpertUses> experts{calls.single};
    if (calls.experts != nullptr) experts.assign(calls.experts, calls.experts + calls.n_experts);
    for (gpu::ExpertUses& expert : experts) std::swap(expert.gate, expert.up);
    right().expert_hidden(stream, type, part,
                          {experts.data(), {}, calls.n_experts, calls.most_uses}, x, tokens, ff,
                          hidden);
  };
  CHECK(wrong_with(ops) == Strings{"expert_hidden"});
}

TEST_CASE("an expert's leading part that is computed as a whole is found") {
  gpu::GpuOps ops = right();
  ops.expert_output = [](void* stream, DType type, const gpu::ExpertCalls& calls,
                         const gpu::PackedX& hidden, int d, float* out) {
    std::vector<gpu::ExpertUses> experts(calls.experts, calls.experts + calls.n_experts);
    for (gpu::ExpertUses& expert : experts) expert.down.cols = hidden.cols;
    right().expert_output(stream, type, {experts.data(), {}, calls.n_experts, calls.most_uses},
                          hidden, d, out);
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"expert_output"});
  CHECK(results.failed().size() == 9);
}

TEST_CASE("uses that are added with another's weight are found") {
  gpu::GpuOps ops = right();
  ops.combine = [](void* stream, const float* out, const gpu::TokenUses& uses, int n, int d,
                   float* y) {
    std::vector<float> weights(uses.weights, uses.weights + uses.begin[n]);
    std::swap(weights[0], weights[1]);
    right().combine(stream, out, {uses.begin, uses.uses, weights.data()}, n, d, y);
  };
  CHECK(wrong_with(ops) == Strings{"combine"});
}

TEST_CASE("a norm without its epsilon is found") {
  gpu::GpuOps ops = right();
  ops.rms_norm = [](void* stream, const float* x, const float* gain, float /*eps*/, int n, int d,
                    float* y) { right().rms_norm(stream, x, gain, 0, n, d, y); };
  CHECK(wrong_with(ops) == Strings{"rms_norm"});
}

TEST_CASE("an addition that forgets its gate is found") {
  gpu::GpuOps ops = right();
  ops.add = [](void* stream, const float* x, const float* /*gate*/, int n, int d, float* y) {
    right().add(stream, x, nullptr, n, d, y);
  };
  CHECK(wrong_with(ops) == Strings{"add"});
}

TEST_CASE("a limit that makes numbers of NaN is found") {
  gpu::GpuOps ops = right();
  ops.clamp = [](void* /*stream*/, float limit, int64_t n, float* x) {
    for (int64_t i = 0; i < n; ++i) x[i] = std::fmin(std::fmax(x[i], -limit), limit);
  };
  CHECK(wrong_with(ops) == Strings{"clamp"});
}

TEST_CASE("RoPE that pairs other elements is found") {
  gpu::GpuOps ops = right();
  ops.rope = [](void* stream, const float* table, bool halves, int n_rot, int n, int n_heads,
                int head_dim,
                float* x) { right().rope(stream, table, !halves, n_rot, n, n_heads, head_dim, x); };
  CHECK(wrong_with(ops) == Strings{"rope"});
}

TEST_CASE("keys that are stored one position late are found, there and in attention") {
  gpu::GpuOps ops = right();
  ops.kv_append = [](void* stream, const gpu::KvCache& cache, const float* k, const float* v,
                     int first_pos, int n) {
    right().kv_append(stream, cache, k, v, first_pos == 0 ? 0 : first_pos - 1, n);
  };
  CHECK(wrong_with(ops) == Strings{"kv_append", "attention"});
}

TEST_CASE("attention that leaves out one key of many is found") {
  gpu::GpuOps ops = right();
  ops.attention = [](void* stream, const gpu::KvCache& cache, const float* q, int first_pos, int n,
                     int n_heads, float scale, float* scratch, float* out) {
    // The last token does not see itself.
    if (first_pos > 0) --first_pos;
    right().attention(stream, cache, q, first_pos, n, n_heads, scale, scratch, out);
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"attention"});
  for (const Check& check : results.checks) {
    if (check.name != "attention") continue;
    INFO(check.shape << " " << check.error << " of " << check.tolerance);
    CHECK(check.ok == (check.shape.find("behind 0,") != std::string::npos));
  }
}

TEST_CASE("a kernel that breaks the device fails its check, and what follows is not run") {
  SimSettings settings = emulated();
  settings.fault = SimFault::kLater;
  settings.fault_call = 500;
  SimDevice device(some_machine(), kSomeVram, settings);
  Results results;
  CheckRun run = results.run();
  run_kernel_checks(device, right(), {}, &run);
  CHECK(run.lost());
  const Strings failed = results.failed();
  REQUIRE(failed.size() > 2);
  CHECK(failed.front().find("failed after it was enqueued") != std::string::npos);
  for (size_t i = 1; i < failed.size(); ++i) {
    CHECK(failed[i].find("not run: the device is lost") != std::string::npos);
  }
}

TEST_CASE("a CUDA device that fails in the middle is a failed check, and nothing is thrown") {
  FakeCuda fake;
  fake.fail_call = 700;
  Results results;
  {
    CudaDevice device(some_machine(), FakeCuda::table(), right(), FakeCuda::facts(), 0,
                      int64_t{1} << 28);
    CheckRun run = results.run();
    run_kernel_checks(device, right(), {}, &run);
    CHECK(run.lost());
  }
  REQUIRE_FALSE(results.failed().empty());
  CHECK(results.failed().front().find("CUDA error 700") != std::string::npos);
}

TEST_CASE("a device with too little memory fails the checks that need more, and goes on") {
  SimDevice device(some_machine(), 1 << 16, emulated());
  Results results;
  CheckRun run = results.run();
  run_kernel_checks(device, right(), {}, &run);
  CHECK_FALSE(run.lost());
  CHECK(results.failed().size() < results.checks.size());
  REQUIRE_FALSE(results.failed().empty());
  CHECK(results.failed().front().find("do not fit into") != std::string::npos);
}

}  // namespace tandem::test
