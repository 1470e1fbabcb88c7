#include "runtime/model/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "runtime/error.h"

namespace tandem {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { ::close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

[[noreturn]] void fail(const std::string& path, const char* action, int error) {
  throw FileError(path, fmt::format("cannot {} it: {}", action, std::strerror(error)));
}

// Looks before it opens: opening a FIFO or a device can block or have effects.
void check_regular(const std::string& path, const struct stat& status) {
  if (!S_ISREG(status.st_mode)) {
    throw FileError(path, fmt::format("expected a regular file, got {}", kind_of(status.st_mode)));
  }
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const std::string name = path.string();
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) fail(name, "open", errno);
  check_regular(name, status);
  // O_NONBLOCK: should a FIFO take the file's place after the check above, open still returns.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(name, "open", errno);
  const FileDescriptor file(fd);
  if (::fstat(file.get(), &status) != 0) fail(name, "examine", errno);
  check_regular(name, status);
  if (status.st_size <= 0) throw FileError(name, "the file is empty");
  const auto size = static_cast<size_t>(status.st_size);
  void* start = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (start == MAP_FAILED) fail(name, "map", errno);
  bytes_ = {static_cast<const std::byte*>(start), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::advise_dont_need(std::span<const std::byte> range) const {
  if (range.empty()) return;
  TANDEM_CHECK(
      range.data() >= bytes_.data() && range.size() <= bytes_.size() &&
          range.data() - bytes_.data() <= static_cast<ptrdiff_t>(bytes_.size() - range.size()),
      "a range of %zu bytes outside its mapping of %zu", range.size(), bytes_.size());
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  // The mapping starts on a page, so offsets in it are as aligned as addresses.
  const auto offset = static_cast<size_t>(range.data() - bytes_.data());
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + range.size()) / page * page;
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace tandem
