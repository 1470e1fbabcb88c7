#include "runtime/text/regex_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime/error.h"

namespace tandem {
namespace {

// Backtracking steps and memory that one match may take before PCRE2 gives up. The patterns back
// off at most once along a run of characters, so a match of n characters stays below about 2n.
constexpr uint32_t kMatchLimit = 1U << 30;
constexpr uint32_t kHeapLimitKib = 256U << 10;

template <auto free_function>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    free_function(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;

std::string describe(int code) {
  PCRE2_UCHAR message[256];
  if (pcre2_get_error_message(code, message, sizeof(message)) < 0) return fmt::format("{}", code);
  return reinterpret_cast<const char*>(message);
}

// Unicode's White_Space, inside a class.
constexpr std::string_view kSpaces = R"(\p{Z}\t-\r\x{85})";

// PCRE2's own \s also takes U+180E, which has not been White_Space since Unicode 6.3.
std::string with_unicode_spaces(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out += c;
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += in_class ? std::string(kSpaces) : fmt::format("[{}]", kSpaces);
    } else if (escaped == 'S' && !in_class) {
      out += fmt::format("[^{}]", kSpaces);
    } else {
      out += c;
      out += escaped;
    }
  }
  return out;
}

}  // namespace

struct RegexSplitter::Impl {
  Code code;
  MatchContext context;

  // Finds the next match at or after `from`; false when there is none.
  bool find(std::string_view text, size_t from, pcre2_match_data* match) const {
    const auto run = [&](uint32_t options) {
      return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         options, match, context.get());
    };
    int rc = run(PCRE2_NO_UTF_CHECK);
    // The interpreter keeps its state on the heap, so it can go on where compiled code cannot.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) {
      throw Error(
          fmt::format("cannot tokenize: expected the pre-tokenizer to split {} bytes, got "
                      "\"{}\" at byte {}",
                      text.size(), describe(rc), from));
    }
    return true;
  }
};

RegexSplitter::RegexSplitter(std::string_view pattern) : impl_(std::make_unique<Impl>()) {
  const std::string source = with_unicode_spaces(pattern);
  int error = 0;
  PCRE2_SIZE where = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(),
                                  PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr));
  if (impl_->code == nullptr) {
    throw Error(
        fmt::format("pre-tokenizer pattern {}: {} at byte {}", source, describe(error), where));
  }
  impl_->context.reset(pcre2_match_context_create(nullptr));
  if (impl_->context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(impl_->context.get(), kMatchLimit);
  pcre2_set_heap_limit(impl_->context.get(), kHeapLimitKib);
  // Where there is no JIT the interpreter gives the same matches.
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}

RegexSplitter::RegexSplitter(RegexSplitter&&) noexcept = default;
RegexSplitter& RegexSplitter::operator=(RegexSplitter&&) noexcept = default;
RegexSplitter::~RegexSplitter() = default;

void RegexSplitter::split(std::string_view text, std::vector<std::string_view>& parts) const {
  const MatchData match(pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  if (match == nullptr) throw std::bad_alloc();
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
  size_t at = 0;
  while (at < text.size() && impl_->find(text, at, match.get())) {
    const size_t begin = bounds[0];
    const size_t end = bounds[1];
    if (end <= begin) break;  // no pattern of ours matches nothing
    if (begin > at) parts.push_back(text.substr(at, begin - at));
    parts.push_back(text.substr(begin, end - begin));
    at = end;
  }
  if (at < text.size()) parts.push_back(text.substr(at));
}

}  // namespace tandem
