// A libcuda.so.1 for the tests, as far as CUDA's runtime goes to find out that no GPU can be used.
// What it says comes from the environment: FAKE_DRIVER_CUDA, the version that it supports (13000 is
// 13.0), and FAKE_DRIVER_ERROR, what starting it fails with (of CUresult, CUDA Driver API).
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kSuccess = 0;
constexpr int kNotFound = 500;  // CUDA_ERROR_NOT_FOUND

int number(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace

extern "C" {

int cuDriverGetVersion(int* version) {
  *version = number("FAKE_DRIVER_CUDA");
  return kSuccess;
}

int cuInit(unsigned int) { return number("FAKE_DRIVER_ERROR"); }

int cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
  *function = nullptr;
  if (std::strcmp(symbol, "cuInit") == 0) *function = reinterpret_cast<void*>(&cuInit);
  if (std::strcmp(symbol, "cuDriverGetVersion") == 0) {
    *function = reinterpret_cast<void*>(&cuDriverGetVersion);
  }
  if (std::strcmp(symbol, "cuGetProcAddress") == 0) {
    *function = reinterpret_cast<void*>(&cuGetProcAddress_v2);
  }
  const bool found = *function != nullptr;
  if (status != nullptr) *status = found ? 0 : 1;
  return found ? kSuccess : kNotFound;
}

}  // extern "C"
