#include "runtime/selftest/check.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/error.h"

namespace tandem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

void Comparison::keep(double ratio, double error, double tolerance, const std::string& problem) {
  ratio_ = ratio;
  worst_.error = error;
  worst_.tolerance = tolerance;
  worst_.problem = problem;
}

void Comparison::add(int64_t row, int64_t col, double got, double expected, double tolerance) {
  ++worst_.values;
  const double difference = std::abs(got - expected);
  const double error = std::isnan(difference) ? kInfinity : difference;
  double ratio = error == 0 ? 0 : error / tolerance;
  if (std::isnan(ratio)) ratio = kInfinity;
  if (ratio <= ratio_) return;
  const bool ok = ratio <= 1;
  keep(ratio, error, tolerance,
       ok ? ""
          : fmt::format("row {} column {}: expected {:.9g}, got {:.9g}", row, col, expected, got));
}

void Comparison::add_exact(int64_t row, int64_t col, float got, float expected) {
  uint32_t got_bits = 0;
  uint32_t expected_bits = 0;
  std::memcpy(&got_bits, &got, sizeof got);
  std::memcpy(&expected_bits, &expected, sizeof expected);
  if (got_bits == expected_bits || (std::isnan(got) && std::isnan(expected))) {
    add(row, col, 0, 0, 0);  // infinities, too
    return;
  }
  ++worst_.values;
  if (ratio_ == kInfinity) return;
  keep(kInfinity, std::abs(static_cast<double>(got) - static_cast<double>(expected)), 0,
       fmt::format("row {} column {}: expected {:.9g}, got {:.9g}", row, col, expected, got));
}

void Comparison::add_bytes(const void* got, const void* expected, int64_t bytes) {
  worst_.values += bytes;
  if (bytes == 0 || std::memcmp(got, expected, static_cast<size_t>(bytes)) == 0) return;
  const auto* a = static_cast<const uint8_t*>(got);
  const auto* b = static_cast<const uint8_t*>(expected);
  int64_t first = 0;
  while (a[first] == b[first]) ++first;
  int64_t differ = 0;
  for (int64_t i = first; i < bytes; ++i) differ += a[i] != b[i] ? 1 : 0;
  require(false, fmt::format("{} of {} bytes differ; byte {}: expected {}, got {}", differ, bytes,
                             first, b[first], a[first]));
}

void Comparison::require(bool ok, const std::string& problem) {
  if (!ok && problem_.empty()) problem_ = problem;
}

Check Comparison::result() const {
  Check check = worst_;
  check.ok = ratio_ <= 1 && problem_.empty();
  if (!problem_.empty()) check.problem = problem_;
  return check;
}

void CheckRun::check(const std::string& name, const std::string& type, const std::string& shape,
                     const std::function<void(Comparison&)>& body) {
  if (on_begin_) on_begin_(type.empty() ? name : name + " " + type);
  Comparison comparison;
  if (lost_) {
    comparison.require(false, "not run: the device is lost");
  } else {
    try {
      body(comparison);
    } catch (const DeviceError& error) {
      lost_ = true;
      comparison.require(false, error.what());
    } catch (const Error& error) {
      comparison.require(false, error.what());
    }
  }
  Check check = comparison.result();
  check.name = name;
  check.type = type;
  check.shape = shape;
  on_check_(check);
}

}  // namespace tandem
