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

TEST_CASE("a stream that does not wait for the host is found") {
  gpu::GpuOps ops = right();
  ops.wait_flag = [](void*, const uint32_t*, uint32_t) {};
  CHECK(wrong_with(ops) == Strings{"wait_flag"});
}

TEST_CASE("a stream that compares the host's numbers without going round is found") {
  gpu::GpuOps ops = right();
  ops.wait_flag = [](void*, const uint32_t* flag, uint32_t value) {
    while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) < value) {
    }
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"wait_flag"});
  CHECK(results.failed().size() == 1);
}

TEST_CASE("a selection that leaves out a good expert, or names one twice, is found") {
  gpu::GpuOps ops = right();
  ops.top_experts = [](void* stream, const gpu::TopExperts& call, int n) {
    right().top_experts(stream, call, n);
    call.ids[1] = call.ids[0];
  };
  CHECK(wrong_with(ops) == Strings{"top_experts"});
  ops.top_experts = [](void* stream, const gpu::TopExperts& call, int n) {
    right().top_experts(stream, call, n);
    std::swap(call.ids[0], call.ids[call.count - 1]);
  };
  CHECK(wrong_with(ops) == Strings{"top_experts"});
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
  ops.product = [](void* stream, DType type, const gpu::ProductParts& parts, const gpu::PackedX& x,
                   int n) {
    right().product(stream, type, parts, x, n);
    float* y = parts.first.y;
    if (parts.first.w.rows > 1) std::swap(y[0], y[1]);
  };
  CHECK(wrong_with(ops) == Strings{"product"});
}

TEST_CASE("a product that forgets its bias is found, where there is one") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::ProductParts& parts, const gpu::PackedX& x,
                   int n) {
    gpu::ProductParts without = parts;
    without.third.bias = nullptr;
    right().product(stream, type, without, x, n);
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"product"});
  CHECK(results.failed().size() == 9);
}

TEST_CASE("a product that packs its tokens a token too few is found") {
  gpu::GpuOps ops = right();
  ops.product_few = [](void* stream, DType type, const gpu::ProductParts& parts, const float* x,
                       int n, int cols, int stride) {
    if (n > 1) right().product_few(stream, type, parts, x, n - 1, cols, stride);
  };
  CHECK(wrong_with(ops) == Strings{"product_few"});
}

TEST_CASE("a product whose values are a thousandth too large is found in every shape") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::ProductParts& parts, const gpu::PackedX& x,
                   int n) {
    right().product(stream, type, parts, x, n);
    float* y = parts.first.y;
    for (int i = 0; i < parts.first.w.rows * n; ++i) y[i] *= 1.001F;
  };
  const Results results = results_with(ops);
  CHECK(results.failed_names() == Strings{"product"});
  const auto products = std::count_if(results.checks.begin(), results.checks.end(),
                                      [](const Check& c) { return c.name == "product"; });
  CHECK(results.failed().size() == static_cast<size_t>(products));
}

TEST_CASE("a product of one type only that is wrong is found in that type only") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::ProductParts& parts, const gpu::PackedX& x,
                   int n) {
    right().product(stream, type, parts, x, n);
    float* y = parts.first.y;
    if (type == DType::kQ5_K) y[0] *= 1.05F;
  };
  for (const Check& check : results_with(ops).checks) {
    INFO(check.name << " " << check.type << " " << check.shape);
    CHECK(check.ok == !(check.name == "product" && check.type == "q5_K"));
  }
}

TEST_CASE("a product that writes one value too many is found") {
  gpu::GpuOps ops = right();
  ops.product = [](void* stream, DType type, const gpu::ProductParts& parts, const gpu::PackedX& x,
                   int n) {
    right().product(stream, type, parts, x, n);
    float* y = parts.first.y;
    y[parts.first.w.rows * n] = 0;
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
    // Of different types they would be read as what they are not.
    for (gpu::ExpertUses& expert : experts) {
      if (part == gpu::HiddenPart::kBoth) std::swap(expert.gate, expert.up);
    }
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

TEST_CASE("an output that lands in another use's row is found") {
  gpu::GpuOps ops = right();
  ops.expert_output_few = [](void* stream, DType type, const gpu::ExpertCalls& calls,
                             const float* hidden, int ff, int stride, int d, float* out) {
    right().expert_output_few(stream, type, calls, hidden, ff, stride, d, out);
    std::swap(out[0], out[d]);
  };
  CHECK(wrong_with(ops) == Strings{"expert_output_few"});
}

namespace {

// Checks with a residual_norm whose call was changed.
template <typename F>
Strings wrong_residual(const F& /*change*/) {
  gpu::GpuOps ops = right();
  ops.residual_norm = [](void* stream, const gpu::ResidualNorm& call, int n, int d) {
    gpu::ResidualNorm other = call;
    F{}(&other);
    right().residual_norm(stream, other, n, d);
  };
  return wrong_with(ops);
}

template <typename F>
Strings wrong_heads(const F& /*change*/) {
  gpu::GpuOps ops = right();
  ops.prepare_heads = [](void* stream, const gpu::PreparedHeads& call, const gpu::KvCache& cache,
                         int n) {
    gpu::PreparedHeads other = call;
    F{}(&other);
    right().prepare_heads(stream, other, cache, n);
  };
  return wrong_with(ops);
}

}  // namespace

TEST_CASE(
    "a norm's product that writes the residual, or multiplies what is not normalised, is found") {
  gpu::GpuOps ops = right();
  ops.norm_product = [](void* stream, DType type, const gpu::ResidualNorm& call,
                        const gpu::ProductParts& parts, int n, int d, int stride) {
    right().norm_product(stream, type, call, parts, n, d, stride);
    right().residual_norm(stream, call, n, d);
  };
  CHECK(wrong_with(ops) == Strings{"norm_product"});
  ops.norm_product = [](void* stream, DType type, const gpu::ResidualNorm& call,
                        const gpu::ProductParts& parts, int n, int d, int stride) {
    gpu::ResidualNorm without = call;
    without.addends[0] = {};
    right().norm_product(stream, type, without, parts, n, d, stride);
  };
  CHECK(wrong_with(ops) == Strings{"norm_product"});
}

TEST_CASE("a residual without its gate, an addend, its uses or epsilon is found") {
  using Call = gpu::ResidualNorm*;
  const Strings found{"residual_norm"};
  CHECK(wrong_residual([](Call call) { call->addends[1].gate = nullptr; }) == found);
  CHECK(wrong_residual([](Call call) { call->addends[0] = {}; }) == found);
  CHECK(wrong_residual([](Call call) { call->addends[2] = {}; }) == found);
  CHECK(wrong_residual([](Call call) { call->out = nullptr; }) == found);
  CHECK(wrong_residual([](Call call) { call->eps = 0; }) == found);
  CHECK(wrong_residual([](Call call) { call->copies.q8 = nullptr; }) == found);
}

TEST_CASE("heads without a norm or a limit, turned as other pairs or late by one are found") {
  using Call = gpu::PreparedHeads*;
  const Strings found{"prepare_heads"};
  CHECK(wrong_heads([](Call call) { call->q_gain = nullptr; }) == found);
  CHECK(wrong_heads([](Call call) { call->limit = 0; }) == found);
  CHECK(wrong_heads([](Call call) { call->halves = !call->halves; }) == found);
  CHECK(wrong_heads([](Call call) { call->k_norm_width = call->q_norm_width; }) == found);
  CHECK(wrong_heads([](Call call) {
          if (call->first_pos > 0) --call->first_pos;
        }) == Strings{"prepare_heads", "attention"});
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
