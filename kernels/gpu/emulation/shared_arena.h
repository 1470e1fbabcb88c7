// The shared memory of a block: arrays with red zones between them, filled with bytes that are NaN
// as floats before each block, so that what nobody wrote shows. One block at a time.
#pragma once

#include <cstddef>
#include <vector>

namespace tandem::vgpu {

class SharedArena {
 public:
  SharedArena() = default;
  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;

  // A new block: nothing is there. limit: bytes that a block may use. std::bad_alloc.
  void begin_block(size_t limit);
  // The array that `key` stands for: the same one for all threads of a block. nullptr where the
  // block would use more than the limit.
  void* array(const void* key, size_t bytes, size_t align);
  size_t used_bytes() const { return used_; }

 private:
  struct Array {
    const void* key;
    std::byte* at;
  };
  std::byte* memory_ = nullptr;
  size_t end_ = 0;  // of the last array
  size_t used_ = 0;
  size_t limit_ = 0;
  std::vector<Array> arrays_;
};

}  // namespace tandem::vgpu
