#include "runtime/cli/text_io.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "runtime/error.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

bool line_is_open = false;  // of standard output: the last byte was no newline

[[noreturn]] void fail_write(const std::string& path, const std::string& why) {
  throw FileError(path, "cannot be written: " + why);
}

// errno of the failure, or 0.
int write_stream(const fs::path& path, std::string_view bytes) {
  errno = 0;
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (out) return 0;
  return errno != 0 ? errno : EIO;
}

std::string read_standard_input() {
  std::string text;
  std::array<char, 1 << 16> buffer{};
  while (true) {
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n > 0) {
      text.append(buffer.data(), static_cast<size_t>(n));
    } else if (n == 0 || errno == EBADF) {  // closed is the same as empty
      return text;
    } else if (errno != EINTR) {
      throw FileError("standard input", fmt::format("cannot be read: {}", std::strerror(errno)));
    }
  }
}

// Where a file of this name lies or would lie: follows links, even to what does not exist yet.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error)) return fs::canonical(path);
  constexpr int kMostLinks = 40;  // Linux's own limit
  fs::path target = path;
  for (int i = 0; fs::is_symlink(target, error); ++i) {
    if (i == kMostLinks) fail_write(path.string(), std::strerror(ELOOP));
    target = target.parent_path() / fs::read_symlink(target);  // an absolute link replaces all
  }
  return target;
}

}  // namespace

std::string read_text(const std::string& path) {
  if (path == "-") return read_standard_input();
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    throw FileError(path, "cannot be read: expected a file, got a directory");
  }
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(path, fmt::format("cannot be read: {}", std::strerror(errno)));
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) throw FileError(path, "cannot be read to its end");
  return text;
}

void check_writable(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) fail_write(path, "expected a file, got a directory");
  const fs::path folder = resolved(path).parent_path();
  if (!folder.empty() && !fs::is_directory(folder, error)) {
    fail_write(path, fmt::format("there is no folder {}", folder.string()));
  }
}

void write_file(const std::string& path, std::string_view bytes) {
  check_writable(path);
  std::error_code error;
  // A rename would replace a device by a file, and a link instead of what it points to.
  const bool exists = fs::exists(path, error);
  if (exists && !fs::is_regular_file(path, error)) {
    if (const int code = write_stream(path, bytes)) fail_write(path, std::strerror(code));
    return;
  }
  const fs::path target = resolved(path);
  const fs::path temporary = fmt::format("{}.{}.part", target.string(), getpid());
  int code = write_stream(temporary, bytes);
  if (code == 0) {
    fs::rename(temporary, target, error);
    code = error.value();
  }
  if (code != 0) {
    fs::remove(temporary, error);
    fail_write(path, std::strerror(code));
  }
}

void print_out(std::string_view text) {
  if (!text.empty()) line_is_open = text.back() != '\n';
  // Not stdio: Ctrl-C may interrupt a write that waits for a slow reader, and nothing must get
  // lost.
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      throw Error(fmt::format("standard output: cannot be written: {}", std::strerror(errno)));
    }
  }
}

void end_out_line() noexcept {
  if (std::exchange(line_is_open, false)) static_cast<void>(::write(STDOUT_FILENO, "\n", 1) == 1);
}

bool is_c1(std::string_view text) {
  return text.size() >= 2 && text[0] == '\xc2' && static_cast<unsigned char>(text[1]) >= 0x80 &&
         static_cast<unsigned char>(text[1]) <= 0x9f;
}

std::string printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool c1 = is_c1(text.substr(i));
    const auto byte = static_cast<unsigned char>(text[i]);
    out += c1 || byte < 0x20 || byte == 0x7f ? '?' : text[i];
    if (c1) ++i;
  }
  return out;
}

}  // namespace tandem
