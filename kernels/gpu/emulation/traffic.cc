#include "kernels/gpu/emulation/traffic.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "kernels/gpu/emulation/block_runner.h"

namespace tandem::vgpu {
namespace {

// The last launch and the last block that touched a sector.
struct Touched {
  uint32_t launch;
  uint32_t block;
};
struct Sector {
  Touched read;
  Touched written;
};

const std::byte* counted_memory = nullptr;
size_t counted_bytes = 0;
Sector* sectors = nullptr;  // of all counted memory; pages that nobody touches cost nothing
std::map<std::string, Traffic> by_kernel;
Traffic* now = nullptr;
uint32_t launch_number = 0;
uint32_t block_number = 0;

size_t table_bytes(size_t memory) { return (memory / kSectorBytes + 1) * sizeof(Sector); }

void touch(Touched* touched, uint64_t* once, uint64_t* by_blocks) {
  if (touched->block == block_number) return;
  *by_blocks += kSectorBytes;
  touched->block = block_number;
  if (touched->launch == launch_number) return;
  *once += kSectorBytes;
  touched->launch = launch_number;
}

}  // namespace

void count_traffic(const void* memory, size_t bytes) {
  if (sectors != nullptr) munmap(sectors, table_bytes(counted_bytes));
  const size_t table = table_bytes(bytes);
  void* at = mmap(nullptr, table, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  sectors = static_cast<Sector*>(at);
  counted_memory = static_cast<const std::byte*>(memory);
  counted_bytes = bytes;
}

std::map<std::string, Traffic> take_traffic() { return std::exchange(by_kernel, {}); }

void launch_begins(const char* kernel) {
  ++launch_number;
  now = &by_kernel[kernel];
  ++now->launches;
}

void block_begins() { ++block_number; }

void accessed(const void* at, size_t bytes, bool write) {
  const auto offset = static_cast<size_t>(static_cast<const std::byte*>(at) - counted_memory);
  // The host, a stack, shared memory; an asynchronous copy of nothing.
  if (self == nullptr || offset >= counted_bytes || bytes == 0) return;
  for (size_t s = offset / kSectorBytes; s <= (offset + bytes - 1) / kSectorBytes; ++s) {
    if (write) {
      touch(&sectors[s].written, &now->written_once, &now->written_by_blocks);
    } else {
      touch(&sectors[s].read, &now->read_once, &now->read_by_blocks);
    }
  }
}

}  // namespace tandem::vgpu

// What the compiler calls for -fsanitize=thread; TSan itself is not linked.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl*,readability-identifier-naming): they are GCC's
extern "C" {
using tandem::vgpu::accessed;
void __tsan_init() {}
void __tsan_func_entry(void* /*from*/) {}
void __tsan_func_exit() {}
#define COUNTED_ACCESS(n)                                           \
  void __tsan_read##n(void* p) { accessed(p, n, false); }           \
  void __tsan_write##n(void* p) { accessed(p, n, true); }           \
  void __tsan_unaligned_read##n(void* p) { accessed(p, n, false); } \
  void __tsan_unaligned_write##n(void* p) { accessed(p, n, true); } \
  void __tsan_volatile_read##n(void* p) { accessed(p, n, false); }  \
  void __tsan_volatile_write##n(void* p) { accessed(p, n, true); }
COUNTED_ACCESS(1)
COUNTED_ACCESS(2)
COUNTED_ACCESS(4)
COUNTED_ACCESS(8)
COUNTED_ACCESS(16)
#undef COUNTED_ACCESS
void __tsan_read_range(void* p, size_t n) { accessed(p, n, false); }
void __tsan_write_range(void* p, size_t n) { accessed(p, n, true); }
void __tsan_vptr_update(void** /*p*/, void* /*value*/) {}
uint32_t __tsan_atomic32_load(const volatile uint32_t* p, int /*order*/) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);  // a flag of the host's
}
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl*,readability-identifier-naming)
