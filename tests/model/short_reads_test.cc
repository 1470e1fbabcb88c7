// What the system may answer to a read: less than was asked for, an interruption, an error. A
// program of its own: its pread takes the place of the C library's.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"

namespace {

struct Answers {
  bool shorter = false;  // every second call is interrupted, the others read 1000 bytes at most
  bool broken = false;
  int calls = 0;
};
Answers answers;

}  // namespace

// The C library's prototype.
// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" ssize_t pread(int fd, void* to, size_t n, off_t offset) {
  ++answers.calls;
  if (answers.broken) {
    errno = EIO;
    return -1;
  }
  if (answers.shorter && answers.calls % 2 == 0) {
    errno = EINTR;
    return -1;
  }
  return syscall(SYS_pread64, fd, to, answers.shorter ? std::min<size_t>(n, 1000) : n, offset);
}

namespace tandem::test {

TEST_CASE("short and interrupted reads are continued where they ended") {
  const GgufFile mapped = GgufFile::open(kDemoModel);
  answers = {.shorter = true};
  GgufFile file = GgufFile::open(kDemoModel, FileAccess::kRead);
  const GgufTensor* tensor = file.find_tensor("token_embd.weight");
  REQUIRE(tensor != nullptr);
  file.fill(tensor->bytes());
  CHECK(answers.calls > static_cast<int>(tensor->size_bytes / 1000));
  CHECK(std::memcmp(tensor->data, mapped.find_tensor("token_embd.weight")->data,
                    tensor->size_bytes) == 0);
  answers = {};
}

TEST_CASE("a read that fails is an error with the system's reason") {
  GgufFile file = GgufFile::open(kDemoModel, FileAccess::kRead);
  answers = {.broken = true};
  CHECK(error_of([&] { file.fill(file.tensors()[0].bytes()); }) ==
        kDemoModel.string() + ": cannot read it: Input/output error");
  CHECK(open_error(kDemoModel) == "no error");  // a mapping needs no read
  CHECK(error_of([] { GgufFile::open(kDemoModel, FileAccess::kRead); }) ==
        kDemoModel.string() + ": cannot read it: Input/output error");
  answers = {};
}

}  // namespace tandem::test
