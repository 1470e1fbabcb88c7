// Ctrl-C: the first one asks for a clean end, the second one ends the process at once.
#pragma once

#include <csignal>

namespace tandem {

class InterruptGuard {
 public:
  // Installs the handler and forgets earlier interrupts. A program that was started with interrupts
  // ignored (nohup, a script's background job) goes on ignoring them.
  InterruptGuard();
  ~InterruptGuard();  // restores what was there
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  void clear();

 private:
  struct sigaction former_ {};
};

}  // namespace tandem
