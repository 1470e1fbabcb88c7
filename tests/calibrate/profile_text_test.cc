// Profiles as they are written are read back, by the reader of machine profiles.
#include "runtime/calibrate/profile_text.h"

#include "runtime/config/machine_profile.h"
#include "tests/calibrate/calibrate_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

Spread some(double median) { return {median, median / 2, median * 2, 5}; }

Calibration cpu_alone() {
  Calibration c;
  c.cpu_name = "A \"fast\" CPU";
  c.n_threads = 3;
  c.cpu = {some(44), some(41), some(123), some(6), 64, "oneDNN 1.2"};
  return c;
}

GpuRates gpu_rates(bool modelled) {
  GpuRates g;
  g.gpu = modelled ? "simulated GPU, times modelled for round" : "Fake \\ 4090";
  g.modelled = modelled;
  g.h2d_gbps = some(21);
  g.d2h_gbps = some(11);
  g.latency_us = some(5.5);
  g.launch_us = some(2.25);
  g.read_gbps = some(390);
  g.gflops = some(9000);
  g.product_gbps = some(401);
  g.hand_over_us = some(33);
  if (!modelled) {
    g.link_warm_up = {0.4, int64_t{8} << 30};
    g.kernels_warm_up_seconds = 0.4;
  }
  return g;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

MachineProfile read_back(const std::string& text) {
  INFO(text);
  return parse_machine_profile(text, "here", "here.toml");
}

}  // namespace

TEST_CASE("a profile of the CPU alone has the other's GPU and link, and says so") {
  const std::string text = profile_text(cpu_alone(), round_machine());
  const MachineProfile m = read_back(text);
  CHECK(has(text, "GPU and link were not"));
  CHECK(m.description == "A 'fast' CPU, 3 threads; GPU and link of round");
  CHECK(m.dram_gbps == 44);
  CHECK(m.layer_overhead_us == 70);
  CHECK(m.cpu.read_gbps == 41);
  CHECK(m.cpu.gflops == 123);
  CHECK(m.cpu.first_expert_us == 6);
  CHECK(m.cpu.onednn_bf16_tokens == 64);
  CHECK(m.gpu.vram_bytes == int64_t{1} << 30);
  CHECK(m.gpu.read_gbps == 400);
  CHECK(m.gpu.gflops == 10000);
  CHECK(m.gpu.launch_us == 4);
  CHECK(m.gpu.measured_on.empty());
  CHECK(m.link.h2d_gbps == 20);
  CHECK(m.link.d2h_gbps == 10);
  CHECK(m.link.latency_us == 5);
}

TEST_CASE("a profile of a simulated GPU has what it gave, called modelled and never measured") {
  Calibration c = cpu_alone();
  c.gpu = gpu_rates(true);
  c.vram_bytes = int64_t{3} << 30;
  const std::string text = profile_text(c, round_machine());
  const MachineProfile m = read_back(text);
  CHECK(m.gpu.measured_on.empty());
  CHECK(m.gpu.vram_bytes == int64_t{3} << 30);
  CHECK(m.gpu.read_gbps == 390);
  CHECK(m.link.latency_us == 5.5);
  CHECK(m.layer_overhead_us == 70);
  CHECK(m.dram_gbps == 44);
  CHECK(has(m.description, "GPU and link modelled, round's"));
  CHECK(has(text, "modelled, not measured"));
  CHECK(has(text, "Nothing was warmed up"));
  const std::string gpu_and_link = text.substr(text.find("[gpu]"));
  CHECK_FALSE(has(gpu_and_link, "measured"));
  for (const char* key :
       {"read_gbps", "gflops", "launch_us", "h2d_gbps", "d2h_gbps", "latency_us"}) {
    const size_t at = gpu_and_link.find(std::string(key) + " = ");
    REQUIRE(at != std::string::npos);
    CHECK(has(gpu_and_link.substr(at, gpu_and_link.find('\n', at) - at), "# modelled: "));
  }
}

TEST_CASE("a profile of a real GPU names it, what was warmed up, and that nobody had tried this") {
  Calibration c = cpu_alone();
  c.gpu = gpu_rates(false);
  c.vram_bytes = int64_t{24} << 30;
  c.shared = SharedRates{some(60), some(38), some(22)};
  const std::string text = profile_text(c, round_machine());
  const MachineProfile m = read_back(text);
  CHECK(m.gpu.measured_on == "Fake ' 4090");
  CHECK(m.gpu.vram_bytes == int64_t{24} << 30);
  CHECK(m.gpu.read_gbps == 390);
  CHECK(m.gpu.gflops == 9000);
  CHECK(m.gpu.launch_us == 2.25);
  CHECK(m.link.h2d_gbps == 21);
  CHECK(m.link.d2h_gbps == 11);
  CHECK(m.link.latency_us == 5.5);
  CHECK(m.dram_gbps == 60);
  CHECK(m.layer_overhead_us == 33);
  CHECK(has(text, "on no real GPU"));
  CHECK(has(text, "copies to the GPU for 0.40 s (8.00 GiB)"));
  CHECK(has(text, "experts on the CPU at 38.00 beside copies to the GPU at 22.00"));
  CHECK(has(text, "h2d_gbps = 21.00  # measured: "));
  CHECK(has(text, "; 5 repeats, quartiles 10.50 and 42.00\n"));
  CHECK_FALSE(has(text, "modelled"));
  CHECK_FALSE(has(text, "round"));
}

TEST_CASE("rates that are nothing are written as the least that the reader takes") {
  Calibration c = cpu_alone();
  c.gpu = gpu_rates(false);
  c.gpu->h2d_gbps = Spread{};
  c.gpu->latency_us = Spread{};
  const MachineProfile m = read_back(profile_text(c, round_machine()));
  CHECK(m.link.h2d_gbps == 0.01);
  CHECK(m.link.latency_us == 0);
}

}  // namespace tandem::test
