// Text that can stand in HTML and SVG, and the colours and style of our pages. Pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem {

// For element text and for attributes in double quotes, whatever the text holds. Control
// characters become "?", bytes that are not UTF-8 U+FFFD.
std::string escape_html(std::string_view text);

// At most so many characters, the last one an ellipsis where text is left out. Not escaped.
std::string clip_text(std::string_view text, size_t most);

// Classes c0 … c6: colours that colour-blind readers can tell apart, as `stroke`, and f0 … f6 as
// `fill`; for light and dark pages.
inline constexpr size_t kColours = 7;
// The <style> element of a page; sets everything that our SVGs refer to.
std::string_view page_style();

}  // namespace tandem
