// Large blocks of host memory for weights, and how much there is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace tandem {

// Anonymous pages, in huge pages where the system grants them; they cost memory once written.
// Owns them; addresses are valid while it lives and move with it.
class HostRegion {
 public:
  HostRegion() = default;
  // MemoryError when the address space or the system's limits do not allow it.
  explicit HostRegion(int64_t bytes);
  HostRegion(HostRegion&& other) noexcept;
  HostRegion& operator=(HostRegion&& other) noexcept;
  HostRegion(const HostRegion&) = delete;
  HostRegion& operator=(const HostRegion&) = delete;
  ~HostRegion();

  std::byte* data() const { return bytes_.data(); }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }

 private:
  std::span<std::byte> mapping_;
  std::span<std::byte> bytes_;  // starts on a huge page
};

// The size of the pages that a HostRegion has at best, and what it begins on.
inline constexpr int64_t kHugePage = int64_t{2} << 20;

// The memory of a machine's NUMA nodes.
struct MemoryNodes {
  int n = 1;
  // New pages of the calling thread come from this node; -1: from where the system likes. Several
  // threads may call it at once. Not called where n is 1.
  std::function<void(int node)> take_pages_from{};
};

// The node for the page that holds this byte of a region, if that is one of the bytes
// [begin, end) of a matrix. A matrix of at least a huge page a node is cut into equal parts, one
// a node: the node's threads take these rows first (ThreadPool). Pages of smaller ones go round.
int node_of_byte(int64_t byte, int64_t begin, int64_t end, int n_nodes);

// What became of a wish to keep memory from being swapped out.
struct MemoryLock {
  int64_t wanted_bytes = 0;
  int64_t locked_bytes = 0;
  std::string error;  // why not all of it, with the limit; empty: all
};

// Locks ranges until their memory is unmapped, as many as the system allows. Reads what is not in
// memory yet.
MemoryLock lock_memory(const std::vector<std::span<const std::byte>>& ranges);

}  // namespace tandem
