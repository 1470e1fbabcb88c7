#include "runtime/device/cpu_quota.h"

#include <fstream>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

void write(const TempDir& root, const std::string& path, const std::string& text) {
  const std::filesystem::path file = root.path() / path;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST_CASE("a control group without a limit sets no quota") {
  const TempDir root;
  CHECK_FALSE(cpu_quota(root.path()));
  write(root, "proc/self/cgroup", "0::/user.slice\n");
  CHECK_FALSE(cpu_quota(root.path()));
  write(root, "sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
  CHECK_FALSE(cpu_quota(root.path()));
}

TEST_CASE("a container sees its quota at the top") {
  const TempDir root;
  write(root, "sys/fs/cgroup/cpu.max", "150000 100000\n");
  CHECK(cpu_quota(root.path()) == 1.5);
  write(root, "proc/self/cgroup", "0::/\n");
  CHECK(cpu_quota(root.path()) == 1.5);
}

TEST_CASE("of the quotas above a process the smallest counts") {
  const TempDir root;
  write(root, "proc/self/cgroup", "1:name=systemd:/elsewhere\n0::/a.slice/b/c\n");
  write(root, "sys/fs/cgroup/a.slice/cpu.max", "400000 100000\n");
  write(root, "sys/fs/cgroup/a.slice/b/cpu.max", "50000 20000\n");
  write(root, "sys/fs/cgroup/a.slice/b/c/cpu.max", "max 100000\n");
  write(root, "sys/fs/cgroup/elsewhere/cpu.max", "1000 100000\n");
  CHECK(cpu_quota(root.path()) == 2.5);
}

TEST_CASE("control groups of version 1 set quotas, too") {
  const TempDir root;
  write(root, "proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/docker/x\n0::/\n");
  write(root, "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  write(root, "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "-1\n");
  CHECK_FALSE(cpu_quota(root.path()));
  write(root, "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "250000\n");
  CHECK(cpu_quota(root.path()) == 2.5);
}

TEST_CASE("a quota that makes no sense is none") {
  const TempDir root;
  for (const char* text : {"", "many", "100000", "0 100000", "100000 0", "-1 100000"}) {
    CAPTURE(text);
    write(root, "sys/fs/cgroup/cpu.max", text);
    CHECK_FALSE(cpu_quota(root.path()));
  }
}

}  // namespace
}  // namespace tandem::test
