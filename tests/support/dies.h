// Death tests: the body runs in a forked child whose stderr goes into a pipe, so that a failing
// CHECK neither ends the test program nor writes into its report.
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <string_view>

namespace tandem::test {

struct Death {
  int by_signal = 0;  // 0: the body came back or threw
  std::string words;  // what it wrote to stderr
};

// The body must not rely on other threads: they don't exist in the child.
template <typename Body>
Death death_of(Body&& body) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return {};
  const pid_t child = fork();
  if (child == 0) {
    // Neither the test framework nor a sanitizer may catch the signal and carry on.
    for (const int fatal : {SIGABRT, SIGSEGV, SIGBUS}) signal(fatal, SIG_DFL);
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    dup2(ends[1], STDERR_FILENO);
    try {
      body();
    } catch (...) {
      _exit(2);
    }
    _exit(0);
  }
  close(ends[1]);
  Death death;
  std::array<char, 512> part{};
  for (ssize_t n = 0; (n = read(ends[0], part.data(), part.size())) > 0;) {
    death.words.append(part.data(), static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) death.by_signal = WTERMSIG(status);
  return death;
}

// True when a CHECK fails, with these words in its message.
template <typename Body>
bool dies(Body&& body, std::string_view with = "check failed") {
  const Death death = death_of(body);
  return death.by_signal == SIGABRT && death.words.find("check failed") != std::string::npos &&
         death.words.find(with) != std::string::npos;
}

// True when memory is touched that may not be.
template <typename Body>
bool faults(Body&& body) {
  const int by = death_of(body).by_signal;
  return by == SIGSEGV || by == SIGBUS;
}

}  // namespace tandem::test
