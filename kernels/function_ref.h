// FunctionRef: a non-owning view of a callable, two pointers wide, never allocates.
// The callable must outlive the call that receives the FunctionRef.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace tandem {

template <typename Signature>
class FunctionRef;

template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> &&
           std::is_invocable_r_v<R, F&, Args...>)
      // A view, meant to bind silently; the requires-clause keeps copies of FunctionRef out of it.
      // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload)
      FunctionRef(F&& f)
      : object_(erase(std::addressof(f))), call_([](void* object, Args... args) -> R {
          // reinterpret_cast, not static_cast: F may be a function, whose address POSIX lets
          // travel in a void*.
          return (*reinterpret_cast<std::remove_reference_t<F>*>(object))(
              std::forward<Args>(args)...);
        }) {}

  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  template <typename T>
  static void* erase(T* callable) {
    if constexpr (std::is_function_v<T>) {
      return reinterpret_cast<void*>(callable);
    } else {
      return const_cast<void*>(static_cast<const void*>(callable));
    }
  }

  void* object_;
  R (*call_)(void*, Args...);
};

}  // namespace tandem
