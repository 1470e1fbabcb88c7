#include "kernels/gpu/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "kernels/gpu/emulation/sanitizers.h"

// Saves what the System V ABI wants kept on the stack, stores the stack pointer at *save, and goes
// on where `load` was stored. Fifteen instructions: swapcontext() makes two system calls for the
// mask of signals and is 13 to 18 times slower.
extern "C" void tandem_vgpu_switch(void** save, void* load);

#if defined(__x86_64__)
__asm__(R"(
.text
.globl tandem_vgpu_switch
.type tandem_vgpu_switch,@function
tandem_vgpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tandem_vgpu_switch,.-tandem_vgpu_switch
.section .note.GNU-stack,"",@progbits
.text
)");
constexpr size_t kSavedRegisters = 6;
#else
#error "tandem_vgpu_switch is written for x86-64 only"
#endif

namespace tandem::vgpu {
namespace {

constexpr size_t kGuard = 4096;
constexpr size_t kStack = size_t{64} * 1024;
constexpr size_t kLine = 64;
constexpr size_t kMostStagger = 60;

thread_local Fiber* starting = nullptr;

}  // namespace

Fiber::Fiber() {
  void* at = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<std::byte*>(at);
  mprotect(stack_, kGuard, PROT_NONE);
#ifdef TANDEM_VGPU_TSAN
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#ifdef TANDEM_VGPU_TSAN
  __tsan_destroy_fiber(tsan_fiber_);
#endif
  munmap(stack_, kGuard + kStack);
}

void Fiber::restart(void (*entry)(void*), void* arg, size_t stagger) {
  entry_ = entry;
  arg_ = arg;
  unpoison(stack_ + kGuard, kStack);  // frames of a function that never ended
  // A frame as tandem_vgpu_switch leaves it, which returns into run(); aligned as behind a call.
  auto** top =
      reinterpret_cast<void**>(stack_ + kGuard + kStack - (1 + stagger % kMostStagger) * kLine);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::run);
  for (size_t i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
}

void Fiber::resume() {
  starting = this;
#ifdef TANDEM_VGPU_ASAN
  __sanitizer_start_switch_fiber(&host_fake_stack_, stack_ + kGuard, kStack);
#endif
#ifdef TANDEM_VGPU_TSAN
  host_tsan_fiber_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
  tandem_vgpu_switch(&host_stack_pointer_, stack_pointer_);
#ifdef TANDEM_VGPU_ASAN
  __sanitizer_finish_switch_fiber(host_fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::run() {
  Fiber* self = starting;
#ifdef TANDEM_VGPU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &self->host_bottom_, &self->host_size_);
#endif
  self->entry_(self->arg_);
  std::abort();  // entry must end by end()
}

void Fiber::leave(bool dying) {
#ifdef TANDEM_VGPU_ASAN
  __sanitizer_start_switch_fiber(dying ? nullptr : &fake_stack_, host_bottom_, host_size_);
#endif
#ifdef TANDEM_VGPU_TSAN
  __tsan_switch_to_fiber(host_tsan_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
  (void)dying;
  tandem_vgpu_switch(&stack_pointer_, host_stack_pointer_);
#ifdef TANDEM_VGPU_ASAN
  __sanitizer_finish_switch_fiber(fake_stack_, &host_bottom_, &host_size_);
#endif
}

void Fiber::suspend() { leave(false); }

void Fiber::end() {
  leave(true);
  std::abort();  // resumed after its end
}

}  // namespace tandem::vgpu
