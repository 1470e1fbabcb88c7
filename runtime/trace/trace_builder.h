// Collects a trace from text, where tokens and layers come in any of several orders and sizes may
// only be known at the end. Used by one thread; throws FileErrors that name the line.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/trace.h"

namespace tandem {

// Where a token stands: tokens are ordered by these three, sequences and parts apart.
struct TokenKey {
  int32_t sequence = -1;
  int32_t part = 0;  // of the sequence: each counts its tokens anew
  int64_t index = 0;
  constexpr auto operator<=>(const TokenKey&) const = default;
};

struct SelectedExpert {
  int16_t expert = 0;
  float weight = 0.0F;
};

class TraceBuilder {
 public:
  // What is 0 in the header is found out from what is added. `where` opens every message and
  // outlives this.
  TraceBuilder(TraceHeader header, const std::string& where);

  TraceHeader& header() { return header_; }

  // FileErrors of the line being read, and checked numbers of it.
  void set_line(int64_t line) { line_ = line; }
  [[noreturn]] void fail(const std::string& what) const;
  int64_t checked(int64_t value, std::string_view name, int64_t least, int64_t most) const;
  SelectedExpert checked_expert(int64_t expert, double weight) const;
  int32_t checked_layer(int64_t layer) const;

  // What a token selected in a layer, in any order. In each layer, tokens come in order.
  void add(const TokenKey& token, bool prefill, int32_t layer,
           std::vector<SelectedExpert>& selection);

  // Consecutive prefill tokens of a part become one step, every other token one of its own.
  Trace finish();

 private:
  struct Cell {  // its experts follow those of the cell before
    TokenKey token;
    int32_t layer;
    int32_t n_experts;
  };
  struct Token {
    TokenKey key;
    bool prefill;
    int64_t line;  // that named it first
  };

  void complete_header();
  void sort_tokens();
  void add_steps(Trace& trace) const;
  void fill(Trace& trace) const;
  size_t row_of(const TokenKey& key) const;

  TraceHeader header_;
  const std::string& where_;
  int64_t line_ = 0;
  std::vector<Cell> cells_;
  std::vector<SelectedExpert> experts_;
  std::vector<Token> tokens_;   // repeated until sort_tokens()
  std::vector<TokenKey> last_;  // [layers seen]
  int32_t largest_expert_ = -1;
  int32_t longest_selection_ = 0;
};

}  // namespace tandem
