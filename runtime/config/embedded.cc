#include "runtime/config/embedded.h"

// TANDEM_EMBED(symbol, path): the file's bytes as symbol_begin … symbol_end.
#define TANDEM_EMBED(symbol, path)                  \
  asm(".section .rodata\n"                          \
      ".global " #symbol "_begin\n.global " #symbol \
      "_end\n"                                      \
      ".balign 64\n" #symbol                        \
      "_begin:\n"                                   \
      ".incbin \"" path "\"\n" #symbol              \
      "_end:\n"                                     \
      ".byte 0\n.previous\n");                      \
  extern "C" const char symbol##_begin[];           \
  extern "C" const char symbol##_end[];

// The lists below are CMake's; see CMakeLists.txt beside this file.
#include "embedded_files.inc"

namespace tandem {
namespace {

std::string_view text(const char* begin, const char* end) {
  return {begin, static_cast<size_t>(end - begin)};
}

}  // namespace

std::span<const std::byte> embedded_model() {
  return std::as_bytes(std::span(tandem_demo_model_begin, tandem_demo_model_end));
}

std::span<const std::byte> embedded_pregate() {
  return std::as_bytes(std::span(tandem_demo_pregate_begin, tandem_demo_pregate_end));
}

std::span<const EmbeddedFile> embedded_machines() {
  static const EmbeddedFile kMachines[] = {TANDEM_EMBEDDED_MACHINES};
  return kMachines;
}

std::span<const EmbeddedFile> embedded_policies() {
  static const EmbeddedFile kPolicies[] = {TANDEM_EMBEDDED_POLICIES};
  return kPolicies;
}

std::span<const EmbeddedFile> embedded_shapes() {
  static const EmbeddedFile kShapes[] = {TANDEM_EMBEDDED_SHAPES};
  return kShapes;
}

}  // namespace tandem
