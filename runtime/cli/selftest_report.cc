#include "runtime/cli/selftest_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/cli/host_facts.h"
#include "runtime/cli/text_io.h"
#include "runtime/cli/version.h"
#include "runtime/device/cuda_probe.h"
#include "runtime/words.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

int64_t count_failed(const std::vector<Check>& checks) {
  return std::count_if(checks.begin(), checks.end(), [](const Check& c) { return !c.ok; });
}

std::string line_of(const Check& check) {
  std::string line = fmt::format("{:<7}{:<14} {:<10} {:<56}", check.ok ? "ok" : "FAILED",
                                 check.name, check.type, check.shape);
  if (check.tolerance > 0) {
    line += fmt::format(" error {:8.2e}, allowed {:8.2e}", check.error, check.tolerance);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n" + (check.ok ? "" : "       " + printable(check.problem) + "\n");
}

std::string lines_of(const SelftestReport& report, bool ok) {
  std::string text;
  for (const auto* checks : {&report.device_checks, &report.kernel_checks}) {
    for (const Check& check : *checks) text += check.ok == ok ? line_of(check) : "";
  }
  return text;
}

std::string line_of(const Figure& figure) {
  if (figure.us.empty()) return fmt::format("{:<72} {}\n", figure.name, printable(figure.problem));
  return fmt::format("{:<72} {:10.1f} us ({:.1f} to {:.1f}){}\n", figure.name, figure.median_us(),
                     figure.least_us(), figure.most_us(),
                     figure.bytes > 0 ? fmt::format(", {:.2f} GB/s", figure.gbps()) : "");
}

std::string gpu_text(const SelftestReport::Gpu& gpu) {
  std::string text = printable(gpu.name);
  if (!gpu.simulated) {
    text += fmt::format(", compute capability {}.{}, CUDA {} (driver) and {} (Tandem)", gpu.sm / 10,
                        gpu.sm % 10, cuda_version_text(gpu.driver_version),
                        cuda_version_text(gpu.runtime_version));
  }
  return text + fmt::format(", {} of {} free", bytes_text(gpu.vram_free_bytes),
                            bytes_text(gpu.vram_bytes));
}

Json json_of(const std::vector<Check>& checks) {
  Json list = Json::array();
  for (const Check& check : checks) {
    Json json{{"name", check.name}};
    if (!check.type.empty()) json["type"] = check.type;
    if (!check.shape.empty()) json["shape"] = check.shape;
    json["ok"] = check.ok;
    json["values"] = check.values;
    json["error"] = check.error;
    json["tolerance"] = check.tolerance;
    if (!check.ok) json["problem"] = check.problem;
    list.push_back(std::move(json));
  }
  return list;
}

Json json_of(const SelftestReport::Gpu& gpu) {
  Json json{{"device", gpu.device}, {"name", gpu.name}, {"simulated", gpu.simulated}};
  if (!gpu.simulated) {
    json["compute_capability"] = fmt::format("{}.{}", gpu.sm / 10, gpu.sm % 10);
    json["cuda_driver"] = cuda_version_text(gpu.driver_version);
    json["cuda_runtime"] = cuda_version_text(gpu.runtime_version);
  }
  if (!gpu.problem.empty()) json["problem"] = gpu.problem;
  json["vram_bytes"] = gpu.vram_bytes;
  json["vram_free_bytes"] = gpu.vram_free_bytes;
  return json;
}

Json json_of(const Figure& figure) {
  Json json{{"name", figure.name}};
  if (figure.bytes > 0) json["bytes"] = figure.bytes;
  if (figure.us.empty()) {
    json["problem"] = figure.problem;
    return json;
  }
  json["median_us"] = figure.median_us();
  json["least_us"] = figure.least_us();
  json["most_us"] = figure.most_us();
  if (figure.bytes > 0) json["gbps"] = figure.gbps();
  json["us"] = figure.us;
  return json;
}

}  // namespace

int64_t SelftestReport::n_checks() const {
  return static_cast<int64_t>(device_checks.size() + kernel_checks.size());
}

int64_t SelftestReport::n_failed() const {
  return count_failed(device_checks) + count_failed(kernel_checks);
}

std::string selftest_text(const SelftestReport& report) {
  std::string text = lines_of(report, false) + lines_of(report, true);
  for (const Figure& figure : report.figures) text += line_of(figure);
  if (!report.probe_skipped.empty()) text += "probe: " + printable(report.probe_skipped) + "\n";
  return text + fmt::format("{}\n{} checks, {} failed, {:.1f} s\n", gpu_text(report.gpu),
                            report.n_checks(), report.n_failed(), report.seconds);
}

Json selftest_json(const SelftestReport& report) {
  Json probe{{"figures", Json::array()}};
  for (const Figure& figure : report.figures) probe["figures"].push_back(json_of(figure));
  if (!report.probe_skipped.empty()) {
    probe[report.probe_failed ? "problem" : "skipped"] = report.probe_skipped;
  }
  return {{"schema", kSelftestSchema},
          {"version", version_text()},
          {"time", timestamp()},
          {"summary",
           {{"ok", report.ok()},
            {"checks", report.n_checks()},
            {"failed", report.n_failed()},
            {"seconds", report.seconds}}},
          {"gpu", json_of(report.gpu)},
          {"cpu", cpu_name()},
          {"device_checks", json_of(report.device_checks)},
          {"kernel_checks", json_of(report.kernel_checks)},
          {"probe", std::move(probe)}};
}

}  // namespace tandem
