#include "runtime/model/host_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

std::string lock_limit_text() {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return "the limit on locked memory (ulimit -l) is none";
  return fmt::format("the limit on locked memory (ulimit -l) is {}",
                     bytes_text(static_cast<int64_t>(limit.rlim_cur)));
}

}  // namespace

HostRegion::HostRegion(int64_t bytes) {
  const int64_t size = std::max<int64_t>(bytes, 1) + kHugePage;
  void* at = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    throw MemoryError(
        fmt::format("cannot allocate {} of host memory for weights", bytes_text(bytes)));
  }
  mapping_ = {static_cast<std::byte*>(at), static_cast<size_t>(size)};
  const auto address = reinterpret_cast<uintptr_t>(at);
  const uintptr_t skip = (kHugePage - address % kHugePage) % kHugePage;
  bytes_ = mapping_.subspan(skip, static_cast<size_t>(bytes));
  // May fail silently: it changes speed, not content.
  madvise(bytes_.data(), bytes_.size(), MADV_HUGEPAGE);
}

HostRegion::HostRegion(HostRegion&& other) noexcept
    : mapping_(std::exchange(other.mapping_, {})), bytes_(std::exchange(other.bytes_, {})) {}

HostRegion& HostRegion::operator=(HostRegion&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostRegion::~HostRegion() {
  if (!mapping_.empty()) munmap(mapping_.data(), mapping_.size());
}

int node_of_byte(int64_t byte, int64_t begin, int64_t end, int n_nodes) {
  const int64_t page = byte / kHugePage;
  if (end - begin < kHugePage * n_nodes) return static_cast<int>(page % n_nodes);
  // A page on a cut belongs to the part that has more of it.
  const int64_t middle = std::clamp(page * kHugePage + kHugePage / 2, begin, end - 1);
  return static_cast<int>((middle - begin) * n_nodes / (end - begin));
}

MemoryLock lock_memory(const std::vector<std::span<const std::byte>>& ranges) {
  MemoryLock lock;
  for (const auto& range : ranges) {
    lock.wanted_bytes += static_cast<int64_t>(range.size());
    if (mlock(range.data(), range.size()) == 0) {
      lock.locked_bytes += static_cast<int64_t>(range.size());
    } else if (lock.error.empty()) {
      lock.error = fmt::format("{}; {}", std::strerror(errno), lock_limit_text());
    }
  }
  return lock;
}

}  // namespace tandem
