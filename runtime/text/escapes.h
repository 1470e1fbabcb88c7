// Backslash escapes in text given on the command line.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// \n \r \t \' \" \\ and \xHH become their characters; anything else stays as it stands.
std::string process_escapes(std::string_view text);

}  // namespace tandem
