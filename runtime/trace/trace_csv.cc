#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>
#include <utility>

#include "runtime/model/byte_reader.h"
#include "runtime/trace/trace_builder.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_formats.h"

namespace tandem {
namespace {

constexpr size_t kMaxLine = 1 << 16;
constexpr std::string_view kColumns = "turn,phase,step,layer,slot,expert,weight";
// Whether that access was a hit, and the bytes it moved, when the trace was recorded. Not kept.
constexpr std::string_view kMoreColumns = ",residency,expert_bytes";
constexpr size_t kNumbers = 6;  // before the weight
constexpr int64_t kMaxStep = int64_t{1} << 53;

template <typename Number>
Number parse_number(std::string_view text, std::string_view name, const TraceBuilder& builder) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    builder.fail(fmt::format("{}: expected a number, got {}", name, tandem::quoted(text)));
  }
  return value;
}

std::string_view take_until(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return part;
}

// The lines that begin with '#': words, some of them KEY=VALUE; unknown keys are somebody else's.
class CommentReader {
 public:
  explicit CommentReader(TraceBuilder& builder) : builder_(builder) {}

  void read(std::string_view line) {
    int64_t layer = -1;
    while (!line.empty()) {
      std::string_view word = take_until(line, ' ');
      if (word.find('=') == std::string_view::npos) continue;
      const std::string_view key = take_until(word, '=');
      TraceHeader& header = builder_.header();
      if (key == "model") header.model = std::string(word);
      if (key == "model_hash") header.model_hash = std::string(word);
      if (key == "n_layer") header.n_layers = count(key, word, TraceLimits::kLayers);
      if (key == "n_expert") header.n_experts = count(key, word, TraceLimits::kExperts);
      if (key == "n_expert_used") header.top_k = count(key, word, TraceLimits::kTopK);
      if (key == "layer") layer = count(key, word, TraceLimits::kLayers - 1, 0);
      if (key == "expert_bytes") add_bytes(layer, word);
    }
  }

 private:
  int32_t count(std::string_view key, std::string_view text, int64_t most, int64_t least = 1) {
    const auto value = parse_number<int64_t>(text, key, builder_);
    return static_cast<int32_t>(builder_.checked(value, key, least, most));
  }

  void add_bytes(int64_t layer, std::string_view text) {
    std::vector<int64_t>& bytes = builder_.header().expert_bytes;
    const auto n = static_cast<int64_t>(bytes.size());
    if (layer != n) builder_.fail(fmt::format("expert_bytes: expected layer {}, got {}", n, layer));
    const auto value = parse_number<int64_t>(text, "expert_bytes", builder_);
    bytes.push_back(builder_.checked(value, "expert_bytes", 1, kMaxExpertBytes));
  }

  TraceBuilder& builder_;
};

// One selected expert a row; the rows of a token in a layer stand together, by slot.
class RowReader {
 public:
  RowReader(TraceBuilder& builder, size_t n_columns) : builder_(builder), n_columns_(n_columns) {}

  void read(std::string_view line) {
    std::array<int64_t, kNumbers> row = {};
    std::string_view rest = line;
    check_columns(line);
    for (size_t i = 0; i < kNumbers; ++i) {
      row[i] = parse_number<int64_t>(take_until(rest, ','), kNames[i], builder_);
    }
    const auto [turn, phase, step, layer, slot, expert] = row;
    const auto weight = parse_number<double>(take_until(rest, ','), "weight", builder_);
    constexpr int64_t kMaxTurn = std::numeric_limits<int32_t>::max();
    const TokenKey token = {static_cast<int32_t>(builder_.checked(turn, "turn", 0, kMaxTurn)),
                            static_cast<int32_t>(builder_.checked(phase, "phase", 0, 1)),
                            builder_.checked(step, "step", 0, kMaxStep)};
    const int32_t checked_layer = builder_.checked_layer(layer);
    if (token != token_ || checked_layer != layer_) {
      flush();
      token_ = token;
      layer_ = checked_layer;
    }
    if (const auto next = static_cast<int64_t>(selection_.size()); slot != next) {
      builder_.fail(fmt::format("expected slot {}, got {}", next, slot));
    }
    if (selection_.size() == static_cast<size_t>(TraceLimits::kTopK)) {
      builder_.fail(fmt::format("expected at most {} experts of a token", TraceLimits::kTopK));
    }
    selection_.push_back(builder_.checked_expert(expert, weight));
  }

  // Hands over the rows read last.
  void flush() {
    if (selection_.empty()) return;
    builder_.add(token_, token_.part == 0, layer_, selection_);
    selection_.clear();
  }

 private:
  static constexpr std::array<std::string_view, kNumbers> kNames = {"turn",  "phase", "step",
                                                                    "layer", "slot",  "expert"};

  void check_columns(std::string_view line) const {
    size_t n = 1;
    for (const char c : line) n += c == ',' ? 1 : 0;
    if (n == n_columns_) return;
    builder_.fail(fmt::format("expected {} columns, got {}", n_columns_, n));
  }

  TraceBuilder& builder_;
  size_t n_columns_;
  TokenKey token_;
  int32_t layer_ = -1;
  std::vector<SelectedExpert> selection_;  // of token_ in layer_
};

size_t columns_of(std::string_view line, const TraceBuilder& builder) {
  if (line == kColumns) return kNumbers + 1;
  if (line == std::string(kColumns) + std::string(kMoreColumns)) return kNumbers + 3;
  builder.fail(fmt::format("expected the columns {}[{}], got {}", kColumns, kMoreColumns,
                           tandem::quoted(line)));
}

}  // namespace

Trace parse_csv_trace(std::string_view text, const std::string& where) {
  TraceBuilder builder({}, where);
  CommentReader comments(builder);
  std::optional<RowReader> rows;
  const bool ends = text.ends_with('\n');
  int64_t number = 0;
  while (!text.empty()) {
    builder.set_line(++number);
    const std::string_view line = take_line(text, kMaxLine);
    if (line.size() > kMaxLine) builder.fail(fmt::format("longer than {} bytes", kMaxLine));
    if (line.empty()) continue;
    if (rows) {
      rows->read(line);
    } else if (line.front() == '#') {
      comments.read(line.substr(1));
    } else {
      rows.emplace(builder, columns_of(line, builder));
    }
  }
  if (!ends) builder.fail("expected the last line to end (truncated?)");
  if (rows) rows->flush();
  return builder.finish();
}

}  // namespace tandem
