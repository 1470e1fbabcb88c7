// Counts the allocations of a test program that has counted_new.cc among its sources.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace tandem::test {

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TANDEM_NEW_IS_TAKEN
#endif
#endif

// clang's TSan brings an operator new that cannot be replaced; nothing is counted there.
#ifdef TANDEM_NEW_IS_TAKEN
inline constexpr bool kCountsAllocations = false;
#else
inline constexpr bool kCountsAllocations = true;
#endif

extern std::atomic<int64_t> allocation_count;
// After so many allocations, each one fails; negative: none does.
extern std::atomic<int64_t> allocations_left;
extern std::atomic<size_t> largest_allocation;  // bytes of one

}  // namespace tandem::test
