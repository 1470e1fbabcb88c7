#include "runtime/cli/interrupt.h"

#include <unistd.h>

#include <csignal>

#include "runtime/cli/commands.h"

namespace tandem {
namespace {

// A signal handler has no other way to speak than a variable of static storage.
volatile std::sig_atomic_t interrupt_count = 0;

void on_interrupt(int) {
  if (interrupt_count > 0) _exit(kExitInterrupted);
  interrupt_count = 1;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupt_count = 0;
  sigaction(SIGINT, nullptr, &former_);
  if (former_.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: a waiting read() returns
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &former_, nullptr); }

bool InterruptGuard::interrupted() const { return interrupt_count > 0; }
void InterruptGuard::clear() { interrupt_count = 0; }

}  // namespace tandem
