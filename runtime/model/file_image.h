// The bytes of a regular file at one address: mapped read-only or, once detached, in memory of
// their own into which ranges are read. Owns both; bytes() is valid while it lives and moves with
// it. Any thread may read; ranges that do not overlap may be filled at the same time. A file that
// another process truncates while it is mapped raises SIGBUS on access: that is not guarded
// against.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "runtime/model/file_descriptor.h"

namespace tandem {

using ByteRange = std::span<const std::byte>;

class FileImage {
 public:
  // Mapped. FileError for whatever is not a readable, non-empty regular file. Never blocks on a
  // FIFO.
  explicit FileImage(const std::filesystem::path& path);
  FileImage(FileImage&& other) noexcept;
  FileImage& operator=(FileImage&& other) noexcept;
  FileImage(const FileImage&) = delete;
  FileImage& operator=(const FileImage&) = delete;
  ~FileImage();

  ByteRange bytes() const { return bytes_; }
  bool detached() const { return detached_; }

  // Replaces the mapping by memory at the same addresses: the first n bytes as the file has them,
  // zeros behind, which cost no memory before they are filled. MemoryError when the system's limits
  // do not allow it; FileError as read(). Then this object is of no use any more.
  void detach(size_t n);
  // Reads a range of bytes() to its place. Detached only.
  void fill(ByteRange range);
  // Reads a range of bytes() to `to`. FileError when the file has become shorter or cannot be read.
  void read(ByteRange range, std::byte* to) const;

  // What follows is advice. It may fail silently: it changes speed, not content.

  // Asks for the range to be read into the page cache soon, unless its first and last page are
  // there.
  void will_need(ByteRange range) const;
  // Waits until the pages of the range are in memory and mapped. Nothing to do once detached.
  void touch(ByteRange range) const;
  // Only the pages wholly inside the range are advised, so that a neighbour on a shared page is
  // never dropped. Nothing happens once detached: the bytes would be lost.
  void advise_dont_need(ByteRange range) const;

 private:
  size_t offset_of(ByteRange range) const;

  std::string name_;
  FileDescriptor fd_;
  ByteRange bytes_;  // [file size], empty after a move
  bool detached_ = false;
};

}  // namespace tandem
