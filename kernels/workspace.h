// Scratch memory for kernels, kept from call to call: it grows in the first steps and stays.
// For one kernel at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace tandem {

class Workspace {
 public:
  // At least `bytes`, 64-byte aligned, contents undefined; what an earlier call gave is gone.
  // std::bad_alloc when there is no memory.
  std::byte* at_least(int64_t bytes) {
    if (bytes > bytes_) {
      memory_.reset();
      bytes_ = 0;
      const size_t whole = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
      memory_.reset(static_cast<std::byte*>(::operator new (whole, std::align_val_t{kAlignment})));
      bytes_ = bytes;
    }
    return memory_.get();
  }

 private:
  static constexpr size_t kAlignment = 64;
  struct Delete {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<std::byte, Delete> memory_;
  int64_t bytes_ = 0;
};

}  // namespace tandem
