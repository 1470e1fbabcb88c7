#include "runtime/cli/summary.h"

#include <fmt/format.h>

namespace tandem {
namespace {

std::string setting_line(const EffectiveSetting& setting) {
  std::string line = fmt::format("  {:<13} {}", setting.name, setting.effective);
  if (setting.effective != setting.requested) {
    line += fmt::format(" (requested {})", setting.requested);
  }
  if (!setting.reason.empty()) line += ": " + setting.reason;
  return line + "\n";
}

std::string speed_line(const char* what, int64_t tokens, double tps, double modelled_tps,
                       const std::string& machine) {
  if (tokens == 0) return fmt::format("  {:<13} none\n", what);
  return fmt::format("  {:<13} {} tokens, {:.1f} tokens/s measured here; {:.1f} modelled for {}\n",
                     what, tokens, tps, modelled_tps, machine);
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (bytes < 1 << 20) return fmt::format("{:.2f} KiB", b / (1 << 10));
  if (bytes < 1 << 30) return fmt::format("{:.2f} MiB", b / (1 << 20));
  return fmt::format("{:.2f} GiB", b / (1 << 30));
}

std::string summary_text(const Engine& engine, const GenerationResult& result,
                         const MachineProfile& machine, uint32_t seed) {
  const EngineStats stats = engine.stats();
  const ModelConfig& config = engine.model().config();
  std::string text = fmt::format("\n  {:<13} {} ({}), {}\n", "model", config.name, config.arch,
                                 bytes_text(static_cast<int64_t>(engine.model().file().file_bytes())));
  for (const EffectiveSetting& setting : engine.effective()) text += setting_line(setting);
  text += fmt::format("  {:<13} {}\n", "seed", seed);
  text += speed_line("prefill", result.prompt_tokens, result.prefill_tps(),
                     result.modelled_prefill_tps(), machine.name);
  text += speed_line("decode", result.decode_steps, result.decode_tps(),
                     result.modelled_decode_tps(), machine.name);
  const uint64_t lookups = stats.cache.hits + stats.cache.misses;
  if (engine.n_slots() > 0 && lookups > 0) {
    text += fmt::format("  {:<13} {} hits, {} misses ({:.1f} % hits), {} loaded, {} evicted\n",
                        "cache", stats.cache.hits, stats.cache.misses,
                        100.0 * static_cast<double>(stats.cache.hits) / static_cast<double>(lookups),
                        stats.cache.inserts, stats.cache.evictions);
  }
  text += fmt::format("  {:<13} {} computed on the GPU, {} on the CPU\n", "experts",
                      stats.experts.experts_gpu, stats.experts.experts_cpu);
  text += fmt::format("  {:<13} {} from host to device\n", "link", bytes_text(stats.bytes_h2d));
  if (engine.device().info().simulated) {
    text += fmt::format("  {:<13} the GPU is simulated: its times are modelled, its results are "
                        "computed\n",
                        "note");
  }
  text += fmt::format("  {:<13} {}\n", "stopped", stop_reason_text(result.stop));
  return text;
}

nlohmann::ordered_json summary_json(const Engine& engine, const GenerationResult& result,
                                    const MachineProfile& machine, uint32_t seed) {
  const EngineStats stats = engine.stats();
  const bool cached = engine.n_slots() > 0;
  nlohmann::ordered_json json;
  json["model"] = engine.model().config().name;
  json["architecture"] = engine.model().config().arch;
  json["prompt_tokens"] = result.prompt_tokens;
  json["tokens"] = result.tokens.size();
  json["token_ids"] = result.tokens;
  json["stopped"] = stop_reason_text(result.stop);
  json["seed"] = seed;
  json["prefill_tps"] = result.prefill_tps();
  json["decode_tps"] = result.decode_tps();
  json["modelled_prefill_tps"] = result.modelled_prefill_tps();
  json["modelled_decode_tps"] = result.modelled_decode_tps();
  json["machine"] = machine.name;
  json["cache_hits"] = cached ? stats.cache.hits : 0;
  json["cache_misses"] = cached ? stats.cache.misses : 0;
  json["cache_evictions"] = stats.cache.evictions;
  json["experts_cpu"] = stats.experts.experts_cpu;
  json["experts_gpu"] = stats.experts.experts_gpu;
  json["bytes_h2d"] = stats.bytes_h2d;
  json["gpu_simulated"] = engine.device().info().simulated;
  for (const EffectiveSetting& setting : engine.effective()) {
    json["settings"][setting.name] = {{"requested", setting.requested},
                                      {"effective", setting.effective},
                                      {"reason", setting.reason}};
  }
  return json;
}

}  // namespace tandem
