#include "runtime/cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace tandem {

Progress::Progress() : terminal_(isatty(STDERR_FILENO) != 0) {}

void Progress::show(const std::string& what) {
  if (!terminal_) return;
  std::fprintf(stderr, "\r\033[K%s ...", what.c_str());
  std::fflush(stderr);
  shown_ = true;
}

void Progress::show_count(const std::string& what, int64_t done, int64_t total) {
  if (total <= 0) return;
  show(fmt::format("{}: {} of {} ({} %)", what, done, total, 100 * done / total));
}

void Progress::clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace tandem
