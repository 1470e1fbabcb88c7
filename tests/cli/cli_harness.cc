#include "tests/cli/cli_harness.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace tandem::test {
namespace {

constexpr auto kTimeout = std::chrono::minutes(2);
constexpr std::chrono::milliseconds kQuiet(500);

struct Pipe {
  int read = -1;
  int write = -1;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  return {ends[0], ends[1]};
}

Pipe make_terminal() {
  Pipe ends;
  ends.read = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (ends.read < 0 || grantpt(ends.read) != 0 || unlockpt(ends.read) != 0) {
    throw std::runtime_error("this test needs a pseudo terminal, and there is none: mount devpts");
  }
  ends.write = open(ptsname(ends.read), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (ends.write < 0) throw std::runtime_error("a pseudo terminal cannot be opened: mount devpts");
  return ends;
}

void close_fd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

// In the child: nothing but calls that are safe between fork and exec.
[[noreturn]] void become(char* const* arguments, int in, int out, int err, const Invocation& how) {
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  if (in >= 0) {
    dup2(in, STDIN_FILENO);
  } else {
    close(STDIN_FILENO);
  }
  signal(SIGPIPE, SIG_DFL);
  signal(SIGINT, how.ignores_interrupts ? SIG_IGN : SIG_DFL);
  if (!how.may_lock_memory) {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_MEMLOCK, &none);
    prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK);  // fails, and is not needed, where it is not root's
  }
  execv(arguments[0], arguments);
  _exit(127);
}

}  // namespace

Process::Process(const std::vector<std::string>& arguments, const Invocation& how) : how_(how) {
  std::signal(SIGPIPE, SIG_IGN);  // a program that reads no input is no reason to die
  const std::string in_path = how.in_path.empty() ? "/dev/null" : how.in_path;
  Pipe in{open(in_path.c_str(), O_RDONLY | O_CLOEXEC), -1};
  if (how.in) {
    close(in.read);
    in = make_pipe();
  }
  if (how.no_stdin) close_fd(&in.read);
  Pipe out{-1, -1};
  if (how.out_path.empty()) {
    out = make_pipe();
  } else {
    out.write = open(how.out_path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  }
  Pipe err = how.errors_to_terminal ? make_terminal() : make_pipe();

  std::vector<std::string> words{how.program.empty() ? TANDEM_PROGRAM : how.program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ == 0) become(argv.data(), in.read, out.write, err.write, how);
  close_fd(&in.read);
  close_fd(&out.write);
  close_fd(&err.write);
  in_ = in.write;
  out_ = out.read;
  err_ = err.read;
  if (in_ >= 0) fcntl(in_, F_SETFL, O_NONBLOCK);
}

Process::~Process() {
  close_fd(&in_);
  close_fd(&out_);
  close_fd(&err_);
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Process::feed(short events) {
  if (events == 0) return;
  const std::string& text = *how_.in;
  const ssize_t n = write(in_, text.data() + fed_, text.size() - fed_);
  if (n > 0) fed_ += static_cast<size_t>(n);
  if (fed_ == text.size() || (n < 0 && errno != EAGAIN)) close_fd(&in_);
}

void Process::on_first_output() {
  for (int i = 0; i < how_.interrupts; ++i) kill(pid_, SIGINT);
  if (how_.close_output_early) close_fd(&out_);
}

// False at the end.
bool Process::take(int* fd, std::string* to, bool is_output) {
  std::vector<char> buffer(1 << 16);
  const ssize_t n = read(*fd, buffer.data(), buffer.size());
  if (n <= 0) {  // a terminal ends with EIO
    close_fd(fd);
    return false;
  }
  const std::string piece(buffer.data(), static_cast<size_t>(n));
  const bool first = to->empty();
  *to += piece;
  if (is_output) {
    outcome_.pieces.push_back(piece);
    if (first) on_first_output();
  } else if (!how_.interrupt_at.empty() && contains(*to, how_.interrupt_at)) {
    how_.interrupt_at.clear();
    kill(pid_, SIGINT);
  }
  return true;
}

Outcome Process::wait() {
  const auto deadline = std::chrono::steady_clock::now() + kTimeout;
  while (out_ >= 0 || err_ >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) throw std::runtime_error("the program did not end in time");
    std::array<pollfd, 3> fds{{{in_, POLLOUT, 0}, {out_, POLLIN, 0}, {err_, POLLIN, 0}}};
    const bool quiet_matters = how_.interrupt_when_quiet && !outcome_.out.empty();
    const auto wait = quiet_matters ? std::min(left, kQuiet) : left;
    const int events = poll(fds.data(), fds.size(), static_cast<int>(wait.count()));
    if (events == 0 && quiet_matters) kill(pid_, SIGINT);
    if (events <= 0) continue;
    feed(fds[0].revents);
    if (fds[1].revents != 0) take(&out_, &outcome_.out, true);
    if (fds[2].revents != 0) take(&err_, &outcome_.err, false);
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  outcome_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome_;
}

ReferenceArithmetic::ReferenceArithmetic() {
  if (const char* isa = std::getenv("TANDEM_ISA")) before_ = isa;
  setenv("TANDEM_ISA", "scalar", 1);
}

ReferenceArithmetic::~ReferenceArithmetic() {
  if (before_) {
    setenv("TANDEM_ISA", before_->c_str(), 1);
  } else {
    unsetenv("TANDEM_ISA");
  }
}

Outcome tandem(const std::vector<std::string>& arguments, const Invocation& how) {
  return Process(arguments, how).wait();
}

std::string source_file(std::string_view path) {
  return std::string(TANDEM_SOURCE_DIR) + "/" + std::string(path);
}

std::string family_model(std::string_view name) {
  return source_file("tests/fixtures/families/" + std::string(name) + ".gguf");
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

size_t line_count(std::string_view text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = byte < 0x80                    ? 1
                          : byte >= 0xc2 && byte <= 0xdf ? 2
                          : byte >= 0xe0 && byte <= 0xef ? 3
                          : byte >= 0xf0 && byte <= 0xf4 ? 4
                                                         : 0;
    if (length == 0 || i + length > text.size()) return false;
    uint32_t code = length == 1 ? byte : byte & (0xffU >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      code = code << 6 | (next & 0x3f);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
    i += length;
  }
  return true;
}

}  // namespace tandem::test
