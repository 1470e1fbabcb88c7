#include "runtime/text/byte_pair.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/gguf_file.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/utf8.h"

namespace tandem {
namespace {

constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr size_t kEnd = SIZE_MAX;

uint64_t pair_key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

}  // namespace

struct BytePairEncoder::Work {
  struct Node {  // a symbol of the word; a merged-away one is kNone
    Symbol symbol;
    size_t previous;
    size_t next;
  };
  struct Pair {  // a merge that was possible when it was pushed
    uint32_t rank;
    size_t left;  // of equal ranks the leftmost goes first
    Symbol left_symbol;
    Symbol right_symbol;
    bool operator>(const Pair& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };
  std::vector<Node> nodes;
  std::vector<Pair> heap;  // smallest first
};

BytePairEncoder::BytePairEncoder(const GgufFile& file, const Vocabulary& vocabulary,
                                 Pretokenizer pretokenizer)
    : vocabulary_(vocabulary), pretokenizer_(std::move(pretokenizer)) {
  const std::vector<std::string_view>* merges = file.get_string_array(kMergesKey);
  if (merges == nullptr) {
    throw FileError(
        file.name(),
        fmt::format("{}: expected the merges of a byte-pair vocabulary, got no such key",
                    kMergesKey));
  }
  for (size_t byte = 0; byte < byte_symbols_.size(); ++byte) {
    byte_symbols_[byte] = symbol_of(byte_alphabet()[byte]);
  }
  merges_.reserve(merges->size());
  uint32_t rank = 0;
  for (const std::string_view merge : *merges) add_merge(file, merge, rank++);
}

BytePairEncoder::Symbol BytePairEncoder::symbol_of(std::string_view text) {
  // What a user types must never turn into a control token, so merges cannot lead to one.
  const std::optional<TokenId> id = vocabulary_.find(text);
  if (id && !vocabulary_.is_special(*id)) return static_cast<Symbol>(*id);
  const auto next =
      static_cast<Symbol>(static_cast<size_t>(vocabulary_.size()) + extra_texts_.size());
  const auto [it, is_new] = extra_by_text_.emplace(text, next);
  if (is_new) extra_texts_.emplace_back(text);
  return it->second;
}

void BytePairEncoder::add_merge(const GgufFile& file, std::string_view text, uint32_t rank) {
  // The search starts at 1: a first part that is itself a space is kept.
  const size_t space = text.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == text.size()) {
    throw FileError(file.name(), fmt::format("{}[{}]: expected \"left right\", got {}", kMergesKey,
                                             rank, quoted(text)));
  }
  const std::string_view left = text.substr(0, space);
  const std::string_view right = text.substr(space + 1);
  const Symbol result = symbol_of(std::string(left).append(right));
  merges_.emplace(pair_key(symbol_of(left), symbol_of(right)), Merge{rank, result});
}

void BytePairEncoder::encode(std::string_view text, std::optional<TokenId> unknown,
                             std::vector<TokenId>& ids) const {
  Work work;
  for (const std::string_view word : pretokenizer_.split(text)) {
    encode_word(word, unknown, work, ids);
  }
}

void BytePairEncoder::encode_word(std::string_view word, std::optional<TokenId> unknown, Work& work,
                                  std::vector<TokenId>& ids) const {
  if (pretokenizer_.ignores_merges()) {
    const std::optional<TokenId> whole = vocabulary_.find(bytes_to_alphabet(word));
    if (whole && !vocabulary_.is_special(*whole)) {
      ids.push_back(*whole);
      return;
    }
  }
  work.nodes.clear();
  for (size_t i = 0; i < word.size(); ++i) {
    work.nodes.push_back({byte_symbols_[static_cast<uint8_t>(word[i])], i == 0 ? kEnd : i - 1,
                          i + 1 == word.size() ? kEnd : i + 1});
  }
  merge_all(work);
  for (const Work::Node& node : work.nodes) {
    if (node.symbol != kNone) emit(node.symbol, unknown, ids);
  }
}

void BytePairEncoder::push_pair(Work& work, size_t left) const {
  if (left == kEnd || work.nodes[left].next == kEnd) return;
  const Symbol left_symbol = work.nodes[left].symbol;
  const Symbol right_symbol = work.nodes[work.nodes[left].next].symbol;
  const auto merge = merges_.find(pair_key(left_symbol, right_symbol));
  if (merge == merges_.end()) return;
  work.heap.push_back({merge->second.rank, left, left_symbol, right_symbol});
  std::push_heap(work.heap.begin(), work.heap.end(), std::greater<>());
}

void BytePairEncoder::merge_all(Work& work) const {
  std::vector<Work::Node>& nodes = work.nodes;
  work.heap.clear();
  for (size_t i = 0; i < nodes.size(); ++i) push_pair(work, i);
  // Each merge takes one node away and pushes two pairs at most: O(n log n) for n bytes.
  while (!work.heap.empty()) {
    std::pop_heap(work.heap.begin(), work.heap.end(), std::greater<>());
    const Work::Pair pair = work.heap.back();
    work.heap.pop_back();
    Work::Node& left = nodes[pair.left];
    if (left.symbol != pair.left_symbol || left.next == kEnd) continue;
    Work::Node& right = nodes[left.next];
    if (right.symbol != pair.right_symbol) continue;

    left.symbol = merges_.find(pair_key(pair.left_symbol, pair.right_symbol))->second.result;
    left.next = right.next;
    right.symbol = kNone;
    if (left.next != kEnd) nodes[left.next].previous = pair.left;
    push_pair(work, left.previous);
    push_pair(work, pair.left);
  }
}

void BytePairEncoder::emit(Symbol symbol, std::optional<TokenId> unknown,
                           std::vector<TokenId>& ids) const {
  const auto n_vocab = static_cast<Symbol>(vocabulary_.size());
  if (symbol < n_vocab) {
    ids.push_back(static_cast<TokenId>(symbol));
    return;
  }
  // A merge's result that is no token: its characters, each of which stands for one byte.
  const std::string_view text = extra_texts_[symbol - n_vocab];
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const std::optional<TokenId> id = vocabulary_.find(text.substr(at, c.size));
    if (id && !vocabulary_.is_special(*id)) {
      ids.push_back(*id);
    } else if (unknown) {
      ids.push_back(*unknown);
    }
    at += c.size;
  }
}

}  // namespace tandem
