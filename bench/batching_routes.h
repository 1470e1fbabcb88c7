// Routes for the study of batches: which experts each token of each request uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/types.h"

namespace tandem::bench {

// Which experts one request's tokens use, and how many of them are its prompt.
struct Route {
  int32_t n_prompt = 0;
  std::vector<ExpertId> queue;  // [tokens] by which a token is grouped
  // [tokens, layers] sets of experts; one layer where one expert serves all of them.
  std::vector<std::vector<int16_t>> used;
};

struct Routes {
  int32_t n_experts = 0;
  int32_t n_layers = 1;
  std::vector<Route> requests;
};

struct SyntheticRoutes {
  int32_t experts = 8;
  double stay = 0;  // how often a token's expert is that of the token before; else any
  int32_t prompt = 64;
  int32_t decode = 32;
};

// One expert a token for all layers.
Routes synthetic_routes(const SyntheticRoutes& settings, int32_t n_requests, uint64_t seed);

// Each sequence of a trace is a request. A token is grouped by the expert that is the heaviest in
// most layers, of several the one with the least number. FileError for what is no trace.
Routes recorded_routes(const std::string& path);

}  // namespace tandem::bench
