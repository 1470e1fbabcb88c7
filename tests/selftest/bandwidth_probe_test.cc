// The probe's own arithmetic and what it does with memory. Its times are a real GPU's to give.
#include "runtime/selftest/bandwidth_probe.h"

#include "runtime/device/cuda_device.h"
#include "tests/engine/fake_cuda.h"
#include "tests/selftest/selftest_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

std::vector<Figure> probe(Device& device, const ProbeSettings& settings) {
  std::vector<Figure> figures;
  probe_bandwidth(device, settings, [&](const Figure& f) { figures.push_back(f); });
  return figures;
}

}  // namespace

TEST_CASE("a figure's rate is that of its median, beside the least and the most") {
  const Figure figure{"x", 4000, {2, 8, 4, 1, 100}, ""};
  CHECK(figure.median_us() == 4);
  CHECK(figure.least_us() == 1);
  CHECK(figure.most_us() == 100);
  CHECK(figure.gbps() == Approx(1));  // 4000 bytes in 4 us
  CHECK(Figure{}.gbps() == 0);
}

TEST_CASE("the probe measures every figure as often as it is told, and gives memory back") {
  SimDevice device(some_machine(), kSomeVram, emulated());
  const std::vector<Figure> figures = probe(device, {3, {4096, 1 << 16}, 1 << 16, 1 << 15});
  CHECK(figures.size() == 3 * 2 + 1 + 2 + 4);
  for (const Figure& figure : figures) {
    INFO(figure.name);
    CHECK(figure.problem.empty());
    CHECK(figure.us.size() == 3);
    CHECK(figure.least_us() >= 0);
  }
  CHECK(device.used_bytes() == 0);
}

TEST_CASE("on a device that is not simulated the link is warmed up before the first figure") {
  FakeCuda fake;
  CudaDevice device(some_machine(), FakeCuda::table(), gpu::kEmulatedOps, FakeCuda::facts(), 0,
                    kSomeVram);
  ProbeSettings settings{1, {4096}, 1 << 10, 1 << 15};
  settings.warm_up_seconds = 0.001;
  const std::vector<Figure> figures = probe(device, settings);
  CHECK(figures.front().name == "copies to device to warm the link up");
  CHECK(figures.front().bytes >= 1 << 20);
  CHECK(figures.front().median_us() >= 1000);
  CHECK(fake.misuse == std::vector<std::string>{});
}

TEST_CASE("what there is no memory for has a problem instead of times") {
  SimDevice device(some_machine(), 1 << 20, emulated());
  bool missing = false;
  for (const Figure& figure : probe(device, {1, {4096, 1 << 21}, 1 << 10, 1 << 15})) {
    INFO(figure.name);
    const bool large = figure.bytes == 1 << 21;
    missing = missing || large;
    CHECK(figure.us.empty() == large);
    CHECK(figure.problem.empty() == !large);
  }
  CHECK(missing);
}

}  // namespace tandem::test
