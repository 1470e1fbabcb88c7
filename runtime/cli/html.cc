#include "runtime/cli/html.h"

#include <vector>

#include "runtime/cli/text_io.h"
#include "runtime/text/utf8.h"

namespace tandem {

std::string escape_html(std::string_view raw) {
  const std::string text = printable(raw);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const bool is_text = c.valid && (c.code & 0xfffe) != 0xfffe;  // XML knows no U+FFFE
    switch (is_text ? c.code : U'\ufffd') {
      case U'&':
        out += "&amp;";
        break;
      case U'<':
        out += "&lt;";
        break;
      case U'>':
        out += "&gt;";
        break;
      case U'"':
        out += "&quot;";
        break;
      case U'\'':
        out += "&#39;";
        break;
      case U'\ufffd':
        out += "\xef\xbf\xbd";
        break;
      default:
        out.append(text, at, c.size);
    }
    at += c.size;
  }
  return out;
}

std::string clip_text(std::string_view text, size_t most) {
  std::vector<size_t> starts;
  for (size_t at = 0; at < text.size(); at += decode_utf8(text, at).size) starts.push_back(at);
  if (starts.size() <= most || most == 0) return std::string(text);
  return std::string(text.substr(0, starts[most - 1])) + "…";
}

// Colours after Okabe and Ito, "Color Universal Design" (2008), the dark page's lightened.
std::string_view page_style() {
  return R"(<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --rule: #d8dde3;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b8588e; --c4: #d08f00; --c5: #4aa3d8; --c6: #6b5b4b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ed; --soft: #9aa4af; --rule: #363d46;
  --c0: #5c9dff; --c1: #ff8243; --c2: #2cc79a; --c3: #e08fbd; --c4: #f0b429; --c5: #8fd3ff; --c6: #c9b8a4; } }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .875rem; white-space: pre-wrap; }
.note { color: var(--soft); max-width: 46rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-size: .875rem; }
.grid svg { width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; font-size: .875rem; }
.legend svg { vertical-align: middle; margin-right: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; white-space: nowrap; overflow-wrap: normal; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: left; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .strong { fill: var(--ink); font-weight: 600; }
.e { text-anchor: end; } .m { text-anchor: middle; }
.line { fill: none; stroke-width: 2; } .dot { stroke-width: 1.5; }
.rule { stroke: var(--rule); stroke-width: 1; }
.ref { stroke: var(--soft); } .fref { fill: none; stroke: var(--soft); }
.dash { stroke-dasharray: 7 4; } .fine { stroke-dasharray: 2 3; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); } .c6 { stroke: var(--c6); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); }
</style>
)";
}

}  // namespace tandem
