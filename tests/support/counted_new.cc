#include "tests/support/counted_new.h"

#include <cstdlib>
#include <new>

namespace tandem::test {

std::atomic<int64_t> allocation_count{0};
std::atomic<int64_t> allocations_left{-1};
std::atomic<size_t> largest_allocation{0};

}  // namespace tandem::test

#ifndef TANDEM_NEW_IS_TAKEN
namespace {

void* counted(size_t size) noexcept {
  using tandem::test::allocations_left;
  using tandem::test::largest_allocation;
  ++tandem::test::allocation_count;
  int64_t left = allocations_left.load();
  while (left > 0 && !allocations_left.compare_exchange_weak(left, left - 1)) {
  }
  if (left == 0) return nullptr;
  size_t largest = largest_allocation.load();
  while (size > largest && !largest_allocation.compare_exchange_weak(largest, size)) {
  }
  return std::malloc(size == 0 ? 1 : size);
}

void* counted_or_throw(size_t size) {
  if (void* memory = counted(size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) { return counted_or_throw(size); }
void* operator new[](size_t size) { return counted_or_throw(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
#endif
