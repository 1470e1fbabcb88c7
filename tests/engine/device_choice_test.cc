// What a run says of the machine profile that it plans with.
#include "runtime/engine/device_choice.h"

#include "tests/engine/engine_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

MachineProfile profile_of(const std::string& gpu) {
  MachineProfile machine = test_machine();
  machine.name = "here";
  machine.description = "a machine";
  machine.gpu.measured_on = gpu;
  return machine;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const DeviceInfo kReal{"cuda", "NVIDIA One", int64_t{1} << 30, false, false};

}  // namespace

TEST_CASE("a device's name leads back to it") {
  for (const DeviceKind kind : {DeviceKind::kAuto, DeviceKind::kCpu, DeviceKind::kCuda,
                                DeviceKind::kSim, DeviceKind::kSimCuda}) {
    CHECK(device_kind(device_name(kind)) == kind);
  }
}

TEST_CASE("a profile that nobody asked for is the default, and says what it is") {
  const EffectiveSetting line = machine_setting("", profile_of(""), {"cpu", "", 0, true, false});
  CHECK(line.name == "machine");
  CHECK(line.requested == "default");
  CHECK(line.effective == "here");
  CHECK(line.reason == "a machine");
}

TEST_CASE("a profile of a simulated GPU needs no calibration") {
  const DeviceInfo sim{"sim", "simulated GPU", int64_t{1} << 30, false, true};
  CHECK(machine_setting("here.toml", profile_of(""), sim).reason == "a machine");
}

TEST_CASE("a real GPU on a profile that was not measured on it is told how to calibrate") {
  for (const char* other : {"", "NVIDIA Two"}) {
    const EffectiveSetting line = machine_setting("here.toml", profile_of(other), kReal);
    INFO(line.reason);
    CHECK(line.requested == "here.toml");
    CHECK(line.effective == "here");
    CHECK(has(line.reason, "tandem calibrate --device cuda -o FILE"));
    CHECK(has(line.reason,
              *other == '\0' ? "not measured on this GPU" : "measured on another GPU, NVIDIA Two"));
  }
}

TEST_CASE("a profile that was measured on the GPU that runs says so") {
  const EffectiveSetting line = machine_setting("here.toml", profile_of("NVIDIA One"), kReal);
  CHECK(has(line.reason, "; measured on this GPU"));
  CHECK_FALSE(has(line.reason, "calibrate"));
}

}  // namespace tandem::test
