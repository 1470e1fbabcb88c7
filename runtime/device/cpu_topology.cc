#include "runtime/device/cpu_topology.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

class Bitmap {
 public:
  Bitmap() : bits_(hwloc_bitmap_alloc()) {}
  ~Bitmap() { hwloc_bitmap_free(bits_); }
  Bitmap(const Bitmap&) = delete;
  Bitmap& operator=(const Bitmap&) = delete;

  hwloc_bitmap_t get() const { return bits_; }

 private:
  hwloc_bitmap_t bits_;
};

// Virtual machines may not say what a core is: hardware threads are taken for cores then.
hwloc_obj_type_t core_type(hwloc_topology_t topology) {
  return hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

int cores_inside(hwloc_topology_t topology, hwloc_const_cpuset_t set) {
  return hwloc_get_nbobjs_inside_cpuset_by_type(topology, set, core_type(topology));
}

CpuCache cache_above_first_core(hwloc_topology_t topology, hwloc_obj_type_t type) {
  hwloc_obj_t core = hwloc_get_obj_by_type(topology, core_type(topology), 0);
  hwloc_obj_t cache =
      core == nullptr ? nullptr : hwloc_get_ancestor_obj_by_type(topology, type, core);
  if (cache == nullptr) return {};
  return {static_cast<int64_t>(cache->attr->cache.size), cores_inside(topology, cache->cpuset)};
}

// In hwloc's order, in which a package's DRAM comes before other memory beside the same cores.
std::vector<CpuNode> nodes_with_cores(hwloc_topology_t topology) {
  std::vector<CpuNode> nodes;
  const Bitmap taken;
  const Bitmap own;
  const int n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
  for (int i = 0; i < n; ++i) {
    hwloc_obj_t node =
        hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, static_cast<unsigned>(i));
    hwloc_bitmap_andnot(own.get(), node->cpuset, taken.get());
    const int cores = cores_inside(topology, own.get());
    if (cores == 0) continue;
    hwloc_bitmap_or(taken.get(), taken.get(), node->cpuset);
    nodes.push_back({cores, static_cast<int64_t>(node->attr->numanode.local_memory),
                     static_cast<int>(node->os_index)});
  }
  return nodes;
}

hwloc_obj_t node_object(hwloc_topology_t topology, const CpuNode& node) {
  return hwloc_get_numanode_obj_by_os_index(topology, static_cast<unsigned>(node.os_index));
}

}  // namespace

void CpuTopology::Deleter::operator()(hwloc_topology* topology) const {
  hwloc_topology_destroy(topology);
}

CpuTopology CpuTopology::of_this_machine() {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) throw MemoryError("cannot allocate a processor topology");
  Handle topology(made);
  // Discovery may not move this thread around, other threads being at work.
  hwloc_topology_set_flags(made, HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING);
  if (hwloc_topology_load(made) != 0) {
    throw Error(fmt::format("cannot read this machine's processor topology: {}", strerror(errno)));
  }
  const Bitmap allowed;
  if (hwloc_get_cpubind(made, allowed.get(), HWLOC_CPUBIND_THREAD) == 0) {
    hwloc_topology_restrict(made, allowed.get(), 0);  // fails only where it would leave nothing
  }
  return CpuTopology(std::move(topology));
}

CpuTopology CpuTopology::made_up(const std::string& description, const std::string& allowed_pus) {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) throw MemoryError("cannot allocate a processor topology");
  Handle topology(made);
  const bool xml = description.rfind("<?xml", 0) == 0;
  const int set = xml ? hwloc_topology_set_xmlbuffer(made, description.c_str(),
                                                     static_cast<int>(description.size()) + 1)
                      : hwloc_topology_set_synthetic(made, description.c_str());
  if (set != 0 || hwloc_topology_load(made) != 0) {
    throw ConfigError("hwloc cannot read the topology \"" + description + "\"");
  }
  if (!allowed_pus.empty()) {
    const Bitmap allowed;
    hwloc_bitmap_list_sscanf(allowed.get(), allowed_pus.c_str());
    if (hwloc_topology_restrict(made, allowed.get(), 0) != 0) {
      throw ConfigError("no hardware thread of \"" + allowed_pus + "\" is there");
    }
  }
  return CpuTopology(std::move(topology));
}

CpuTopology::CpuTopology(Handle topology) : topology_(std::move(topology)) {
  hwloc_topology_t t = topology_.get();
  cores_ = std::max(hwloc_get_nbobjs_by_type(t, core_type(t)), 1);
  sockets_ = std::max(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PACKAGE), 1);
  l2_ = cache_above_first_core(t, HWLOC_OBJ_L2CACHE);
  l3_ = cache_above_first_core(t, HWLOC_OBJ_L3CACHE);
  nodes_ = nodes_with_cores(t);
  if (nodes_.empty()) nodes_.push_back({cores_, 0, 0});
}

int CpuTopology::node_of_thread(int thread, int n_threads) const {
  TANDEM_CHECK(thread >= 0 && thread < n_threads, "thread %d of %d", thread, n_threads);
  int core = static_cast<int>(int64_t{thread} * cores_ / n_threads);
  for (int node = 0; node + 1 < n_nodes(); ++node) {
    core -= nodes_[static_cast<size_t>(node)].cores;
    if (core < 0) return node;
  }
  return n_nodes() - 1;
}

void CpuTopology::bind_thread(pthread_t thread, int node) const {
  hwloc_obj_t at = node_object(topology_.get(), nodes_[static_cast<size_t>(node)]);
  if (at != nullptr) hwloc_set_thread_cpubind(topology_.get(), thread, at->cpuset, 0);
}

void CpuTopology::take_pages_from(int node) const {
  const int flags = HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET;
  hwloc_topology_t t = topology_.get();
  if (node < 0) {
    hwloc_set_membind(t, hwloc_topology_get_topology_nodeset(t), HWLOC_MEMBIND_DEFAULT, flags);
    return;
  }
  hwloc_obj_t at = node_object(t, nodes_[static_cast<size_t>(node)]);
  // Not strict: a node that is full sends the thread to the others.
  if (at != nullptr) hwloc_set_membind(t, at->nodeset, HWLOC_MEMBIND_BIND, flags);
}

std::string CpuTopology::text() const {
  const auto plural = [](int n, const char* what) {
    return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
  };
  const auto cache = [&](const char* name, const CpuCache& c) {
    if (c.bytes == 0) return std::string();
    const std::string shared = c.cores <= 1        ? " each"
                               : c.cores == cores_ ? ""
                                                   : fmt::format(" for each {}", c.cores);
    return fmt::format(", {} {}{}", name, bytes_text(c.bytes), shared);
  };
  std::string text = plural(cores_, "physical core");
  if (sockets_ > 1) text += fmt::format(" in {} sockets", sockets_);
  return text + cache("L2", l2_) + cache("L3", l3_) + ", " + plural(n_nodes(), "NUMA node");
}

}  // namespace tandem
