#include "runtime/cli/version.h"

namespace tandem {

// Both macros are defined for this file only, so that a commit compiles one file anew.
std::string version_text() { return "tandem " TANDEM_VERSION " (" TANDEM_COMMIT ")"; }
std::string_view build_commit() { return TANDEM_COMMIT; }

}  // namespace tandem
