#include "runtime/engine/shape_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "runtime/engine/engine_scheduling.h"
#include "runtime/engine/fit.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/error.h"
#include "runtime/model/available_memory.h"
#include "runtime/model/byte_reader.h"
#include "runtime/model/shape_of_model.h"
#include "runtime/pregate/pregate_file.h"
#include "runtime/words.h"
#include "scheduler/make_scheduling.h"
#include "scheduler/prompt_estimate.h"

namespace tandem {
namespace {

// Of FitSettings::least_ctx and the model.
int64_t least_context(const ModelConfig& config, const FitSettings& fit) {
  return std::min(fit.least_ctx, config.n_ctx_train);
}

int64_t wanted_context(const ModelConfig& config, const EngineSettings& settings) {
  if (settings.n_ctx > 0) return settings.n_ctx;
  const int64_t usual = std::min(config.n_ctx_train, kDefaultContext);
  return settings.fit ? std::max(usual, least_context(config, *settings.fit)) : usual;
}

void check_kv_type(const char* flag, KvType type, const char* what, int64_t width) {
  const int64_t block = kv_type_block(type);
  if (width % block == 0) return;
  throw ConfigError(
      fmt::format("{} is {}; expected heads whose {} are a multiple of {} wide, got {}", flag,
                  kv_type_name(type), what, block, width));
}

// A model whose layers have no routers runs with the one that it names, and no other model with it.
void check_router(const ModelConfig& config, const EngineSettings& settings) {
  const DecoupledRouter* router = settings.router.get();
  if (config.decoupled_router.empty()) {
    if (router == nullptr) return;
    throw FileError(settings.pregate_from,
                    fmt::format("it is the router of a refactored model, and {} has routers of its "
                                "own",
                                tandem::quoted(config.name)));
  }
  if (router == nullptr) {
    throw ConfigError(
        fmt::format("the layers of {} have no routers; expected --pregate FILE, the "
                    "router that tandem refactor made with it, or that beside the "
                    "model as MODEL.pregate.safetensors",
                    tandem::quoted(config.name)));
  }
  const DecoupledShape& shape = router->shape;
  const auto check = [&](const char* what, const auto& got, const auto& expected) {
    if (got == expected) return;
    throw FileError(settings.pregate_from, fmt::format("it is for another model: {}: expected {}, "
                                                       "got {}",
                                                       what, expected, got));
  };
  check("vocabulary", int64_t{shape.n_vocab}, config.n_vocab);
  check("layers", int64_t{shape.n_layers}, config.n_layers);
  check("experts", shape.n_experts, config.routing.n_experts);
  check("experts of a token", shape.top_k, config.routing.top_k);
  check("SHA-256", decoupled_hash(*router), config.decoupled_router);
}

GuessTable table_of(const std::string& predictor) {
  if (predictor == "pair-table") return GuessTable::kPairs;
  if (predictor == "token-table") return GuessTable::kTokens;
  return predictor == "draft-free" ? GuessTable::kDraftFree : GuessTable::kNone;
}

void check_tables(const EngineSettings& settings, const std::string& predictor) {
  if (settings.pregate && settings.pregate->tables) return;
  throw ConfigError(fmt::format(
      "the predictor {} needs the tables of a fitted lookahead; {}; tandem pregate fit makes them",
      predictor,
      settings.pregate ? settings.pregate_from + " has none" : std::string("there is none")));
}

Lookahead wanted_lookahead(const ModelConfig& config, const EngineSettings& settings,
                           const Device& device) {
  // Where nothing can be fetched, nobody needs to guess.
  const bool cached = !device.info().host_memory && settings.expert_slots != 0;
  const SchedulingSettings scheduling = requested_scheduling(settings);
  Lookahead lookahead;
  lookahead.count =
      std::max(settings.recorded_distances, cached ? lookahead_distance(scheduling) : 0);
  if (lookahead.count == 0) return lookahead;
  if (settings.router) {
    lookahead.count = static_cast<int32_t>(config.n_layers) - 1;
    return lookahead;
  }
  lookahead.table = table_of(scheduling.predictor);
  if (lookahead.table != GuessTable::kNone) check_tables(settings, scheduling.predictor);
  if (settings.pregate) {
    check_pregate_shape(*settings.pregate, config, settings.pregate_from);
    lookahead.fitted = settings.pregate;
    const bool anywhere = lookahead.table == GuessTable::kTokens ||
                          lookahead.table == GuessTable::kDraftFree;  // at any distance
    if (!anywhere) lookahead.count = std::min(lookahead.count, settings.pregate->n_distances);
  }
  return lookahead;
}

EngineShape wanted_shape(const ModelConfig& config, const EngineSettings& settings,
                         const Device& device) {
  if (settings.n_ctx < 0)
    throw ConfigError(fmt::format("-c is {}; expected 0 or more", settings.n_ctx));
  if (settings.n_batch < 1)
    throw ConfigError(fmt::format("-b is {}; expected 1 or more", settings.n_batch));
  check_kv_type("-ctk", settings.kv_type_k, "keys", config.head_dim);
  check_kv_type("-ctv", settings.kv_type_v, "values", config.v_head_dim);
  EngineShape shape;
  shape.kv_type_k = settings.kv_type_k;
  shape.kv_type_v = settings.kv_type_v;
  shape.max_logits = settings.max_logits;
  shape.lookahead = wanted_lookahead(config, settings, device);
  check_router(config, settings);
  shape.router = settings.router;
  return resized(shape, wanted_context(config, settings), settings.n_batch);
}

// What fitting tries to have beside the layers, best first.
struct Goal {
  std::function<bool(const MemoryPlan&)> reached;
  std::string what;
};

// A layer of one token uses top_k experts: with fewer slots than that, the cache holds not even
// those. A number that was asked for comes first, but nothing is given up for one that cannot be.
std::vector<Goal> goals(const RoutingRules& routing, const EngineSettings& settings) {
  std::vector<Goal> all;
  const int32_t wished = settings.expert_slots.value_or(routing.top_k);
  if (settings.expert_slots && wished > 0) {
    all.push_back({[](const MemoryPlan& plan) { return plan.slots_as_wished; },
                   fmt::format("{} expert slots", wished)});
  }
  const int32_t few = std::min(wished, routing.top_k);
  if (few > 0) {
    all.push_back({[few](const MemoryPlan& plan) { return plan.n_slots >= few; },
                   fmt::format("{} expert slots (top_k)", few)});
  }
  all.push_back({[](const MemoryPlan&) { return true; }, "dense weights and KV cache"});
  return all;
}

struct Fitted {
  EngineShape shape;
  std::string why;
};

Fitted fitted(const Model& model, const MachineProfile& machine, const EngineSettings& settings,
              const Device& device, const EngineShape& wanted) {
  FitLimits limits{wanted.n_ctx, wanted.n_batch};
  if (settings.n_ctx == 0) limits.least_ctx = least_context(model.config(), *settings.fit);
  if (settings.fit->batch) limits.least_batch = std::min(wanted.n_batch, kLeastFitBatch);
  const CacheWish wish = cache_wish(settings);
  for (const Goal& goal : goals(model.config().routing, settings)) {
    const auto fits = [&](const EngineShape& shape) {
      const MemoryPlan plan = plan_memory(model, device, machine, shape, wish);
      return plan.fits() && goal.reached(plan);
    };
    const std::optional<EngineShape> shape = fit_shape(wanted, limits, fits);
    if (!shape) continue;
    return {*shape, fmt::format("lowered so that {} fit into {} of VRAM", goal.what,
                                bytes_text(device.info().vram_bytes))};
  }
  return {resized(wanted, limits.least_ctx, limits.least_batch),
          "the least that --fit may choose, which does not fit"};
}

int64_t host_bytes(const MemoryPlan& plan) {
  int64_t bytes = 0;
  for (const auto* parts : {&plan.locked, &plan.host}) {
    for (const TaggedBytes& part : *parts) bytes += part.bytes;
  }
  return bytes;
}

struct ChosenBatch {
  int64_t n_batch = 0;
  std::string why;
};

// Of a batch that was left open and fits. A larger one brings fewer bytes a token over the link.
ChosenBatch batch_for_prompts(const Model& model, const MachineProfile& machine,
                              const EngineSettings& settings, const Device& device,
                              const EngineShape& fit) {
  const ModelShape shape = shape_of(model);
  const CostModel costs(machine);
  const CacheWish wish = cache_wish(settings);
  const int32_t n_experts = shape.n_layers * shape.n_experts;
  const MemoryPlan usual_plan = plan_memory(model, device, machine, fit, wish);
  const int64_t most_host_bytes = host_bytes(usual_plan) + available_host_bytes() / 16;
  const auto value = [&](int64_t n) {
    try {
      const MemoryPlan plan = plan_memory(model, device, machine, resized(fit, fit.n_ctx, n), wish);
      const int32_t fetches = plan.streams ? shape.n_experts : plan.n_slots;
      const PromptRoom room{static_cast<double>(plan.n_slots) / n_experts, fetches};
      // Slots that were asked for and buffers are not given up, and host memory is the weights'.
      const bool kept = !settings.expert_slots || plan.n_slots >= usual_plan.n_slots;
      const bool fits = plan.fits() && kept && plan.streams >= usual_plan.streams &&
                        host_bytes(plan) <= most_host_bytes;
      return BatchValue{fits, plan.n_slots, prompt_token_us(shape, costs, room, n)};
    } catch (const ConfigError&) {  // more than kernels take
      return BatchValue{};
    }
  };
  const int64_t best = best_batch(fit.n_batch, std::min(fit.n_ctx, kMostBatch), value);
  if (best == fit.n_batch) return {best, ""};
  const BatchValue usual = value(fit.n_batch);
  const BatchValue chosen = value(best);
  return {best, fmt::format("a prompt's token takes {:.0f} % of its time with {}, modelled; expert "
                            "slots: {} instead of {}",
                            100 * chosen.token_us / usual.token_us, fit.n_batch, chosen.n_slots,
                            usual.n_slots)};
}

// Where every expert has a slot nothing is fetched, and nobody needs to guess. What a trace records
// is wanted all the same.
bool guesses_in_vain(const Model& model, const MachineProfile& machine,
                     const EngineSettings& settings, const Device& device, EngineShape shape) {
  if (shape.lookahead.count == 0 || settings.recorded_distances > 0) return false;
  shape.lookahead = {};
  const ModelConfig& config = model.config();
  return plan_memory(model, device, machine, shape, cache_wish(settings)).n_slots ==
         config.n_layers * config.routing.n_experts;
}

EffectiveSetting context_line(const ModelConfig& config, const EngineSettings& settings,
                              int64_t n_ctx) {
  EffectiveSetting line{"context", std::to_string(settings.n_ctx), std::to_string(n_ctx), ""};
  if (settings.n_ctx == 0) {
    line.requested = "auto";
    line.reason =
        fmt::format("trained for {}, default at most {}", config.n_ctx_train, kDefaultContext);
  } else if (n_ctx > config.n_ctx_train) {
    line.reason = fmt::format("the model was trained for {} only", config.n_ctx_train);
  }
  return line;
}

}  // namespace

CacheWish cache_wish(const EngineSettings& settings) {
  if (settings.expert_slots && *settings.expert_slots < 0) {
    throw ConfigError(
        fmt::format("--moe-expert-cache is {}; expected 0 or more", *settings.expert_slots));
  }
  return {settings.expert_slots, settings.scheduling.pool};
}

std::string memory_advice(const EngineSettings& settings, const DeviceInfo& device, int64_t n_ctx) {
  if (device.host_memory) return "lower -c or -b";
  const bool shorter = settings.fit && settings.n_ctx == 0 && n_ctx > kLeastFitContext;
  return fmt::format("raise --vram, or lower -c or -b{}", shorter ? ", or --fit-ctx" : "");
}

EffectiveSetting slots_setting(const EngineSettings& settings, const ModelConfig& config,
                               const DeviceInfo& device, int32_t n_slots, int64_t other_bytes) {
  const std::optional<int32_t>& wanted = settings.expert_slots;
  EffectiveSetting line{
      "expert slots", wanted ? std::to_string(*wanted) : "auto",
      fmt::format("{} of {}", n_slots, config.n_layers * config.routing.n_experts), ""};
  if (device.host_memory) {
    line.reason = "the CPU runs every expert";
  } else if (n_slots != wanted.value_or(-1)) {
    line.reason =
        fmt::format("{} of VRAM, {} of it for dense weights, KV cache, activations and buffers",
                    bytes_text(device.vram_bytes), bytes_text(other_bytes));
  }
  return line;
}

EngineShape choose_shape(const Model& model, const MachineProfile& machine,
                         const EngineSettings& settings, const Device& device,
                         std::vector<EffectiveSetting>* lines) {
  const ModelConfig& config = model.config();
  const EngineShape wanted = wanted_shape(config, settings, device);
  Fitted fit{wanted, ""};
  if (settings.fit && !device.info().host_memory) {
    fit = fitted(model, machine, settings, device, wanted);
  }
  EffectiveSetting context = context_line(config, settings, fit.shape.n_ctx);
  if (fit.shape.n_ctx < wanted.n_ctx) context.reason = fit.why;
  lines->push_back(context);
  const bool open = settings.fit && settings.fit->batch && !device.info().host_memory;
  EffectiveSetting batch{"batch", open ? "auto" : std::to_string(settings.n_batch), "", ""};
  if (fit.shape.n_batch < std::min(wanted.n_batch, fit.shape.n_ctx)) {
    batch.reason = fit.why;
  } else if (fit.shape.n_batch < settings.n_batch) {
    batch.reason = "the context is no longer";
  } else if (open && settings.max_logits == 1) {  // a run, which reads prompts
    ChosenBatch chosen = batch_for_prompts(model, machine, settings, device, fit.shape);
    fit.shape = resized(fit.shape, fit.shape.n_ctx, chosen.n_batch);
    batch.reason = std::move(chosen.why);
  } else if (open) {
    batch.reason = "logits are wanted of every token";
  }
  batch.effective = std::to_string(fit.shape.n_batch);
  lines->push_back(std::move(batch));
  if (guesses_in_vain(model, machine, settings, device, fit.shape)) fit.shape.lookahead = {};
  return fit.shape;
}

}  // namespace tandem
