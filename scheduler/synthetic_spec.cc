// The text form of a synthetic trace's settings, and what settings may be.
#include <array>
#include <charconv>
#include <cstdio>
#include <initializer_list>
#include <set>

#include "scheduler/synthetic_trace.h"

namespace tandem {
namespace {

using Settings = SyntheticTraceSettings;

constexpr std::string_view kPrefix = "synthetic";
constexpr int32_t kMaxCount = 1'000'000;
// Six bytes each with its weight.
constexpr double kMaxEntries = 1 << 30;

struct IntegerKey {
  std::string_view name;
  int32_t Settings::*field;
  int32_t least;
  int32_t most;
};

constexpr std::array kIntegers = {
    IntegerKey{"layers", &Settings::n_layers, 1, TraceLimits::kLayers},
    IntegerKey{"experts", &Settings::n_experts, 1, TraceLimits::kExperts},
    IntegerKey{"top_k", &Settings::top_k, 1, TraceLimits::kTopK},
    IntegerKey{"ranks", &Settings::n_ranks, 0, TraceLimits::kRanks},
    IntegerKey{"sequences", &Settings::n_sequences, 1, kMaxCount},
    IntegerKey{"prompt", &Settings::n_prompt, 0, kMaxCount},
    IntegerKey{"decode", &Settings::n_decode, 0, kMaxCount},
    IntegerKey{"ahead", &Settings::n_ahead, 0, TraceLimits::kAhead},
};

struct NumberKey {
  std::string_view name;
  double Settings::*field;
  double least;
  double most;
};

constexpr std::array kNumbers = {
    NumberKey{"skew", &Settings::skew, 0.0, 4.0},
    NumberKey{"topic", &Settings::topic, 0.0, 4.0},
    NumberKey{"reuse", &Settings::reuse, 0.0, 1.0},
    NumberKey{"memory", &Settings::memory, 0.0, 0.9999},
    NumberKey{"sharpness", &Settings::sharpness, 0.01, 100.0},
    NumberKey{"predict", &Settings::predictability, 0.0, 1.0},
};

// Fitted to published hit rates; README.md has the residuals. The shares predicted are published
// ones of gate reuse.
struct Preset {
  std::string_view name;
  int32_t n_layers;
  int32_t n_experts;
  int32_t top_k;
  double skew;
  double topic;
  double reuse;
  double memory;
  double sharpness;
  double predictability;
};

constexpr std::array kPresets = {
    Preset{"mixtral", 32, 8, 2, 0.25, 0.12, 0.1, 0.7, 1.0, 0.866},
    Preset{"deepseek-v2-lite", 26, 64, 6, 0.435, 0.3, 0.1, 0.9, 2.0, 0.788},
    Preset{"qwen2-57b", 28, 64, 8, 0.44, 0.3, 0.1, 0.9, 1.5, 0.669},
};

bool apply_preset(std::string_view name, Settings& s) {
  for (const Preset& p : kPresets) {
    if (p.name != name) continue;
    s.model = std::string(name);
    s.n_layers = p.n_layers;
    s.n_experts = p.n_experts;
    s.top_k = p.top_k;
    s.n_ranks = 0;
    s.skew = p.skew;
    s.topic = p.topic;
    s.reuse = p.reuse;
    s.memory = p.memory;
    s.sharpness = p.sharpness;
    s.predictability = p.predictability;
    return true;
  }
  return false;
}

std::string join(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text += part;
  return text;
}

std::string number(double x) {
  std::array<char, 32> text = {};
  static_cast<void>(std::snprintf(text.data(), text.size(), "%.10g", x));
  return text.data();
}

template <typename Key>
std::string out_of_range(const Key& key, std::string_view got) {
  return join(
      {key.name, ": expected ", number(key.least), " to ", number(key.most), ", got ", got});
}

// Reads all of the text as a number from least to most.
template <typename Number>
bool read_number(std::string_view text, double least, double most, Number& value) {
  Number read{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), read);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  const auto x = static_cast<double>(read);
  if (!(x >= least && x <= most)) return false;  // NaN is in no range
  value = read;
  return true;
}

template <typename Number, typename Key>
std::string set_number(std::string_view text, const Key& key, Settings& s) {
  return read_number<Number>(text, key.least, key.most, s.*key.field) ? ""
                                                                      : out_of_range(key, text);
}

std::string known_names() {
  std::string names;
  for (const IntegerKey& key : kIntegers) names += join({key.name, ", "});
  for (const NumberKey& key : kNumbers) names += join({key.name, ", "});
  names += "seed, or first a preset:";
  for (const Preset& preset : kPresets) names += join({" ", preset.name});
  return names;
}

std::string set_key(std::string_view name, std::string_view text, Settings& s) {
  for (const IntegerKey& key : kIntegers) {
    if (key.name == name) return set_number<int32_t>(text, key, s);
  }
  for (const NumberKey& key : kNumbers) {
    if (key.name == name) return set_number<double>(text, key, s);
  }
  if (name == "seed") {
    if (read_number<uint64_t>(text, 0.0, 0x1p64, s.seed)) return "";
    return join({"seed: expected a number of 64 bits, got ", text});
  }
  return join({"unknown key ", name, "; expected one of ", known_names()});
}

std::string parse_items(std::string_view items, Settings& s) {
  std::set<std::string_view> seen;
  size_t comma = 0;
  for (bool first = true; comma != std::string_view::npos; first = false) {
    comma = items.find(',');
    const std::string_view item = items.substr(0, comma);
    if (comma != std::string_view::npos) items.remove_prefix(comma + 1);
    if (first && apply_preset(item, s)) continue;
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos) {
      return join({"expected KEY=VALUE, got \"", item, "\"; the keys are ", known_names()});
    }
    const std::string_view key = item.substr(0, equals);
    if (!seen.insert(key).second) return join({key, " is given twice"});
    std::string fault = set_key(key, item.substr(equals + 1), s);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace

bool is_synthetic_trace(std::string_view spec) {
  return spec.substr(0, kPrefix.size()) == kPrefix &&
         (spec.size() == kPrefix.size() || spec[kPrefix.size()] == ':');
}

std::string parse_synthetic_trace(std::string_view spec, SyntheticTraceSettings& settings) {
  if (!is_synthetic_trace(spec)) {
    return join({"a synthetic trace: expected synthetic:…, got ", spec});
  }
  SyntheticTraceSettings read = settings;
  std::string fault;
  if (spec.size() > kPrefix.size()) fault = parse_items(spec.substr(kPrefix.size() + 1), read);
  if (fault.empty()) fault = check_synthetic_trace(read);
  if (!fault.empty()) return join({spec, ": ", fault});
  settings = read;
  return "";
}

std::string check_synthetic_trace(const SyntheticTraceSettings& s) {
  for (const IntegerKey& key : kIntegers) {
    const int32_t value = s.*key.field;
    if (value < key.least || value > key.most) return out_of_range(key, std::to_string(value));
  }
  for (const NumberKey& key : kNumbers) {
    const double value = s.*key.field;
    if (!(value >= key.least && value <= key.most)) return out_of_range(key, number(value));
  }
  if (s.top_k > s.n_experts) {
    return join({"top_k: expected at most the ", std::to_string(s.n_experts), " experts, got ",
                 std::to_string(s.top_k)});
  }
  if (s.n_ranks != 0 && (s.n_ranks < s.top_k || s.n_ranks > s.n_experts)) {
    return join({"ranks: expected top_k to experts (", std::to_string(s.top_k), " to ",
                 std::to_string(s.n_experts), "), got ", std::to_string(s.n_ranks)});
  }
  if (s.n_prompt + s.n_decode == 0) return "expected tokens: prompt and decode are both 0";
  const double per_cell = (s.n_ranks > 0 ? s.n_ranks : 2 * s.top_k) + s.n_ahead * s.top_k;
  const double n_entries =
      per_cell * s.n_layers * s.n_sequences * (static_cast<double>(s.n_prompt) + s.n_decode);
  if (n_entries > kMaxEntries) {
    return join({"expected at most 2^30 entries (tokens x layers x ranks and predictions), got ",
                 number(n_entries)});
  }
  return "";
}

}  // namespace tandem
