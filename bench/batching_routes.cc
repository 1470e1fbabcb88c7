#include "bench/batching_routes.h"

#include <algorithm>
#include <iterator>
#include <random>

#include "runtime/trace/trace_file.h"

namespace tandem::bench {
namespace {

ExpertId most_frequent(const Trace& trace, int64_t token) {
  std::vector<int32_t> count(static_cast<size_t>(trace.header.n_experts));
  for (int32_t l = 0; l < trace.header.n_layers; ++l) {
    const int16_t first = trace.ids_of(token, l).front();
    if (first >= 0) ++count[static_cast<size_t>(first)];
  }
  return ExpertId{
      static_cast<int32_t>(std::max_element(count.begin(), count.end()) - count.begin())};
}

}  // namespace

Routes synthetic_routes(const SyntheticRoutes& settings, int32_t n_requests, uint64_t seed) {
  Routes routes;
  routes.n_experts = settings.experts;
  std::mt19937_64 random(seed);
  const auto uniform = [&] { return static_cast<double>(random() >> 11U) * 0x1p-53; };
  for (int32_t r = 0; r < n_requests; ++r) {
    Route& route = routes.requests.emplace_back();
    route.n_prompt = settings.prompt;
    for (int32_t t = 0; t < settings.prompt + settings.decode; ++t) {
      const bool stays = t > 0 && uniform() < settings.stay;
      const auto any = static_cast<int16_t>(uniform() * settings.experts);
      const int16_t expert = stays ? route.used.back().front() : any;
      route.queue.push_back(ExpertId{expert});
      route.used.push_back({expert});
    }
  }
  return routes;
}

Routes recorded_routes(const std::string& path) {
  const Trace trace = read_trace(path);
  const TraceHeader& h = trace.header;
  Routes routes;
  routes.n_experts = h.n_experts;
  routes.n_layers = h.n_layers;
  int32_t sequence = -1;
  for (const TraceStep& step : trace.steps) {
    if (step.sequence != sequence) routes.requests.emplace_back();
    sequence = step.sequence;
    Route& route = routes.requests.back();
    if (step.prefill) route.n_prompt += step.n_tokens;
    for (int64_t t = step.first_token; t < step.first_token + step.n_tokens; ++t) {
      route.queue.push_back(most_frequent(trace, t));
      for (int32_t l = 0; l < h.n_layers; ++l) {
        const auto ids = trace.ids_of(t, l).first(static_cast<size_t>(h.top_k));
        route.used.emplace_back();
        std::copy_if(ids.begin(), ids.end(), std::back_inserter(route.used.back()),
                     [](int16_t id) { return id >= 0; });
      }
    }
  }
  return routes;
}

}  // namespace tandem::bench
