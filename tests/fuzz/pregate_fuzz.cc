// libFuzzer target: whatever the bytes, the readers of side-cars, of fitted lookaheads and of
// decoupled routers, end in a FileError or in something that comes back from its file; such a
// router reads a text. README.md says how to run it.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/pregate/decoupled_file.h"
#include "runtime/pregate/decoupled_router.h"
#include "runtime/pregate/pregate_file.h"

namespace tandem {
namespace {

void check(const Pregate& pregate) {
  const std::string image = pregate_bytes(pregate);
  const Pregate again = parse_pregate(std::as_bytes(std::span(image)), "again");
  TANDEM_CHECK(again.links.size() == pregate.links.size() && pregate_bytes(again) == image, "%s",
               "another lookahead came back");
  if (!pregate.tables) return;
  // Whatever it holds, what it says can be asked for.
  const ExpertTables& tables = *pregate.tables;
  std::vector<float> use(static_cast<size_t>(tables.n_experts));
  for (size_t layer = 0; layer < tables.hot.size(); ++layer) {
    for (int64_t row = -1; row < std::ssize(tables.tokens.ids); ++row) {
      token_use(tables, static_cast<int32_t>(layer), row, use);
    }
  }
}

void check(const DecoupledRouter& router) {
  const std::string image = decoupled_bytes(router);
  const DecoupledRouter again = parse_decoupled(std::as_bytes(std::span(image)), "again");
  TANDEM_CHECK(again.shape == router.shape && decoupled_bytes(again) == image, "%s",
               "another router came back");
  DecoupledState state(router, 3, 2);
  const std::array<int32_t, 2> tokens{0, router.shape.n_vocab - 1};
  state.append(tokens);
  state.append(std::span(tokens).first(1));
}

template <typename Read>
void probe(const Read& read) {
  try {
    read();
  } catch (const FileError& error) {
    const std::string_view message = error.what();
    TANDEM_CHECK(message.find('\n') == std::string_view::npos, "%s", error.what());
    TANDEM_CHECK(message.substr(0, 4) == "fuzz", "%s", error.what());
  }
}

void probe_all(std::span<const std::byte> image) {
  probe([&] { pregate_kind(image, "fuzz"); });
  probe([&] { check(parse_pregate(image, "fuzz")); });
  probe([&] { check(parse_decoupled(image, "fuzz")); });
}

}  // namespace
}  // namespace tandem

// NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly this size, so that the sanitizer sees a read past either end.
  const auto copy = std::make_unique<std::byte[]>(size);
  if (size > 0) std::memcpy(copy.get(), data, size);
  tandem::probe_all({copy.get(), size});
  return 0;
}
