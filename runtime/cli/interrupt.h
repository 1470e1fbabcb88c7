// Ctrl-C: the first one asks for a clean end, the second one ends the process at once.
#pragma once

namespace tandem {

class InterruptGuard {
 public:
  InterruptGuard();   // installs the handler and forgets earlier interrupts
  ~InterruptGuard();  // restores what was there
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  void clear();
};

}  // namespace tandem
