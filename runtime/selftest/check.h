// What a selftest says of a device: checks, each with the worst of its errors beside what is
// allowed there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace tandem {

struct Check {
  std::string name;   // of the operation, or a sentence
  std::string type;   // of weights or of the KV cache; empty where there is none
  std::string shape;  // for people; empty where there is none
  bool ok = false;
  int64_t values = 0;    // that were compared
  double error = 0;      // of the value that is closest to its tolerance, or furthest beyond it
  double tolerance = 0;  // of that value
  std::string problem;   // where that value is, or what was thrown; empty when ok
};

using OnCheck = std::function<void(const Check&)>;
// Before a check: its name and type. Who watches sees what hangs.
using OnBegin = std::function<void(const std::string&)>;

// Values beside what they should be, each with a tolerance of its own: the worst is kept.
class Comparison {
 public:
  // row, col: where the value is, for the message. NaN is beyond every tolerance.
  void add(int64_t row, int64_t col, double got, double expected, double tolerance);
  // Bit for bit; NaN equals NaN.
  void add_exact(int64_t row, int64_t col, float got, float expected);
  void add_bytes(const void* got, const void* expected, int64_t bytes);
  // What has no error in numbers. The first problem stays.
  void require(bool ok, const std::string& problem);

  Check result() const;

 private:
  void keep(double ratio, double error, double tolerance, const std::string& problem);

  Check worst_;
  double ratio_ = -1;  // of error to tolerance
  std::string problem_;
};

// Runs checks one by one, hands each on, and stops where the device is lost.
class CheckRun {
 public:
  explicit CheckRun(OnCheck on_check, OnBegin on_begin = {})
      : on_check_(std::move(on_check)), on_begin_(std::move(on_begin)) {}

  // The body compares. An Error that it throws is the check's problem; after a DeviceError the
  // checks that follow are reported as not run.
  void check(const std::string& name, const std::string& type, const std::string& shape,
             const std::function<void(Comparison&)>& body);
  bool lost() const { return lost_; }

 private:
  OnCheck on_check_;
  OnBegin on_begin_;
  bool lost_ = false;
};

}  // namespace tandem
