// Large blocks of host memory for weights, and how much there is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

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

// What this process can still get without swapping: the system's estimate, or less where a control
// group limits it. The largest int64 where the system does not say.
int64_t available_host_bytes();

}  // namespace tandem
