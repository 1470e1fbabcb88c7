#include "runtime/model/file_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

// The kernel cuts a longer request to what a device reads ahead, for which this is the default.
constexpr size_t kReadAheadBytes = size_t{128} << 10;

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

[[noreturn]] void fail(const std::string& path, const char* action, int error) {
  // Not strerror: several threads may read.
  throw FileError(path,
                  fmt::format("cannot {} it: {}", action, std::system_category().message(error)));
}

// Looks before it opens: opening a FIFO or a device can block or have effects.
void check_regular(const std::string& path, const struct stat& status) {
  if (!S_ISREG(status.st_mode)) {
    throw FileError(path, fmt::format("expected a regular file, got {}", kind_of(status.st_mode)));
  }
}

// Whether the byte's page is in the page cache; false where the system does not tell.
bool is_cached(int fd, size_t offset) {
  std::byte byte{};
  const iovec to{&byte, 1};
  return ::preadv2(fd, &to, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1;
}

size_t page_bytes() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

[[noreturn]] void fail_short(const std::string& path, int fd, size_t expected) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) fail(path, "examine", errno);
  throw FileError(path, fmt::format("the file has {} bytes now; it had {} when it was opened",
                                    status.st_size, expected));
}

ByteRange map(const std::string& name, int fd) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) fail(name, "examine", errno);
  check_regular(name, status);
  if (status.st_size <= 0) throw FileError(name, "the file is empty");
  const auto size = static_cast<size_t>(status.st_size);
  void* start = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (start == MAP_FAILED) fail(name, "map", errno);
  return {static_cast<const std::byte*>(start), size};
}

}  // namespace

FileImage::FileImage(const std::filesystem::path& path) : name_(path.string()) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) fail(name_, "open", errno);
  check_regular(name_, status);
  // O_NONBLOCK: should a FIFO take the file's place after the check above, open still returns.
  fd_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd_.get() < 0) fail(name_, "open", errno);
  bytes_ = map(name_, fd_.get());
}

FileImage::FileImage(FileImage&& other) noexcept
    : name_(std::move(other.name_)),
      fd_(std::move(other.fd_)),
      bytes_(std::exchange(other.bytes_, {})),
      detached_(other.detached_) {}

FileImage& FileImage::operator=(FileImage&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  std::swap(detached_, other.detached_);
  return *this;
}

FileImage::~FileImage() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

size_t FileImage::offset_of(ByteRange range) const {
  TANDEM_CHECK(
      range.data() >= bytes_.data() && range.size() <= bytes_.size() &&
          range.data() - bytes_.data() <= static_cast<ptrdiff_t>(bytes_.size() - range.size()),
      "a range of %zu bytes outside its file of %zu", range.size(), bytes_.size());
  return static_cast<size_t>(range.data() - bytes_.data());
}

void FileImage::detach(size_t n) {
  auto* at = const_cast<std::byte*>(bytes_.data());
  if (::mmap(at, bytes_.size(), PROT_READ | PROT_WRITE,
             MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED) {
    throw MemoryError(fmt::format("cannot allocate {} of host memory for {}",
                                  bytes_text(static_cast<int64_t>(bytes_.size())), name_));
  }
  detached_ = true;
  ::madvise(at, bytes_.size(), MADV_HUGEPAGE);
  fill(bytes_.first(n));
}

void FileImage::fill(ByteRange range) {
  TANDEM_CHECK(detached_, "%s is mapped", name_.c_str());
  read(range, const_cast<std::byte*>(range.data()));
}

void FileImage::read(ByteRange range, std::byte* to) const {
  const size_t offset = offset_of(range);
  for (size_t done = 0; done < range.size();) {
    const ssize_t n =
        ::pread(fd_.get(), to + done, range.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(name_, "read", errno);
    if (n == 0) fail_short(name_, fd_.get(), bytes_.size());
    done += static_cast<size_t>(n);
  }
}

void FileImage::will_need(ByteRange range) const {
  const size_t begin = offset_of(range);
  const size_t end = begin + range.size();
  // A sample: advice for pages that are there costs as much as a tenth of reading them.
  if (range.empty() || (is_cached(fd_.get(), begin) && is_cached(fd_.get(), end - 1))) return;
  for (size_t at = begin; at < end; at += kReadAheadBytes) {
    const size_t n = std::min(kReadAheadBytes, end - at);
    ::posix_fadvise(fd_.get(), static_cast<off_t>(at), static_cast<off_t>(n), POSIX_FADV_WILLNEED);
  }
}

void FileImage::touch(ByteRange range) const {
  if (detached_ || range.empty()) return;
  const size_t page = page_bytes();
  const size_t begin = offset_of(range) / page * page;
  const size_t size = offset_of(range) + range.size() - begin;
#ifdef MADV_POPULATE_READ
  auto* at = const_cast<std::byte*>(bytes_.data() + begin);
  if (::madvise(at, size, MADV_POPULATE_READ) == 0) return;
#endif
  for (size_t i = 0; i < size; i += page) {
    static_cast<void>(*static_cast<const volatile std::byte*>(bytes_.data() + begin + i));
  }
}

void FileImage::advise_dont_need(ByteRange range) const {
  if (range.empty()) return;
  // The mapping starts on a page, so offsets in it are as aligned as addresses.
  const size_t page = page_bytes();
  const size_t offset = offset_of(range);
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + range.size()) / page * page;
  if (detached_ || begin >= end) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace tandem
