// What a launch runs: a callable of a few hundred bytes, kept by value, since a device may run it
// long after launch() has returned. What it refers to must live until then.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

namespace tandem {

class KernelScope;

class KernelBody {
 public:
  static constexpr size_t kBytes = 448;

  template <typename F>
  requires(!std::is_same_v<F, KernelBody> && std::is_invocable_v<const F&, const KernelScope&>)
      // Meant to convert silently: a launch is written with a lambda.
      // NOLINTNEXTLINE(google-explicit-constructor)
      KernelBody(const F& f)
      : call_([](const void* object, const KernelScope& scope) {
          (*static_cast<const F*>(object))(scope);
        }) {
    static_assert(sizeof(F) <= kBytes && alignof(F) <= alignof(std::max_align_t));
    static_assert(std::is_trivially_copyable_v<F> && std::is_trivially_destructible_v<F>);
    std::memcpy(object_, &f, sizeof f);
  }

  void operator()(const KernelScope& scope) const { call_(object_, scope); }

 private:
  alignas(std::max_align_t) std::byte object_[kBytes];
  void (*call_)(const void*, const KernelScope&);
};

}  // namespace tandem
