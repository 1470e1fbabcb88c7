// Our own format; README.md has the bytes.
#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/quant.h"
#include "runtime/model/byte_reader.h"
#include "runtime/trace/crc32.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_formats.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are stored as they are");

using Json = nlohmann::json;

constexpr uint32_t kVersion = 2;   // that is written; version 1 is read as well
constexpr size_t kHeaderKeys = 9;  // of version 2; version 1 has no lookahead
constexpr uint32_t kMaxHeaderBytes = 1 << 17;
constexpr uint64_t kStepBytes = 12;
constexpr uint64_t kChecksumBytes = 4;

// How many bytes a token takes and where its parts begin.
struct Layout {
  explicit Layout(const TraceHeader& h)
      : id_bytes(h.n_experts <= 255 ? 1 : 2),
        ids_per_layer(static_cast<uint64_t>(h.n_ranks)),
        predictions_per_layer(static_cast<uint64_t>(h.n_ahead) * static_cast<uint64_t>(h.top_k)),
        weights_at(static_cast<uint64_t>(h.n_layers) * ids_per_layer * id_bytes),
        predictions_at(weights_at + static_cast<uint64_t>(h.n_layers) * ids_per_layer * 2),
        token_bytes(predictions_at +
                    static_cast<uint64_t>(h.n_layers) * predictions_per_layer * id_bytes) {}

  // Of the layer's part within a token.
  uint64_t offset(TraceFault::Part part, int32_t layer) const {
    const auto l = static_cast<uint64_t>(layer);
    if (part == TraceFault::Part::kWeights) return weights_at + l * ids_per_layer * 2;
    if (part == TraceFault::Part::kIds) return l * ids_per_layer * id_bytes;
    return predictions_at + l * predictions_per_layer * id_bytes;
  }

  uint64_t id_bytes;
  uint64_t ids_per_layer;
  uint64_t predictions_per_layer;
  uint64_t weights_at;
  uint64_t predictions_at;
  uint64_t token_bytes;  // the limits of a header keep all of these below 2^24
};

// No expert is all ones, in one byte or two.
void append_ids(std::string& out, std::span<const int16_t> ids, uint64_t id_bytes) {
  for (const int16_t id : ids) {
    const auto wire = static_cast<uint16_t>(id);
    out.append(reinterpret_cast<const char*>(&wire), id_bytes);  // low byte first
  }
}

void append_weights(std::string& out, std::span<const float> weights) {
  for (const float weight : weights) {
    const uint16_t half = f32_to_f16(weight);
    out.append(reinterpret_cast<const char*>(&half), sizeof half);
  }
}

template <typename Number>
void append(std::string& out, Number value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string encode_head(const Trace& trace) {
  const TraceHeader& h = trace.header;
  const Json object = {{"model", h.model},        {"model_hash", h.model_hash},
                       {"layers", h.n_layers},    {"experts", h.n_experts},
                       {"top_k", h.top_k},        {"n_ranks", h.n_ranks},
                       {"n_ahead", h.n_ahead},    {"expert_bytes", h.expert_bytes},
                       {"lookahead", h.lookahead}};
  const std::string json = object.dump();
  std::string out(kTraceMagic);
  append(out, kVersion);
  append(out, static_cast<uint32_t>(json.size()));
  out += json;
  append(out, static_cast<uint64_t>(trace.steps.size()));
  append(out, static_cast<uint64_t>(trace.n_tokens()));
  for (const TraceStep& step : trace.steps) {
    append(out, static_cast<uint32_t>(step.sequence));
    append(out, static_cast<uint32_t>(step.prefill ? 0 : 1));
    append(out, static_cast<uint32_t>(step.n_tokens));
  }
  return out;
}

class BinaryReader {
 public:
  BinaryReader(std::span<const std::byte> image, const std::string& where)
      : image_(image), in_(image, where) {}

  Trace read() {
    read_magic();
    read_header();
    const std::string fault = find_header_fault(trace_.header);
    if (!fault.empty()) in_.fail("the header: " + fault);
    const Layout layout(trace_.header);
    const auto n_steps = in_.read<uint64_t>("the number of steps");
    const auto n_tokens = in_.read<uint64_t>("the number of tokens");
    check_size(n_steps, n_tokens, layout);
    check_sum();
    read_steps(n_steps, n_tokens);
    const uint64_t tokens_at = in_.position();
    read_tokens(n_tokens, layout);
    check_tokens(tokens_at, layout);
    return std::move(trace_);
  }

 private:
  void read_magic() {
    const auto magic = in_.read_bytes(kTraceMagic.size(), "the magic");
    if (magic != kTraceMagic)
      in_.fail(fmt::format("expected {}, got {}", kTraceMagic, tandem::quoted(magic)));
    version_ = in_.read<uint32_t>("the version");
    if (version_ == 1 || version_ == kVersion) return;
    in_.fail(
        fmt::format("trace version {} is not supported; expected 1 or {}", version_, kVersion));
  }

  void read_header() {
    const auto size = in_.read<uint32_t>("the size of the header");
    if (size > kMaxHeaderBytes) {
      in_.fail(fmt::format("the header: expected at most {} bytes, got {}", kMaxHeaderBytes, size));
    }
    const std::string_view text = in_.read_bytes(size, "the header");
    const Json object = Json::parse(text, nullptr, false);
    if (!object.is_object())
      in_.fail("the header: expected a JSON object, got " + tandem::quoted(text));
    size_t n_known = 0;
    for (const auto& [key, value] : object.items()) n_known += read_key(key, value) ? 1 : 0;
    const size_t n_keys = version_ == 1 ? kHeaderKeys - 1 : kHeaderKeys;
    if (n_known != object.size() || n_known != n_keys) {
      in_.fail(fmt::format("the header: expected the {} keys of version {}, got {}", n_keys,
                           version_, tandem::quoted(text)));
    }
    // Version 1 was written with reused gates and with a fitted lookahead.
    if (version_ == 1 && trace_.header.n_ahead > 0) {
      trace_.header.lookahead = LookaheadName::kUnknown;
    }
  }

  bool read_key(const std::string& key, const Json& value) {
    TraceHeader& h = trace_.header;
    if (key == "model") return read_text(key, value, h.model);
    if (key == "model_hash") return read_text(key, value, h.model_hash);
    if (key == "layers") return read_count(key, value, h.n_layers);
    if (key == "experts") return read_count(key, value, h.n_experts);
    if (key == "top_k") return read_count(key, value, h.top_k);
    if (key == "n_ranks") return read_count(key, value, h.n_ranks);
    if (key == "n_ahead") return read_count(key, value, h.n_ahead);
    if (key == "lookahead" && version_ > 1) return read_text(key, value, h.lookahead);
    if (key != "expert_bytes") return false;
    if (!value.is_array() || value.size() > static_cast<size_t>(TraceLimits::kLayers)) {
      in_.fail(fmt::format("the header: expert_bytes: expected an array of at most {}",
                           TraceLimits::kLayers));
    }
    for (const Json& bytes : value) h.expert_bytes.push_back(integer(key, bytes, kMaxExpertBytes));
    return true;
  }

  bool read_text(const std::string& key, const Json& value, std::string& text) {
    if (!value.is_string()) in_.fail(fmt::format("the header: {}: expected text", key));
    text = value.get<std::string>();
    return true;
  }

  bool read_count(const std::string& key, const Json& value, int32_t& count) {
    count = static_cast<int32_t>(integer(key, value, std::numeric_limits<int32_t>::max()));
    return true;
  }

  int64_t integer(const std::string& key, const Json& value, int64_t most) {
    if (value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(most)) {
      return value.get<int64_t>();
    }
    in_.fail(
        fmt::format("the header: {}: expected a whole number from 0 to {}, got {}", key, most,
                    tandem::quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace))));
  }

  // The counts must account for every byte that is left.
  void check_size(uint64_t n_steps, uint64_t n_tokens, const Layout& layout) {
    in_.need(n_steps, kStepBytes, "steps");
    in_.need(n_tokens, layout.token_bytes, "tokens");
    const uint64_t expected = n_steps * kStepBytes + n_tokens * layout.token_bytes + kChecksumBytes;
    if (expected == in_.remaining()) return;
    in_.fail(
        fmt::format("expected {} bytes for {} steps and {} tokens at offset {}, got {} to the "
                    "end of the file{}",
                    expected, n_steps, n_tokens, in_.position(), in_.remaining(),
                    in_.remaining() < expected ? " (truncated?)" : ""));
  }

  void check_sum() {
    const size_t at = image_.size() - kChecksumBytes;
    uint32_t expected = 0;
    std::memcpy(&expected, image_.data() + at, sizeof expected);
    const uint32_t got = crc32({reinterpret_cast<const char*>(image_.data()), at});
    if (got == expected) return;
    in_.fail(fmt::format("damaged: expected the checksum {:08x} at offset {}, got {:08x}", expected,
                         at, got));
  }

  void read_steps(uint64_t n_steps, uint64_t n_tokens) {
    constexpr uint32_t kMost = std::numeric_limits<int32_t>::max();
    trace_.steps.reserve(n_steps);
    uint64_t first_token = 0;
    uint32_t last_sequence = 0;
    for (uint64_t i = 0; i < n_steps; ++i) {
      const uint64_t at = in_.position();
      const auto sequence = in_.read<uint32_t>("a step's sequence");
      const auto phase = in_.read<uint32_t>("a step's phase");
      const auto n = in_.read<uint32_t>("a step's tokens");
      if (sequence < last_sequence || sequence > kMost || phase > 1 || n < 1 || n > kMost ||
          n > n_tokens - first_token) {
        in_.fail(
            fmt::format("step {} at offset {}: expected a sequence from {}, a phase 0 or 1 "
                        "and 1 to {} tokens, got {}, {} and {}",
                        i, at, last_sequence, n_tokens - first_token, sequence, phase, n));
      }
      trace_.steps.push_back({static_cast<int32_t>(sequence), phase == 0,
                              static_cast<int64_t>(first_token), static_cast<int32_t>(n)});
      first_token += n;
      last_sequence = sequence;
    }
    if (first_token == n_tokens && n_steps > 0) return;
    in_.fail(fmt::format("{} steps: expected {} tokens in them, got {}", n_steps,
                         std::max<uint64_t>(n_tokens, 1), first_token));
  }

  void read_tokens(uint64_t n_tokens, const Layout& layout) {
    const auto n_layers = static_cast<uint64_t>(trace_.header.n_layers);
    const uint64_t n_ids = n_layers * layout.ids_per_layer;
    const uint64_t n_predicted = n_layers * layout.predictions_per_layer;
    trace_.ids.reserve(n_tokens * n_ids);
    trace_.weights.reserve(n_tokens * n_ids);
    trace_.predicted.reserve(n_tokens * n_predicted);
    for (uint64_t token = 0; token < n_tokens; ++token) {
      read_ids(n_ids, layout.id_bytes, trace_.ids);
      for (uint64_t i = 0; i < n_ids; ++i) {
        trace_.weights.push_back(f16_to_f32(in_.read<uint16_t>("a weight")));
      }
      read_ids(n_predicted, layout.id_bytes, trace_.predicted);
    }
  }

  // 255 in one byte is -1; in two bytes -1 and all that is above the experts stand for themselves.
  void read_ids(uint64_t n, uint64_t id_bytes, std::vector<int16_t>& ids) {
    for (uint64_t i = 0; i < n; ++i) {
      if (id_bytes == 2) {
        ids.push_back(in_.read<int16_t>("an expert"));
      } else {
        const auto id = in_.read<uint8_t>("an expert");
        ids.push_back(id == 255 ? int16_t{-1} : int16_t{id});
      }
    }
  }

  void check_tokens(uint64_t tokens_at, const Layout& layout) {
    const auto fault = find_trace_fault(trace_);
    if (!fault) return;
    const uint64_t offset = tokens_at + static_cast<uint64_t>(fault->token) * layout.token_bytes +
                            layout.offset(fault->part, fault->layer);
    in_.fail(fmt::format("token {}, layer {} (offset {}): {}", fault->token, fault->layer, offset,
                         fault->what));
  }

  std::span<const std::byte> image_;
  ByteReader in_;
  uint32_t version_ = 0;
  Trace trace_;
};

}  // namespace

Trace parse_binary_trace(std::span<const std::byte> image, const std::string& where) {
  return BinaryReader(image, where).read();
}

void encode_binary_trace(const Trace& trace, const TraceSink& sink) {
  std::string out = encode_head(trace);
  uint32_t checksum = 0;
  const auto flush = [&] {
    checksum = crc32(out, checksum);
    sink(out);
    out.clear();
  };
  flush();
  const Layout layout(trace.header);
  const auto n_layers = static_cast<size_t>(trace.header.n_layers);
  const size_t n_ids = n_layers * layout.ids_per_layer;
  const size_t n_predicted = n_layers * layout.predictions_per_layer;
  constexpr size_t kPiece = 1 << 20;
  for (size_t token = 0; token < static_cast<size_t>(trace.n_tokens()); ++token) {
    append_ids(out, std::span(trace.ids).subspan(token * n_ids, n_ids), layout.id_bytes);
    append_weights(out, std::span(trace.weights).subspan(token * n_ids, n_ids));
    append_ids(out, std::span(trace.predicted).subspan(token * n_predicted, n_predicted),
               layout.id_bytes);
    if (out.size() >= kPiece) flush();
  }
  flush();
  append(out, checksum);
  sink(out);
}

}  // namespace tandem
