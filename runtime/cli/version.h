// What was built, for --version and bench rows.
#pragma once

#include <string>

namespace tandem {

#ifndef TANDEM_VERSION
#define TANDEM_VERSION "unknown"
#endif
#ifndef TANDEM_COMMIT
#define TANDEM_COMMIT "unknown"
#endif

inline std::string version_text() {
  return std::string("tandem ") + TANDEM_VERSION + " (" + TANDEM_COMMIT + ")";
}

}  // namespace tandem
