// What the sanitizers must be told about fibers and shared memory; nothing in builds without them.
// The engine itself is compiled without instrumentation, so that only kernels are checked:
// TANDEM_VGPU_ASAN and TANDEM_VGPU_TSAN say which sanitizer the rest of the program has. (The
// macros of <sanitizer/asan_interface.h> are empty in files without instrumentation; its functions
// are not.)
#pragma once

#include <cstddef>

#ifdef TANDEM_VGPU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef TANDEM_VGPU_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace tandem::vgpu {

#ifdef TANDEM_VGPU_TSAN
inline constexpr bool kTsan = true;
// What happens after acquire(p) happens after what was before release(p).
inline void release(void* p) { __tsan_release(p); }
inline void acquire(void* p) { __tsan_acquire(p); }
// While one lives, accesses of this fiber are not looked at.
class UnseenAccesses {
 public:
  UnseenAccesses() {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~UnseenAccesses() {
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
  UnseenAccesses(const UnseenAccesses&) = delete;
  UnseenAccesses& operator=(const UnseenAccesses&) = delete;
};
#else
inline constexpr bool kTsan = false;
inline void release(void* /*p*/) {}
inline void acquire(void* /*p*/) {}
struct UnseenAccesses {
  UnseenAccesses() {}  // NOLINT(modernize-use-equals-default): a variable of it counts as used
};
#endif

#ifdef TANDEM_VGPU_ASAN
inline void poison(void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
// nullptr, or the first byte that must not be touched.
inline const void* poisoned(const void* p, size_t bytes) {
  return __asan_region_is_poisoned(const_cast<void*>(p), bytes);
}
#else
inline void poison(void* /*p*/, size_t /*bytes*/) {}
inline void unpoison(void* /*p*/, size_t /*bytes*/) {}
inline const void* poisoned(const void* /*p*/, size_t /*bytes*/) { return nullptr; }
#endif

}  // namespace tandem::vgpu
