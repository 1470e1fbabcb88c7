#include "runtime/text/sentencepiece.h"

#include <algorithm>
#include <cstdint>

#include "runtime/text/utf8.h"

namespace tandem {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr size_t kEnd = SIZE_MAX;

}  // namespace

struct SentencePieceEncoder::Work {
  struct Node {  // a part of text; size 0 when merged away
    size_t begin;
    size_t size;
    size_t previous;
    size_t next;
  };
  struct Pair {  // a merge that was possible when it was pushed
    double score;
    size_t left;  // of equal scores the leftmost goes first
    size_t size;  // of both parts; tells whether either has changed
    bool operator<(const Pair& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::string text;
  std::vector<Node> nodes;
  std::vector<Pair> heap;  // largest first

  std::string_view part(size_t begin, size_t size) const {
    return std::string_view(text).substr(begin, size);
  }
};

SentencePieceEncoder::SentencePieceEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    longest_piece_ = std::max(longest_piece_, vocabulary.text(id).size());
  }
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    byte_tokens_[byte] = vocabulary.find_byte(static_cast<uint8_t>(byte));
  }
}

std::optional<TokenId> SentencePieceEncoder::find_piece(std::string_view text) const {
  if (text.size() > longest_piece_) return std::nullopt;
  const std::optional<TokenId> id = vocabulary_.find(text);
  // What a user types must never turn into a control token, nor "<0x41>" into the letter A.
  const bool is_text =
      id && !vocabulary_.is_special(*id) && vocabulary_.type(*id) != TokenType::kByte;
  return is_text ? id : std::nullopt;
}

void SentencePieceEncoder::push_pair(Work& work, size_t left) const {
  if (left == kEnd || work.nodes[left].next == kEnd) return;
  const Work::Node& node = work.nodes[left];
  const size_t size = node.size + work.nodes[node.next].size;
  const std::optional<TokenId> id = find_piece(work.part(node.begin, size));
  if (!id) return;
  work.heap.push_back({vocabulary_.score(*id), left, size});
  std::push_heap(work.heap.begin(), work.heap.end());
}

void SentencePieceEncoder::merge_all(Work& work) const {
  std::vector<Work::Node>& nodes = work.nodes;
  for (size_t i = 0; i < nodes.size(); ++i) push_pair(work, i);
  // Each merge takes one node away and pushes two pairs at most: O(n log n) for n characters.
  while (!work.heap.empty()) {
    std::pop_heap(work.heap.begin(), work.heap.end());
    const Work::Pair pair = work.heap.back();
    work.heap.pop_back();
    Work::Node& left = nodes[pair.left];
    if (left.size == 0 || left.next == kEnd) continue;
    Work::Node& right = nodes[left.next];
    if (left.size + right.size != pair.size) continue;

    left.size = pair.size;
    left.next = right.next;
    right.size = 0;
    if (left.next != kEnd) nodes[left.next].previous = pair.left;
    push_pair(work, left.previous);
    push_pair(work, pair.left);
  }
}

void SentencePieceEncoder::encode(std::string_view text, bool space_prefix,
                                  std::optional<TokenId> unknown, std::vector<TokenId>& ids) const {
  Work work;
  if (space_prefix) work.text = kSpaceMark;
  work.text += escape_spaces(text);
  for (size_t at = 0; at < work.text.size();) {
    const size_t size = decode_utf8(work.text, at).size;
    const size_t i = work.nodes.size();
    work.nodes.push_back(
        {at, size, i == 0 ? kEnd : i - 1, at + size == work.text.size() ? kEnd : i + 1});
    at += size;
  }
  merge_all(work);

  bool after_unknown = false;
  for (const Work::Node& node : work.nodes) {
    if (node.size == 0) continue;
    const std::string_view part = work.part(node.begin, node.size);
    if (const std::optional<TokenId> id = find_piece(part)) {
      ids.push_back(*id);
      after_unknown = false;
      continue;
    }
    const bool has_bytes = std::all_of(part.begin(), part.end(), [this](char c) {
      return byte_tokens_[static_cast<uint8_t>(c)].has_value();
    });
    if (has_bytes) {
      for (const char c : part) ids.push_back(*byte_tokens_[static_cast<uint8_t>(c)]);
    } else if (unknown && !after_unknown) {
      ids.push_back(*unknown);
    }
    after_unknown = !has_bytes;
  }
}

std::string escape_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (const char c : text) {
    if (c == ' ') {
      out += kSpaceMark;
    } else {
      out += c;
    }
  }
  return out;
}

std::string unescape_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const bool is_mark = text.substr(at).starts_with(kSpaceMark);
    out += is_mark ? ' ' : text[at];
    at += is_mark ? kSpaceMark.size() : 1;
  }
  return out;
}

}  // namespace tandem
