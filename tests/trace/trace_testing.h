// What the tests of traces share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/synthetic_trace.h"
#include "scheduler/trace.h"

namespace tandem::test {

std::string fixture(const std::string& name);  // path in tests/fixtures/trace

// What `act` throws, or "no error".
template <typename Act>
std::string error_of(const Act& act) {
  try {
    act();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

// Our own format, in memory; and any format, read from memory.
std::string encode(const Trace& trace);
Trace parse(std::string_view image, const std::string& where = "memory");

// The image with its last four bytes made to agree with the others.
std::string with_checksum(std::string image);

// The numbers as they stand in memory, one after the other.
template <typename Number>
std::string raw(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// "" when the traces are the same, else what differs first. Weights may differ by a relative
// `tolerance`, or absolutely by half of the smallest step of half precision.
std::string difference(const Trace& a, const Trace& b, double tolerance);

// Two sequences, three layers, five experts, top 2, three ranks, one layer ahead. One cell has no
// expert, one only one.
Trace small_trace();

SyntheticTraceSettings small_settings();

// A folder of its own that goes away with the object.
class TempFolder {
 public:
  TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder();
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::vector<std::string> names() const;

 private:
  std::filesystem::path folder_;
};

}  // namespace tandem::test
