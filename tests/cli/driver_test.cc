// Drivers that no GPU can be used with, as CUDA's own runtime in the plug-in sees them: the
// toolkit's stub, and a libcuda.so.1 of the tests' own (fake_driver.cc).
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// While it lives, programs start with it.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

// A run that wants a GPU ends with one line that gives the reason, and one that leaves the choice
// to the program goes on without.
void check_without_gpu(const std::string& reason) {
  const Outcome wanted = tandem({"run", "-p", "x", "-n", "1", "--device", "cuda"});
  CHECK(wanted.exit_code == 2);
  CHECK(wanted.out.empty());
  CHECK(wanted.err ==
        "tandem: --device cuda: " + reason + "; expected an NVIDIA GPU, or --device cpu\n");
  const Outcome any = tandem({"run", "-p", "x", "-n", "1"});
  INFO(any.err);
  CHECK(any.exit_code == 0);
  CHECK_FALSE(any.out.empty());
  CHECK(contains(any.err, reason));
}

std::string fake_driver_folder() {
  return std::filesystem::path(TANDEM_FAKE_DRIVER).parent_path().string();
}

}  // namespace

TEST_CASE(
    "the toolkit's stub in the place of the driver is named, and a run goes on without a GPU") {
  const std::filesystem::path stub = TANDEM_CUDA_STUB;
  if (!std::filesystem::exists(stub)) {
    WARN("skipped: the toolkit has no stub of the driver");
    return;
  }
  const TempDir dir;
  std::filesystem::create_symlink(stub, dir / "libcuda.so.1");
  const Variable path("LD_LIBRARY_PATH", dir.path().string());
  check_without_gpu(
      "the CUDA toolkit's stub stands in the place of the NVIDIA driver's libcuda.so.1");
}

TEST_CASE("a driver that is too old says which CUDA it supports and which is needed") {
  const Variable path("LD_LIBRARY_PATH", fake_driver_folder());
  const Variable version("FAKE_DRIVER_CUDA", "11040");
  const Outcome run = tandem({"run", "-p", "x", "-n", "1", "--device", "cuda"});
  const std::string needed = "the NVIDIA driver supports CUDA 11.4, and ";
  REQUIRE(contains(run.err, needed));
  const size_t at = run.err.find(needed) + needed.size();
  const std::string built_with = run.err.substr(at, run.err.find(' ', at) - at);
  check_without_gpu(needed + built_with + " is needed");
}

TEST_CASE("a driver that finds no GPU, or fails in a way of its own, says so") {
  const Variable path("LD_LIBRARY_PATH", fake_driver_folder());
  const Variable version("FAKE_DRIVER_CUDA", "99000");
  {
    const Variable error("FAKE_DRIVER_ERROR", "100");  // CUDA_ERROR_NO_DEVICE
    check_without_gpu("the NVIDIA driver finds no GPU");
  }
  const Variable error("FAKE_DRIVER_ERROR", "803");  // CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
  check_without_gpu(
      "CUDA error 803: system has unsupported display driver / cuda driver combination");
}

}  // namespace tandem::test
