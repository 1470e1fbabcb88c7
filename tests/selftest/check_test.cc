#include "runtime/selftest/check.h"

#include <cmath>
#include <limits>

#include "runtime/error.h"
#include "tests/selftest/selftest_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("the value that is closest to its tolerance is the one that is reported") {
  Comparison c;
  c.add(0, 0, 1.5, 1, 10);
  c.add(0, 1, 1.25, 1, 0.5);
  c.add(0, 2, 1, 1, 0);
  CHECK(c.result().ok);
  CHECK(c.result().values == 3);
  CHECK(c.result().error == 0.25);
  CHECK(c.result().tolerance == 0.5);
  CHECK(c.result().problem.empty());
  c.add(3, 4, 2, 1, 0.5);
  CHECK_FALSE(c.result().ok);
  CHECK(c.result().error == 1);
  CHECK(c.result().problem == "row 3 column 4: expected 1, got 2");
}

TEST_CASE("what is no number is beyond every tolerance, and good values behind it don't help") {
  for (const double got : {kNan, kInf, -kInf}) {
    for (const double tolerance : {0.0, 1e30, kInf, kNan}) {
      Comparison c;
      c.add(0, 0, got, 1, tolerance);
      c.add(0, 1, 1, 1, 1);
      INFO(got << " within " << tolerance);
      CHECK_FALSE(c.result().ok);
    }
  }
}

TEST_CASE("exact values are compared bit for bit, NaN being NaN") {
  const float nan = std::nanf("1");
  const float inf = std::numeric_limits<float>::infinity();
  Comparison same;
  same.add_exact(0, 0, nan, -nan);
  same.add_exact(0, 1, inf, inf);
  same.add_exact(0, 2, -1, -1);
  CHECK(same.result().ok);
  for (const auto& [got, expected] : {std::pair{nan, 1.0F},
                                      {1.0F, nan},
                                      {inf, -inf},
                                      {-0.0F, 0.0F},
                                      {1.0F, std::nextafter(1.0F, 2.0F)}}) {
    Comparison c;
    c.add_exact(0, 0, got, expected);
    c.add_exact(0, 1, 1, 1);
    INFO(got << " and " << expected);
    CHECK_FALSE(c.result().ok);
  }
}

TEST_CASE("bytes that differ are counted, and the first one is named") {
  const unsigned char a[]{1, 2, 3, 4};
  const unsigned char b[]{1, 9, 3, 8};
  Comparison c;
  c.add_bytes(a, b, 1);
  CHECK(c.result().ok);
  c.add_bytes(a, b, 4);
  CHECK(c.result().problem == "2 of 4 bytes differ; byte 1: expected 9, got 2");
}

TEST_CASE("an error is a check's problem, and only a device's ends the run") {
  Results results;
  CheckRun run = results.run();
  run.check("memory", "", "", [](Comparison&) { throw MemoryError("too little"); });
  run.check("fine", "", "", [](Comparison& c) { c.require(true, "no"); });
  run.check("device", "", "", [](Comparison&) { throw DeviceError("gone"); });
  run.check("next", "", "", [](Comparison&) { FAIL("a lost device is not used"); });
  CHECK(results.failed() == std::vector<std::string>{"memory  : too little", "device  : gone",
                                                     "next  : not run: the device is lost"});
}

}  // namespace tandem::test
