#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/model/byte_reader.h"
#include "runtime/trace/trace_builder.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_formats.h"

namespace tandem {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxLine = 1 << 17;
constexpr int64_t kMaxToken = int64_t{1} << 53;

class LineReader {
 public:
  explicit LineReader(TraceBuilder& builder) : builder_(builder) {}

  void read(std::string_view line, bool may_be_header) {
    const Json object = parse(line);
    if (!object.is_object()) builder_.fail("expected an object, got " + tandem::quoted(line));
    if (may_be_header && !object.contains("layer_idx")) {
      read_header(object);
    } else {
      read_cell(object);
    }
  }

 private:
  Json parse(std::string_view line) const {
    try {
      return Json::parse(line);
    } catch (const Json::exception&) {
      builder_.fail("expected JSON, got " + tandem::quoted(line));
    }
  }

  int64_t integer(const Json& value, std::string_view name, int64_t least, int64_t most) const {
    const bool fits = value.is_number_unsigned()
                          ? value.get<uint64_t>() <= static_cast<uint64_t>(most)
                          : value.is_number_integer() && value.get<int64_t>() <= most;
    if (!fits || value.get<int64_t>() < least) {
      builder_.fail(fmt::format("{}: expected a whole number from {} to {}, got {}", name, least,
                                most, shown(value)));
    }
    return value.get<int64_t>();
  }

  static std::string shown(const Json& value) {
    return tandem::quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  }

  const Json& need(const Json& object, const char* name) const {
    const auto found = object.find(name);
    if (found == object.end()) builder_.fail(fmt::format("expected a key {}", name));
    return *found;
  }

  const Json& need_array(const Json& object, const char* name, int64_t most) const {
    const Json& array = need(object, name);
    if (!array.is_array() || array.size() > static_cast<size_t>(most)) {
      builder_.fail(
          fmt::format("{}: expected an array of at most {}, got {}", name, most, shown(array)));
    }
    return array;
  }

  void read_header(const Json& object) {
    TraceHeader& header = builder_.header();
    const auto count = [&](const char* name, int32_t most) {
      return static_cast<int32_t>(integer(need(object, name), name, 1, most));
    };
    header.n_experts = count("n_experts", TraceLimits::kExperts);
    if (object.contains("n_layers")) header.n_layers = count("n_layers", TraceLimits::kLayers);
    if (object.contains("top_k")) header.top_k = count("top_k", TraceLimits::kTopK);
    header.model = text(object, "model");
    header.model_hash = text(object, "model_hash");
    if (!object.contains("expert_bytes")) return;
    for (const Json& bytes : need_array(object, "expert_bytes", TraceLimits::kLayers)) {
      header.expert_bytes.push_back(integer(bytes, "expert_bytes", 1, kMaxExpertBytes));
    }
  }

  std::string text(const Json& object, const char* name) const {
    const auto found = object.find(name);
    if (found == object.end()) return "";
    if (!found->is_string()) builder_.fail(fmt::format("{}: expected text", name));
    return found->get<std::string>();
  }

  bool is_prefill(const Json& object) const {
    const auto found = object.find("phase");
    if (found == object.end()) return false;
    if (*found == "prefill" || *found == 0) return true;
    if (*found == "decode" || *found == 1) return false;
    builder_.fail(fmt::format("phase: expected \"prefill\" (or 0) or \"decode\" (or 1), got {}",
                              shown(*found)));
  }

  void read_cell(const Json& object) {
    constexpr int64_t kMaxSequence = std::numeric_limits<int32_t>::max();
    TokenKey token;
    token.index = integer(need(object, "token_idx"), "token_idx", 0, kMaxToken);
    token.sequence =
        object.contains("sequence_idx")
            ? static_cast<int32_t>(integer(object["sequence_idx"], "sequence_idx", 0, kMaxSequence))
            : 0;
    const int32_t layer = builder_.checked_layer(
        integer(need(object, "layer_idx"), "layer_idx", 0, TraceLimits::kLayers - 1));
    const Json& ids = need_array(object, "selected_ids", TraceLimits::kTopK);
    const Json& weights = need_array(object, "gate_weights", TraceLimits::kTopK);
    if (ids.size() != weights.size()) {
      builder_.fail(fmt::format("expected as many gate_weights as selected_ids ({}), got {}",
                                ids.size(), weights.size()));
    }
    std::vector<SelectedExpert> selection;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (!weights[i].is_number()) {
        builder_.fail("gate_weights: expected a number, got " + shown(weights[i]));
      }
      const int64_t id = integer(ids[i], "selected_ids", 0, TraceLimits::kExperts - 1);
      selection.push_back(builder_.checked_expert(id, weights[i].get<double>()));
    }
    builder_.add(token, is_prefill(object), layer, selection);
  }

  TraceBuilder& builder_;
};

}  // namespace

Trace parse_jsonl_trace(std::string_view text, const std::string& where) {
  TraceBuilder builder({}, where);
  LineReader reader(builder);
  int64_t number = 0;
  bool first = true;
  while (!text.empty()) {
    builder.set_line(++number);
    const std::string_view line = take_line(text, kMaxLine);
    if (line.size() > kMaxLine) builder.fail(fmt::format("longer than {} bytes", kMaxLine));
    if (line.empty()) continue;
    reader.read(line, first);
    first = false;
  }
  return builder.finish();
}

}  // namespace tandem
