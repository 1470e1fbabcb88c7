// Memory that AddressSanitizer reports when it is touched while it is closed. Without
// that sanitizer, nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TANDEM_ASAN_HERE
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TANDEM_ASAN_HERE
#endif

#ifdef TANDEM_ASAN_HERE
#include <sanitizer/asan_interface.h>
#endif

namespace tandem {

inline void close_range(const std::byte* at, int64_t bytes) {
#ifdef TANDEM_ASAN_HERE
  __asan_poison_memory_region(at, static_cast<size_t>(bytes));
#else
  static_cast<void>(at);
  static_cast<void>(bytes);
#endif
}

inline void open_range(const std::byte* at, int64_t bytes) {
#ifdef TANDEM_ASAN_HERE
  __asan_unpoison_memory_region(at, static_cast<size_t>(bytes));
#else
  static_cast<void>(at);
  static_cast<void>(bytes);
#endif
}

}  // namespace tandem
