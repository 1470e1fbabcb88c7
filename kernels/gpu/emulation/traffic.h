// Counts what emulated kernels read and write of a GPU's memory. Only in programs that are linked
// with tandem_gpu_counted instead of tandem_gpu_emulated: its kernels are compiled with TSan's
// instrumentation, which calls a function at each access, and that function counts here.
//
// A sector is 32 bytes, what GPUs read at least. Read more than once by a block, it is counted once
// (`by_blocks`: about what multiprocessors get from L2), and once by a launch (`once`: what memory
// gives if L2 keeps what is read again).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace tandem::vgpu {

inline constexpr size_t kSectorBytes = 32;

struct Traffic {
  uint64_t launches = 0;
  uint64_t read_once = 0;  // all in bytes
  uint64_t read_by_blocks = 0;
  uint64_t written_once = 0;
  uint64_t written_by_blocks = 0;
};

#ifdef TANDEM_VGPU_COUNTED

// From now on, what kernels do in this memory, by kernel. It begins with a sector. std::bad_alloc.
void count_traffic(const void* memory, size_t bytes);
// What was counted since the last call.
std::map<std::string, Traffic> take_traffic();

// Called by the emulation.
void launch_begins(const char* kernel);
void block_begins();
void accessed(const void* at, size_t bytes, bool write);

#else

inline void launch_begins(const char* /*kernel*/) {}
inline void block_begins() {}
inline void accessed(const void* /*at*/, size_t /*bytes*/, bool /*write*/) {}

#endif

}  // namespace tandem::vgpu
