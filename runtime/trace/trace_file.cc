#include "runtime/trace/trace_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/file_image.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_formats.h"

namespace tandem {
namespace {

// A file that only gets its name when it is whole.
class NewFile {
 public:
  explicit NewFile(const std::string& path)
      : path_(path), temporary_(fmt::format("{}.{}.tmp", path, ::getpid())) {
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) fail("create");
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("write");
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }

  void keep() {
    const int fd = fd_;
    fd_ = -1;
    const bool synced = ::fsync(fd) == 0;
    const int sync_error = errno;
    if (::close(fd) != 0) fail("close");
    errno = sync_error;
    if (!synced) fail("sync");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
    temporary_.clear();
  }

 private:
  // The destructor does not run when the constructor throws; then there is no file.
  [[noreturn]] void fail(const char* action) const {
    throw FileError(path_,
                    fmt::format("cannot {} {}: {}", action, temporary_, std::strerror(errno)));
  }

  const std::string& path_;
  std::string temporary_;  // empty when there is none to remove
  int fd_ = -1;
};

bool begins(std::string_view text, std::string_view with) {
  return text.substr(0, with.size()) == with;
}

std::string shape(int32_t n_layers, int32_t n_experts, int32_t top_k) {
  return fmt::format("{} layers, {} experts, top {}", n_layers, n_experts, top_k);
}

}  // namespace

Trace parse_trace(std::span<const std::byte> image, const std::string& where) {
  std::string_view text(reinterpret_cast<const char*>(image.data()), image.size());
  // A truncated one is still ours.
  if (begins(text, kTraceMagic.substr(0, std::max<size_t>(text.size(), 1)))) {
    return parse_binary_trace(image, where);
  }
  if (begins(text, "#") || begins(text, "turn,")) return parse_csv_trace(text, where);
  if (begins(text, "{")) return parse_jsonl_trace(text, where);
  for (const auto& [magic, tool] : {std::pair<std::string_view, const char*>{"\xFD"
                                                                             "7zXZ",
                                                                             "xz"},
                                    {"\x1F\x8B", "gzip"},
                                    {"\x28\xB5\x2F\xFD", "zstd"}}) {
    if (begins(text, magic))
      throw FileError(where, fmt::format("compressed with {}; unpack it first", tool));
  }
  throw FileError(where, fmt::format("expected a routing trace (binary, CSV or JSON lines), got {}",
                                     tandem::quoted(text.substr(0, 16))));
}

Trace read_trace(const std::string& path) {
  const FileImage file(path);
  return parse_trace(file.bytes(), path);
}

int64_t write_trace(const Trace& trace, const std::string& path) {
  const auto fault = find_trace_fault(trace);
  if (fault) throw FileError(path, "cannot write this trace to it: " + fault->what);
  NewFile file(path);
  int64_t size_bytes = 0;
  encode_binary_trace(trace, [&](std::string_view bytes) {
    file.write(bytes);
    size_bytes += static_cast<int64_t>(bytes.size());
  });
  file.keep();
  return size_bytes;
}

void check_trace_fits(const Trace& trace, int32_t n_layers, int32_t n_experts, int32_t top_k,
                      std::string_view model_hash) {
  const TraceHeader& h = trace.header;
  const std::string of = h.model.empty() ? "" : fmt::format(" (of {})", tandem::quoted(h.model));
  if (h.n_layers != n_layers || h.n_experts != n_experts || h.top_k != top_k) {
    throw ConfigError(fmt::format("the trace{} is of another model: expected {}, got {}", of,
                                  shape(n_layers, n_experts, top_k),
                                  shape(h.n_layers, h.n_experts, h.top_k)));
  }
  if (!model_hash.empty() && !h.model_hash.empty() && h.model_hash != model_hash) {
    throw ConfigError(
        fmt::format("the trace{} is of another model with the same shape: expected the router "
                    "hash {}, got {}",
                    of, tandem::quoted(model_hash), tandem::quoted(h.model_hash)));
  }
}

}  // namespace tandem
