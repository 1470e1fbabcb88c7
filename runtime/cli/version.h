// What was built, for --version and bench rows.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

std::string version_text();       // "tandem 0.1.0 (3fd72ce)"
std::string_view build_commit();  // "unknown" outside a git checkout

}  // namespace tandem
