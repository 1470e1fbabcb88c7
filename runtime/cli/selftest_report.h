// What a selftest found, for people and as JSON that can be attached to a bug report: nothing in it
// says whose machine it is.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/selftest/bandwidth_probe.h"
#include "runtime/selftest/check.h"

namespace tandem {

// Of the JSON; grows when a key changes its meaning or goes away.
inline constexpr int kSelftestSchema = 1;

struct SelftestReport {
  struct Gpu {
    std::string device;  // of --device
    std::string name;
    std::string problem;  // why it could not be used; empty: it was
    bool simulated = false;
    // Of a real one.
    int sm = 0;               // 89 is compute capability 8.9
    int driver_version = 0;   // of CUDA that the driver supports, 12040 is 12.4
    int runtime_version = 0;  // of CUDA that the plug-in is built with
    int64_t vram_bytes = 0;
    int64_t vram_free_bytes = 0;  // before the first check
  } gpu;
  std::vector<Check> device_checks;
  std::vector<Check> kernel_checks;
  std::vector<Figure> figures;
  std::string probe_skipped;  // why there are no figures, or no more
  bool probe_failed = false;
  double seconds = 0;

  int64_t n_checks() const;
  int64_t n_failed() const;
  bool ok() const { return n_failed() == 0 && !probe_failed && gpu.problem.empty(); }
};

// Failures first, then what passed, figures and a summary.
std::string selftest_text(const SelftestReport& report);
// With the program's version, this machine's CPU and the time. What is infinite is null.
nlohmann::ordered_json selftest_json(const SelftestReport& report);

}  // namespace tandem
