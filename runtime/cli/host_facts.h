// What reports say of the machine and the time.
#pragma once

#include <string>

namespace tandem {

std::string cpu_name();   // as the system calls it; "unknown CPU"
std::string timestamp();  // now, "2026-01-31T23:59:59Z"

}  // namespace tandem
