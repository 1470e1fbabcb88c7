// Which NUMA node gets which page of the packed weights. No machine with several nodes is needed:
// what is asked for is checked, not where pages are.
#include <map>
#include <set>
#include <vector>

#include "runtime/model/host_memory.h"
#include "runtime/model/model.h"
#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// Of each page that begins in [begin, end).
std::vector<int> nodes_of_pages(int64_t begin, int64_t end, int n_nodes) {
  std::vector<int> nodes;
  const int64_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  for (int64_t at = first; at < end; at += kHugePage) {
    nodes.push_back(node_of_byte(at, begin, end, n_nodes));
  }
  return nodes;
}

TEST_CASE("a large matrix has its first rows on the first node, and so on, in equal parts") {
  CHECK(nodes_of_pages(0, 16 * kMiB, 2) == std::vector<int>{0, 0, 0, 0, 1, 1, 1, 1});
  CHECK(nodes_of_pages(0, 16 * kMiB, 4) == std::vector<int>{0, 0, 1, 1, 2, 2, 3, 3});
  CHECK(nodes_of_pages(100 * kMiB, 108 * kMiB, 2) == std::vector<int>{0, 0, 1, 1});
}

TEST_CASE("a page on a cut goes to the part that has more of it") {
  // The middle is at 5 MiB, half-way in the third page; then at 4.75 and 5.25.
  CHECK(node_of_byte(4 * kMiB, 0, 10 * kMiB, 2) == 1);
  CHECK(node_of_byte(4 * kMiB, 0, 10 * kMiB - kMiB / 2, 2) == 1);
  CHECK(node_of_byte(4 * kMiB, 0, 10 * kMiB + kMiB / 2, 2) == 0);
}

TEST_CASE("the pages that a matrix shares with its neighbours are its first and its last node's") {
  const int64_t begin = 3 * kMiB;
  const int64_t end = 19 * kMiB;
  CHECK(node_of_byte(begin, begin, end, 2) == 0);
  CHECK(node_of_byte(end - 1, begin, end, 2) == 1);
}

TEST_CASE("all bytes of a page have one node, and a byte's node does not fall along a matrix") {
  const int64_t begin = 5 * kMiB + 4096;
  const int64_t end = 47 * kMiB + 64;
  for (const int n_nodes : {2, 3, 4}) {
    int before = 0;
    std::map<int64_t, std::set<int>> of_page;
    for (int64_t at = begin; at < end; at += kMiB / 8) {
      const int node = node_of_byte(at, begin, end, n_nodes);
      CHECK(node >= before);
      CHECK(node < n_nodes);
      before = node;
      of_page[at / kHugePage].insert(node);
    }
    CHECK(before == n_nodes - 1);
    for (const auto& [page, nodes] : of_page) CHECK(nodes.size() == 1);
  }
}

TEST_CASE("pages of matrices of less than a page a node go round the nodes") {
  CHECK(nodes_of_pages(0, 4 * kMiB - 1, 2) == std::vector<int>{0, 1});
  CHECK(nodes_of_pages(4 * kMiB, 8 * kMiB - 1, 3) == std::vector<int>{2, 0});
  CHECK(nodes_of_pages(kMiB, 13 * kMiB - 1, 6) == std::vector<int>{1, 2, 3, 4, 5, 0});
}

std::vector<std::byte> first_expert(const Model& model) {
  const WeightView& w = model.weights().layers.front().experts.front().down;
  return {w.data, w.data + w.bytes()};
}

TEST_CASE("packing asks for pages of every node, lets go of them, and packs the same bytes") {
  Model plain = Model::load(GgufFile::open(kDemoModel));
  plain.pack(PackScope::kAll, serial_for, [](int64_t) {});
  Model placed = Model::load(GgufFile::open(kDemoModel));
  std::vector<int> asked;
  placed.pack(PackScope::kAll, serial_for, [](int64_t) {},
              {3, [&](int node) { asked.push_back(node); }});
  CHECK(first_expert(placed) == first_expert(plain));
  CHECK(std::set<int>(asked.begin(), asked.end()) == std::set<int>{-1, 0, 1, 2});
  CHECK(asked.back() == -1);
}

TEST_CASE("with one node nothing is asked for") {
  Model model = Model::load(GgufFile::open(kDemoModel));
  model.pack(PackScope::kAll, serial_for, [](int64_t) {}, {1, [](int) { FAIL("asked"); }});
  CHECK(model.packed());
}

}  // namespace
}  // namespace tandem::test
