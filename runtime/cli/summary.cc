#include "runtime/cli/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "runtime/cli/sampling_options.h"
#include "runtime/cli/text_io.h"
#include "runtime/words.h"
#include "scheduler/predictor.h"

namespace tandem {
namespace {

std::string setting_line(const EffectiveSetting& setting) {
  std::string line = fmt::format("  {:<13} {}", setting.name, setting.effective);
  if (setting.effective != setting.requested) {
    line += fmt::format(" (requested {})", setting.requested);
  }
  if (!setting.reason.empty()) line += ": " + setting.reason;
  return printable(line) + "\n";
}

std::string file_size_text(const Engine& engine) {
  return bytes_text(static_cast<int64_t>(engine.model().file().file_bytes()));
}

std::string cache_text(const CacheStats& cache) {
  const uint64_t lookups = cache.hits + cache.misses;
  if (lookups == 0) return "not asked";
  return fmt::format("{} hits, {} misses ({:.1f} % hits), {} loaded, {} evicted", cache.hits,
                     cache.misses,
                     100.0 * static_cast<double>(cache.hits) / static_cast<double>(lookups),
                     cache.inserts, cache.evictions);
}

std::string prefetch_text(const TransferStats& sent) {
  if (sent.started == 0) return "nothing was sent";
  const double bytes = static_cast<double>(std::max<int64_t>(1, sent.bytes));
  return fmt::format(
      "{} experts begun, {} used on time, {} late, {} lost unused; {:.0f} % of {} wasted",
      sent.started, sent.on_time, sent.late, sent.unused,
      100 * static_cast<double>(sent.wasted_bytes) / bytes, bytes_text(sent.bytes));
}

// Where others than the lookahead were believed: which, and how often.
std::string believed_text(const Predictor* predictor, int32_t n_distances) {
  std::string text;
  for (int32_t d = 1; predictor != nullptr && d <= n_distances; ++d) {
    const std::vector<PredictorRung> rungs = predictor->rungs(d);
    int64_t layers = 0;
    for (const PredictorRung& rung : rungs) layers += rung.layers_trusted;
    for (const PredictorRung& rung : std::span(rungs).subspan(std::min<size_t>(1, rungs.size()))) {
      if (rung.layers_trusted == 0) continue;
      text +=
          fmt::format("; {} believed at {} for {:.0f} % of layers", rung.name, d,
                      100 * static_cast<double>(rung.layers_trusted) / static_cast<double>(layers));
    }
  }
  return text;
}

nlohmann::ordered_json believed_json(const Predictor* predictor, int32_t distance) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (predictor == nullptr) return json;
  for (const PredictorRung& rung : predictor->rungs(distance)) {
    json[rung.name] = {{"score", rung.score}, {"layers", rung.layers_trusted}};
  }
  return json;
}

std::string lookahead_text(const LookaheadScores& scores) {
  std::string text;
  for (int32_t d = 1; d <= scores.n_distances(); ++d) {
    const LookaheadScore score = scores.of(d);
    if (score.tokens == 0) continue;
    text += fmt::format("{}{:.3f} at {}", text.empty() ? "recall " : ", ", score.recall, d);
  }
  std::string next;
  for (int32_t d = 1; d <= scores.n_distances(); ++d) {
    const LookaheadScore score = scores.of_next_token(d);
    if (score.tokens == 0) continue;
    next += fmt::format("{} {:.3f} at {}, {} times", next.empty() ? "" : ";", score.recall, d,
                        score.tokens);
  }
  if (!next.empty()) text += fmt::format("; of the next token{}", next);
  return text.empty() ? "no token was decoded behind another layer" : text;
}

nlohmann::ordered_json score_json(const LookaheadScore& score) {
  nlohmann::ordered_json json = {
      {"tokens", score.tokens}, {"recall", score.recall}, {"exact", score.exact}};
  const bool calibrated = score.calibrated > 0;
  json["recall_2k"] = calibrated ? nlohmann::ordered_json(score.recall_wide) : nullptr;
  json["brier"] = calibrated ? nlohmann::ordered_json(score.brier) : nullptr;
  return json;
}

// By distance, over all layers and by the layer that is guessed.
nlohmann::ordered_json lookahead_json(const LookaheadScores& scores, const Predictor* predictor) {
  auto distances = nlohmann::ordered_json::array();
  for (int32_t d = 1; d <= scores.n_distances(); ++d) {
    nlohmann::ordered_json json = {{"distance", d}};
    json.update(score_json(scores.of(d)));
    const LookaheadScore next = scores.of_next_token(d);
    json["next_token"] = next.tokens > 0 ? score_json(next) : nullptr;
    json["believed"] = believed_json(predictor, d);
    json["layers"] = nlohmann::ordered_json::array();
    for (int32_t layer = d; layer < scores.n_layers(); ++layer) {
      nlohmann::ordered_json of_layer = {{"layer", layer}};
      of_layer.update(score_json(scores.of(layer, d)));
      json["layers"].push_back(std::move(of_layer));
    }
    distances.push_back(std::move(json));
  }
  return distances;
}

nlohmann::ordered_json prefetch_json(const TransferStats& sent) {
  return {{"started", sent.started},
          {"on_time", sent.on_time},
          {"late", sent.late},
          {"unused", sent.unused},
          {"polluting", sent.polluting},
          {"bytes", sent.bytes},
          {"wasted_bytes", sent.wasted_bytes}};
}

std::string speed_line(const char* what, int64_t tokens, double tps, double modelled_tps,
                       const std::string& machine) {
  if (tokens == 0) return fmt::format("  {:<13} none\n", what);
  return fmt::format("  {:<13} {} tokens, {:.1f} tokens/s measured here; {:.1f} modelled for {}\n",
                     what, tokens, tps, modelled_tps, machine);
}

std::string memory_text(const RunReport& report) {
  return fmt::format("{} at most, {} after loading, {} in huge pages",
                     bytes_text(report.ended.peak_bytes), bytes_text(report.loaded.resident_bytes),
                     bytes_text(report.ended.huge_bytes));
}

}  // namespace

std::string json_text(const nlohmann::ordered_json& json, int indent) {
  const std::string dumped =
      json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  // JSON escapes control characters below 0x20 only; the others can stand in strings alone.
  std::string text;
  for (size_t i = 0; i < dumped.size(); ++i) {
    const bool c1 = is_c1(std::string_view(dumped).substr(i));
    if (c1) ++i;
    if (c1 || dumped[i] == 0x7f) {
      text += fmt::format("\\u{:04x}", static_cast<unsigned char>(dumped[i]));
    } else {
      text += dumped[i];
    }
  }
  return text;
}

std::string settings_text(std::span<const EffectiveSetting> settings) {
  std::string text;
  for (const EffectiveSetting& setting : settings) text += setting_line(setting);
  return text;
}

nlohmann::ordered_json settings_json(std::span<const EffectiveSetting> settings) {
  nlohmann::ordered_json json;
  for (const EffectiveSetting& setting : settings) {
    json[setting.name] = {{"requested", setting.requested},
                          {"effective", setting.effective},
                          {"reason", setting.reason}};
  }
  return json;
}

std::string summary_text(const RunReport& report) {
  const Engine& engine = report.engine;
  const GenerationResult& result = report.result;
  const EngineStats stats = engine.stats();
  const ModelConfig& config = engine.model().config();
  const auto line = [](std::string_view name, const std::string& what) {
    return fmt::format("  {:<13} {}\n", name, what);
  };
  std::string text = "\n" + line("model", fmt::format("{} ({}), {}", printable(config.name),
                                                      config.arch, file_size_text(engine)));
  text += line("load", fmt::format("{:.2f} s", report.load_seconds));
  text += line("memory", memory_text(report));
  text += settings_text(report.settings);
  text += line("sampling", sampling_text(report.sampling));
  text += speed_line("prefill", result.prompt_tokens, result.prefill_tps(),
                     result.modelled_prefill_tps(), report.machine.name);
  text += speed_line("decode", result.decode_steps, result.decode_tps(),
                     result.modelled_decode_tps(), report.machine.name);
  if (engine.n_slots() > 0) {
    text += line("cache", cache_text(stats.cache));
    text += line("prefetch", prefetch_text(stats.prefetched));
    const LookaheadScores* scores = engine.lookahead_scores();
    if (scores != nullptr) {
      text += line("lookahead", lookahead_text(*scores) +
                                    believed_text(engine.predictor(), scores->n_distances()));
    }
  }
  text += line("experts", fmt::format("{} computed on the GPU, {} on the CPU, {} on both",
                                      stats.experts.experts_gpu, stats.experts.experts_cpu,
                                      stats.experts.experts_split));
  text += line("link", bytes_text(stats.bytes_h2d) + " from host to device");
  if (stats.graphs_refused) {
    text += line("note", "the GPU had no memory for graphs: kernels were launched one by one");
  }
  if (engine.device().info().simulated) {
    text += line("note", "the GPU is simulated: its times are modelled, its results are computed");
  }
  text += line("stopped", stop_reason_text(result.stop));
  return text;
}

nlohmann::ordered_json summary_json(const RunReport& report) {
  const Engine& engine = report.engine;
  const GenerationResult& result = report.result;
  const EngineStats stats = engine.stats();
  const bool cached = engine.n_slots() > 0;
  nlohmann::ordered_json json;
  json["model"] = engine.model().config().name;
  json["architecture"] = engine.model().config().arch;
  json["prompt_tokens"] = result.prompt_tokens;
  json["tokens"] = result.tokens.size();
  json["token_ids"] = result.tokens;
  json["stopped"] = stop_reason_text(result.stop);
  json["seed"] = report.sampling.seed;
  json["load_seconds"] = report.load_seconds;
  json["memory"] = {{"file_bytes", report.engine.model().file().file_bytes()},
                    {"loading_peak_bytes", report.loaded.peak_bytes},
                    {"loaded_bytes", report.loaded.resident_bytes},
                    {"peak_bytes", report.ended.peak_bytes},
                    {"huge_bytes", report.ended.huge_bytes},
                    {"device_bytes", engine.device().used_bytes()}};
  json["prefill_tps"] = result.prefill_tps();
  json["decode_tps"] = result.decode_tps();
  json["modelled_prefill_tps"] = result.modelled_prefill_tps();
  json["modelled_decode_tps"] = result.modelled_decode_tps();
  json["machine"] = report.machine.name;
  json["cache_hits"] = cached ? stats.cache.hits : 0;
  json["cache_misses"] = cached ? stats.cache.misses : 0;
  json["cache_evictions"] = stats.cache.evictions;
  json["prefetch"] = prefetch_json(stats.prefetched);
  const LookaheadScores* scores = engine.lookahead_scores();
  json["lookahead"] = scores != nullptr ? lookahead_json(*scores, engine.predictor()) : nullptr;
  json["experts_cpu"] = stats.experts.experts_cpu;
  json["experts_gpu"] = stats.experts.experts_gpu;
  json["experts_split"] = stats.experts.experts_split;
  json["bytes_h2d"] = stats.bytes_h2d;
  json["graphs_refused"] = stats.graphs_refused;
  json["gpu_simulated"] = engine.device().info().simulated;
  json["settings"] = settings_json(report.settings);
  json["sampling"] = sampling_json(report.sampling);
  return json;
}

}  // namespace tandem
