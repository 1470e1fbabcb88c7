#include "kernels/gpu/emulation/shared_arena.h"

#include <sys/mman.h>

#include <new>

#include "kernels/gpu/emulation/sanitizers.h"

namespace tandem::vgpu {
namespace {

constexpr size_t kRedZone = 64;
constexpr size_t kArena = size_t{512} * 1024;

}  // namespace

SharedArena::~SharedArena() {
  if (memory_ == nullptr) return;
  unpoison(memory_, kArena);  // others may get these addresses
  munmap(memory_, kArena);
}

void SharedArena::begin_block(size_t limit) {
  // A fresh mapping makes TSan forget who touched the last block's.
  if (kTsan && memory_ != nullptr) {
    munmap(memory_, kArena);
    memory_ = nullptr;
  }
  if (memory_ == nullptr) {
    void* at = mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<std::byte*>(at);
    poison(memory_, kArena);
  }
  poison(memory_, end_);
  arrays_.clear();
  end_ = 0;
  used_ = 0;
  limit_ = limit;
}

void* SharedArena::array(const void* key, size_t bytes, size_t align) {
  for (const Array& array : arrays_) {
    if (array.key == key) return array.at;
  }
  const size_t at = (end_ + kRedZone + align - 1) / align * align;
  if (bytes > limit_ - used_ || at + bytes + kRedZone > kArena) return nullptr;
  used_ += bytes;
  end_ = at + bytes;
  unpoison(memory_ + at, bytes);
  // Not memset, which TSan watches: the fill belongs to no thread.
  volatile std::byte* fill = memory_ + at;
  for (size_t i = 0; i < bytes; ++i) fill[i] = std::byte{0xFF};
  arrays_.push_back({key, memory_ + at});
  return memory_ + at;
}

}  // namespace tandem::vgpu
