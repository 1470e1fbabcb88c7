// Host buffers whose size follows from the settings: what does not fit is a MemoryError that says
// what for and how much.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <new>
#include <stdexcept>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/error.h"

namespace tandem {

template <typename T>
void resize_host(std::vector<T>* vector, int64_t n, const char* tag) {
  const auto fail = [&] {
    const double gib = static_cast<double>(n) * sizeof(T) / (1 << 30);
    throw HostMemoryError(fmt::format("{}: cannot allocate {:.2f} GiB of host memory", tag, gib));
  };
  try {
    vector->resize(static_cast<size_t>(n));
  } catch (const std::bad_alloc&) {
    fail();
  } catch (const std::length_error&) {
    fail();
  }
}

// Of what is built on `device`, which may only count.
template <typename T>
void resize_host(std::vector<T>* vector, int64_t n, Device& device, const char* tag) {
  device.host_buffer(n * static_cast<int64_t>(sizeof(T)), tag);
  if (!device.info().counts_only) resize_host(vector, n, tag);
}

}  // namespace tandem
