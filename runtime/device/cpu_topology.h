// The processor as this process may use it: cores, caches and NUMA nodes, as hwloc finds them.
// Immutable; any thread may read and bind.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct hwloc_topology;

namespace tandem {

struct CpuCache {
  int64_t bytes = 0;  // of one; 0: not known
  int cores = 0;      // that share one
};

// Cores and the memory next to them.
struct CpuNode {
  int cores = 0;
  int64_t memory_bytes = 0;
  int os_index = 0;
};

class CpuTopology {
 public:
  // Of this machine what the calling thread's affinity and its control group leave. Takes about a
  // millisecond. Error when the system does not let itself be read.
  static CpuTopology of_this_machine();
  // Of a made-up machine, in hwloc's words ("pack:2 [numa] core:4 pu:2") or as its XML. Binding to
  // it succeeds and does nothing. allowed_pus: hardware threads of an affinity mask ("0-3,8"); all
  // where empty. ConfigError for what hwloc cannot read.
  static CpuTopology made_up(const std::string& description, const std::string& allowed_pus = "");

  // Physical ones, whatever their kind; at least 1.
  int cores() const { return cores_; }
  int sockets() const { return sockets_; }
  // Of the first core.
  const CpuCache& l2() const { return l2_; }
  const CpuCache& l3() const { return l3_; }
  // Those that have cores of their own, at least one: memory without (HBM, a GPU's, CXL) is none.
  const std::vector<CpuNode>& nodes() const { return nodes_; }
  int n_nodes() const { return static_cast<int>(nodes_.size()); }

  // Where a thread of a pool of n_threads belongs: threads are spread over the cores in order.
  int node_of_thread(int thread, int n_threads) const;

  // To all cores of a node, not to one: a thread whose core is taken can go on at the next one.
  // May fail silently: it changes speed, not results.
  void bind_thread(pthread_t thread, int node) const;
  // New pages of the calling thread come from this node where it has some, from others where not;
  // node < 0: as the system likes. May fail silently.
  void take_pages_from(int node) const;

  // "2 physical cores, L2 1.00 MiB each, L3 32.00 MiB, 1 NUMA node"
  std::string text() const;

 private:
  struct Deleter {
    void operator()(hwloc_topology* topology) const;
  };
  using Handle = std::unique_ptr<hwloc_topology, Deleter>;

  explicit CpuTopology(Handle topology);

  Handle topology_;
  int cores_ = 1;
  int sockets_ = 1;
  CpuCache l2_;
  CpuCache l3_;
  std::vector<CpuNode> nodes_;
};

}  // namespace tandem
