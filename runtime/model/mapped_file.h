// A regular file mapped read-only. Owns the mapping; bytes() is valid while it lives and moves
// with it. Immutable, so any thread may read. A file that another process truncates while it is
// mapped raises SIGBUS on access: that is not guarded against.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace tandem {

class MappedFile {
 public:
  // FileError for whatever is not a readable, non-empty regular file. Never blocks on a FIFO.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

  // `range` lies inside bytes(). Only the pages wholly inside it are advised, so that a neighbour
  // on a shared page is never dropped. Advice may fail silently: it changes speed, not content.
  void advise_dont_need(std::span<const std::byte> range) const;

 private:
  std::span<const std::byte> bytes_;  // [file size], empty after a move
};

}  // namespace tandem
