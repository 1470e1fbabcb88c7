#include "runtime/device/cpu_topology.h"

#include <sched.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "runtime/error.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr const char* kTwoSockets =
    "pack:2 [numa(memory=68719476736)] l3:2(size=33554432) l2:4(size=1048576) core:1 pu:2";

std::vector<int> cores_of_nodes(const CpuTopology& cpu) {
  std::vector<int> cores;
  for (const CpuNode& node : cpu.nodes()) cores.push_back(node.cores);
  return cores;
}

std::vector<int> nodes_of_threads(const CpuTopology& cpu, int n_threads) {
  std::vector<int> nodes;
  for (int i = 0; i < n_threads; ++i) nodes.push_back(cpu.node_of_thread(i, n_threads));
  return nodes;
}

TEST_CASE("this machine has a core, and no more of them than hardware threads") {
  const CpuTopology cpu = CpuTopology::of_this_machine();
  cpu_set_t set;
  CPU_ZERO(&set);
  REQUIRE(sched_getaffinity(0, sizeof set, &set) == 0);
  CHECK(cpu.cores() >= 1);
  CHECK(cpu.cores() <= CPU_COUNT(&set));
  CHECK(cpu.n_nodes() >= 1);
}

TEST_CASE("a thread that may use one hardware thread finds one core") {
  std::thread([] {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    int first = 0;
    while (!CPU_ISSET(first, &set)) ++first;
    CPU_ZERO(&set);
    CPU_SET(first, &set);
    sched_setaffinity(0, sizeof set, &set);
    CHECK(CpuTopology::of_this_machine().cores() == 1);
  }).join();
}

TEST_CASE("cores are counted, not their hardware threads") {
  const CpuTopology cpu = CpuTopology::made_up("pack:1 l2:8(size=2097152) core:1 pu:2");
  CHECK(cpu.cores() == 8);
  CHECK(cpu.sockets() == 1);
  CHECK(cpu.l2().bytes == 2 << 20);
  CHECK(cpu.l2().cores == 1);
  CHECK(cpu.l3().bytes == 0);
  CHECK(cpu.text() == "8 physical cores, L2 2.00 MiB each, 1 NUMA node");
}

TEST_CASE("two sockets are two nodes with cores and memory of their own") {
  const CpuTopology cpu = CpuTopology::made_up(kTwoSockets);
  CHECK(cpu.cores() == 16);
  CHECK(cpu.sockets() == 2);
  CHECK(cores_of_nodes(cpu) == std::vector<int>{8, 8});
  CHECK(cpu.nodes()[1].memory_bytes == int64_t{64} << 30);
  CHECK(cpu.l3().bytes == 32 << 20);
  CHECK(cpu.l3().cores == 4);
  CHECK(cpu.text() ==
        "16 physical cores in 2 sockets, L2 1.00 MiB each, L3 32.00 MiB for each 4, 2 NUMA nodes");
}

TEST_CASE("an affinity mask leaves the cores that it touches, and their nodes") {
  // Both hardware threads of core 0, one of core 1.
  CHECK(CpuTopology::made_up(kTwoSockets, "0-2").cores() == 2);
  const CpuTopology one_node = CpuTopology::made_up(kTwoSockets, "0-15");
  CHECK(one_node.cores() == 8);
  CHECK(one_node.n_nodes() == 1);
  CHECK(cores_of_nodes(CpuTopology::made_up(kTwoSockets, "0-15,16-23")) == std::vector<int>{8, 4});
}

TEST_CASE("the second memory beside the same cores is no node") {
  const CpuTopology cpu = CpuTopology::made_up(
      "pack:2 [numa(memory=68719476736)] [numa(memory=17179869184)] core:4 pu:1");
  CHECK(cores_of_nodes(cpu) == std::vector<int>{4, 4});
  CHECK(cpu.nodes()[1].memory_bytes == int64_t{64} << 30);
}

// An object of hwloc's XML; pus: a bit for each.
std::string object(const std::string& type, int os_index, unsigned pus, const std::string& more,
                   const std::string& inside) {
  char text[256];
  std::snprintf(text, sizeof text,
                "<object type=\"%s\" os_index=\"%d\" cpuset=\"0x%x\" complete_cpuset=\"0x%x\" "
                "nodeset=\"0x1\" complete_nodeset=\"0x1\" gp_index=\"%d\" %s>",
                type.c_str(), os_index, pus, pus, static_cast<int>(pus * 128) + type[0],
                more.c_str());
  return text + inside + "</object>";
}

std::string core(int os_index, std::vector<int> pus) {
  std::string inside;
  unsigned all = 0;
  for (const int pu : pus) {
    inside += object("PU", pu, 1U << pu, "", "");
    all |= 1U << pu;
  }
  return object("Core", os_index, all, "", inside);
}

// hwloc's short form has no cores of two kinds.
TEST_CASE("of fast cores with two hardware threads and slow ones with one, all count") {
  const std::string l2 =
      R"(depth="2" cache_linesize="64" cache_associativity="8" cache_type="0" cache_size=)";
  const std::string cores = object("L2Cache", 0, 0x03, l2 + "\"2097152\"", core(0, {0, 1})) +
                            object("L2Cache", 1, 0x0c, l2 + "\"2097152\"", core(1, {2, 3})) +
                            object("L2Cache", 2, 0xf0, l2 + "\"4194304\"",
                                   core(2, {4}) + core(3, {5}) + core(4, {6}) + core(5, {7}));
  const std::string node = object("NUMANode", 0, 0xff, R"(local_memory="1073741824")", "");
  const std::string sets = R"(allowed_cpuset="0xff" allowed_nodeset="0x1")";
  const CpuTopology cpu = CpuTopology::made_up(
      "<?xml version=\"1.0\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
      "<topology version=\"2.0\">" +
      object("Machine", 0, 0xff, sets, object("Package", 0, 0xff, "", node + cores)) +
      "</topology>");
  CHECK(cpu.cores() == 6);
  CHECK(cpu.l2().bytes == 2 << 20);
  CHECK(cpu.l2().cores == 1);
  CHECK(cpu.n_nodes() == 1);
}

TEST_CASE("what hwloc cannot read is an error that shows it") {
  CHECK_THROWS_AS(CpuTopology::made_up("cores: many"), ConfigError);
  CHECK_THROWS_AS(CpuTopology::made_up("core:2 pu:1", "64"), ConfigError);
}

TEST_CASE("threads are spread over nodes as their cores are") {
  const CpuTopology even = CpuTopology::made_up("numa:2 core:4 pu:2");
  CHECK(nodes_of_threads(even, 1) == std::vector<int>{0});
  CHECK(nodes_of_threads(even, 2) == std::vector<int>{0, 1});
  CHECK(nodes_of_threads(even, 5) == std::vector<int>{0, 0, 0, 1, 1});
  CHECK(nodes_of_threads(even, 8) == std::vector<int>{0, 0, 0, 0, 1, 1, 1, 1});
  CHECK(nodes_of_threads(even, 10) == std::vector<int>{0, 0, 0, 0, 0, 1, 1, 1, 1, 1});
  const CpuTopology uneven = CpuTopology::made_up("numa:2 core:4 pu:1", "0-5");
  CHECK(nodes_of_threads(uneven, 6) == std::vector<int>{0, 0, 0, 0, 1, 1});
  CHECK(nodes_of_threads(uneven, 3) == std::vector<int>{0, 0, 1});
}

TEST_CASE("binding to this machine's only node leaves the thread its cores") {
  const CpuTopology cpu = CpuTopology::of_this_machine();
  std::thread([&] {
    cpu.bind_thread(pthread_self(), 0);
    cpu.take_pages_from(0);
    const std::vector<char> page(1 << 16, 1);
    cpu.take_pages_from(-1);
    CHECK(page.back() == 1);
    if (cpu.n_nodes() == 1) CHECK(CpuTopology::of_this_machine().cores() == cpu.cores());
  }).join();
}

}  // namespace
}  // namespace tandem::test
