#include "runtime/model/available_memory.h"

#include <fstream>
#include <limits>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// A machine with 32 GiB left.
struct Machine {
  TempDir root;

  Machine() { write("proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n"); }
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root.path() / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void write(const std::string& path, int64_t number) const {
    write(path, std::to_string(number) + "\n");
  }
  int64_t available() const { return available_host_bytes(root.path()); }
};

}  // namespace

TEST_CASE("what is left is what the system says, where no control group limits it") {
  const Machine machine;
  CHECK(machine.available() == 32 * kGiB);
  machine.write("proc/self/cgroup", "0::/user.slice/a\n");
  machine.write("sys/fs/cgroup/user.slice/a/memory.max", "max\n");
  machine.write("sys/fs/cgroup/user.slice/a/memory.current", kGiB);
  CHECK(machine.available() == 32 * kGiB);
  const TempDir nothing;
  CHECK(available_host_bytes(nothing.path()) == std::numeric_limits<int64_t>::max());
}

TEST_CASE("the limit of the process's own control group counts, and of those above") {
  const Machine machine;
  machine.write("proc/self/cgroup", "0::/user.slice/run.scope\n");
  machine.write("sys/fs/cgroup/user.slice/run.scope/memory.max", 4 * kGiB);
  machine.write("sys/fs/cgroup/user.slice/run.scope/memory.current", kGiB);
  CHECK(machine.available() == 3 * kGiB);
  machine.write("sys/fs/cgroup/user.slice/memory.max", 10 * kGiB);
  machine.write("sys/fs/cgroup/user.slice/memory.current", 9 * kGiB);
  CHECK(machine.available() == kGiB);
}

TEST_CASE("files that the system can drop are left, shared memory is not") {
  const Machine machine;
  machine.write("sys/fs/cgroup/memory.max", 10 * kGiB);
  machine.write("sys/fs/cgroup/memory.current", 8 * kGiB);
  machine.write("sys/fs/cgroup/memory.stat",
                "anon 0\nfile " + std::to_string(7 * kGiB) + "\nshmem " + std::to_string(6 * kGiB) +
                    "\ninactive_file " + std::to_string(kGiB / 2) + "\nactive_file " +
                    std::to_string(kGiB / 2) + "\n");
  CHECK(machine.available() == 3 * kGiB);
}

TEST_CASE("control groups of version 1 limit memory, too") {
  const Machine machine;
  machine.write("proc/self/cgroup", "12:cpu,cpuacct:/other\n7:memory:/docker/x\n0::/\n");
  const std::string group = "sys/fs/cgroup/memory/docker/x/";
  machine.write(group + "memory.limit_in_bytes", 6 * kGiB);
  machine.write(group + "memory.usage_in_bytes", 2 * kGiB);
  machine.write(group + "memory.stat", "total_active_file " + std::to_string(kGiB) + "\n");
  CHECK(machine.available() == 5 * kGiB);
  // None: as large as pages allow.
  machine.write(group + "memory.limit_in_bytes", int64_t{9223372036854771712});
  CHECK(machine.available() == 32 * kGiB);
}

TEST_CASE("a group that uses more than its limit leaves nothing") {
  const Machine machine;
  machine.write("sys/fs/cgroup/memory.max", kGiB);
  machine.write("sys/fs/cgroup/memory.current", 2 * kGiB);
  CHECK(machine.available() == 0);
}

TEST_CASE("what a process has is what the system says of it") {
  const Machine machine;
  CHECK(process_memory(machine.root.path()).peak_bytes == 0);
  machine.write("proc/self/status", "Name:\ttandem\nVmHWM:\t 4096 kB\nVmRSS:\t 2048 kB\n");
  machine.write("proc/self/smaps_rollup",
                "0-1 ---p [rollup]\nRss: 2048 kB\nAnonHugePages: 512 kB\n");
  const ProcessMemory memory = process_memory(machine.root.path());
  CHECK(memory.peak_bytes == 4096 * 1024);
  CHECK(memory.resident_bytes == 2048 * 1024);
  CHECK(memory.huge_bytes == 512 * 1024);
  CHECK(process_memory().peak_bytes > 0);
}

}  // namespace tandem::test
