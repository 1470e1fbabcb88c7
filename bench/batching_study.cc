// Batches of tokens whose experts are known beforehand, by three rules: scheduler/expert_batches.h,
// and the two orders that Read-ME's paper compares its own with (arXiv 2410.19123): in order of
// arrival, decoded tokens first or prompts first. Counted are experts and batches; time is counted
// in batches, nothing is measured in seconds. bench/README.md has commands and results.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/batching_routes.h"
#include "runtime/error.h"
#include "scheduler/expert_batches.h"

namespace tandem::bench {
namespace {

struct StudyOptions {
  std::string trace;  // file; empty: synthetic routes
  SyntheticRoutes synthetic;
  int32_t requests = 2000;  // that are served and counted
  std::vector<double> loads{0.9};
  std::vector<int32_t> batches{8};
  std::vector<int32_t> ages{16};
  int32_t slots = 64;
  uint64_t seed = 1;
  std::string csv;
};

// One order of service. Tokens of a request come in their order.
class Rule {
 public:
  virtual ~Rule() = default;
  virtual bool add(const BatchToken& token, bool prefill) = 0;  // false: no room
  // Whether requests offer a token each in turns, or all they have, who came first first.
  virtual bool in_turns() const = 0;
  virtual std::vector<BatchToken> next() = 0;
};

class GroupedRule final : public Rule {
 public:
  explicit GroupedRule(const ExpertBatchLimits& limits) : batches_(limits) {}
  bool add(const BatchToken& token, bool) override { return batches_.add(token); }
  bool in_turns() const override { return true; }  // there is room for some of each
  std::vector<BatchToken> next() override {
    const auto batch = batches_.next();
    return {batch.begin(), batch.end()};
  }

 private:
  ExpertBatches batches_;
};

// Order of arrival, one kind before the other.
class FifoRule final : public Rule {
 public:
  FifoRule(int32_t max_tokens, bool prompts_first)
      : max_tokens_(static_cast<size_t>(max_tokens)), prompts_first_(prompts_first) {}
  bool add(const BatchToken& token, bool prefill) override {
    queues_[prefill == prompts_first_ ? 0 : 1].push_back(token);
    return true;
  }
  bool in_turns() const override { return false; }
  std::vector<BatchToken> next() override {
    std::vector<BatchToken> batch;
    for (auto& queue : queues_) {
      while (!queue.empty() && batch.size() < max_tokens_) {
        batch.push_back(queue.front());
        queue.pop_front();
      }
    }
    return batch;
  }

 private:
  size_t max_tokens_;
  bool prompts_first_;
  std::deque<BatchToken> queues_[2];
};

struct Result {
  int64_t batches = 0;  // that were not empty
  int64_t tokens = 0;
  double experts = 0;  // distinct ones in a batch, mean over layers; summed over batches
  int64_t full = 0;    // batches without a free place
  double experts_full = 0;
  // Batches from the time that the token was known to its own, by token. What the rule has not
  // taken in yet waits as well.
  std::vector<int64_t> waits;
  int64_t most_queued = 0;  // the same from when the rule took it in, at most
};

// Requests arrive at random, at most `slots` of them are under way; the others queue outside.
class Service {
 public:
  Service(const Routes& routes, const StudyOptions& options, double load, int32_t max_tokens,
          Rule* rule)
      : routes_(routes),
        options_(options),
        max_tokens_(max_tokens),
        rule_(*rule),
        slots_(static_cast<size_t>(options.slots)),
        seen_(static_cast<size_t>(routes.n_experts)) {
    double tokens = 0;
    for (const Route& route : routes.requests) tokens += static_cast<double>(route.queue.size());
    const double mean = tokens / static_cast<double>(routes.requests.size());
    rate_ = load * max_tokens / mean;
    random_.seed(options.seed + 1);
  }

  Result run() {
    for (int64_t now = 0; done_ < options_.requests; ++now) {
      arrive(now);
      admit();
      rule_.in_turns() ? offer_in_turns(now) : offer_all(now);
      serve(now);
    }
    return std::move(result_);
  }

 private:
  struct Slot {
    const Route* route = nullptr;  // null: free
    int32_t request = 0;           // the order of arrival
    size_t served = 0;
    std::vector<int64_t> arrived;  // [tokens] known so far
    std::vector<int64_t> queued;   // [tokens] that the rule has taken in
  };
  struct Outside {
    int32_t request;
    int64_t arrived;
  };

  // Poisson arrivals by exponential gaps, from our own uniform numbers: the same everywhere.
  void arrive(int64_t now) {
    for (; issued_ < options_.requests && next_arrival_ <= static_cast<double>(now); ++issued_) {
      outside_.push_back({issued_, now});
      const double uniform = (static_cast<double>(random_() >> 11U) + 0.5) * 0x1p-53;
      next_arrival_ -= std::log(uniform) / rate_;
    }
  }

  void admit() {
    for (Slot& slot : slots_) {
      if (slot.route != nullptr || outside_.empty()) continue;
      const auto n = routes_.requests.size();
      const int32_t request = outside_.front().request;
      slot = {&routes_.requests[static_cast<size_t>(request) % n], request, 0, {}, {}};
      // The prompt is known from the request's arrival on.
      slot.arrived.assign(static_cast<size_t>(slot.route->n_prompt), outside_.front().arrived);
      if (slot.arrived.empty()) slot.arrived.push_back(outside_.front().arrived);
      outside_.pop_front();
    }
  }

  // False where there is nothing to offer, or no room.
  bool offer(size_t s, int64_t now) {
    Slot& slot = slots_[s];
    const size_t t = slot.queued.size();
    if (slot.route == nullptr || t == slot.arrived.size()) return false;
    const bool prefill = t < static_cast<size_t>(slot.route->n_prompt);
    if (!rule_.add({static_cast<int32_t>(s), slot.route->queue[t], static_cast<int64_t>(t)},
                   prefill)) {
      return false;
    }
    slot.queued.push_back(now);
    return true;
  }

  void offer_in_turns(int64_t now) {
    for (bool any = true; any;) {
      any = false;
      for (size_t s = 0; s < slots_.size(); ++s) any |= offer((s + turn_) % slots_.size(), now);
    }
    ++turn_;
  }

  void offer_all(int64_t now) {
    std::vector<size_t> order(slots_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return slots_[a].request < slots_[b].request; });
    for (const size_t s : order) {
      while (offer(s, now)) {
      }
    }
  }

  void serve(int64_t now) {
    const std::vector<BatchToken> batch = rule_.next();
    if (batch.empty()) return;
    const double experts = distinct(batch);
    ++result_.batches;
    result_.tokens += static_cast<int64_t>(batch.size());
    result_.experts += experts;
    if (batch.size() == static_cast<size_t>(max_tokens_)) {
      ++result_.full;
      result_.experts_full += experts;
    }
    for (const BatchToken& token : batch) {
      Slot& slot = slots_[static_cast<size_t>(token.request)];
      if (static_cast<size_t>(token.id) != slot.served) throw ConfigError("a token out of order");
      result_.waits.push_back(now - slot.arrived[slot.served]);
      result_.most_queued = std::max(result_.most_queued, now - slot.queued[slot.served]);
      ++slot.served;
      // The next token is known once this one has been decoded.
      const bool last = slot.served == slot.arrived.size();
      if (last && slot.served < slot.route->queue.size()) slot.arrived.push_back(now + 1);
      if (slot.served < slot.route->queue.size()) continue;
      slot.route = nullptr;
      ++done_;
    }
  }

  double distinct(const std::vector<BatchToken>& batch) {
    int64_t sum = 0;
    for (int32_t l = 0; l < routes_.n_layers; ++l) {
      std::fill(seen_.begin(), seen_.end(), uint8_t{0});
      for (const BatchToken& token : batch) {
        const Route& route = *slots_[static_cast<size_t>(token.request)].route;
        const auto row = static_cast<size_t>(token.id) * static_cast<size_t>(routes_.n_layers) +
                         static_cast<size_t>(l);
        for (const int16_t id : route.used[row]) seen_[static_cast<size_t>(id)] = 1;
      }
      sum += std::count(seen_.begin(), seen_.end(), uint8_t{1});
    }
    return static_cast<double>(sum) / routes_.n_layers;
  }

  const Routes& routes_;
  const StudyOptions& options_;
  int32_t max_tokens_;
  Rule& rule_;
  std::vector<Slot> slots_;
  std::vector<uint8_t> seen_;
  std::deque<Outside> outside_;
  std::mt19937_64 random_;
  double rate_ = 0;  // requests a batch
  double next_arrival_ = 0;
  int32_t issued_ = 0;
  int32_t done_ = 0;
  size_t turn_ = 0;
  Result result_;
};

void print(const Result& result, const std::string& routes, const std::string& name, double load,
           int32_t max_tokens, int32_t max_age, std::FILE* csv) {
  std::vector<int64_t> waits = result.waits;
  std::sort(waits.begin(), waits.end());
  const double n = static_cast<double>(waits.size());
  const double mean = std::accumulate(waits.begin(), waits.end(), 0.0) / n;
  const int64_t p99 = waits[static_cast<size_t>(0.99 * (n - 1))];
  const double size = static_cast<double>(result.tokens) / static_cast<double>(result.batches);
  const double experts = result.experts / static_cast<double>(result.batches);
  const double full =
      result.full > 0 ? result.experts_full / static_cast<double>(result.full) : 0.0;
  fmt::print("| {} | {} | {} | {} | {:.1f} | {:.2f} | {:.2f} | {:.1f} | {} | {} | {} |\n", load,
             max_tokens, max_age, name, size, experts, full, mean, p99, waits.back(),
             result.most_queued);
  if (csv == nullptr) return;
  fmt::print(csv, "\"{}\",{},{},{},{},{},{},{:.3f},{:.4f},{:.4f},{:.3f},{},{},{}\n", routes, load,
             max_tokens, max_age, name, result.batches, result.tokens, size, experts, full, mean,
             p99, waits.back(), result.most_queued);
}

std::string name_of(const StudyOptions& options) {
  if (!options.trace.empty()) return options.trace;
  return fmt::format("synthetic, {} experts, stay {}", options.synthetic.experts,
                     options.synthetic.stay);
}

void study(const StudyOptions& options, const std::string& command) {
  const Routes routes = options.trace.empty()
                            ? synthetic_routes(options.synthetic, options.requests, options.seed)
                            : recorded_routes(options.trace);
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> csv(nullptr, std::fclose);
  if (!options.csv.empty()) {
    csv.reset(std::fopen(options.csv.c_str(), "w"));
    if (!csv) throw FileError(options.csv, "cannot be written");
    fmt::print(
        csv.get(),
        "# "
        "{}\nroutes,load,max_tokens,max_age,rule,batches,tokens,tokens_per_batch,experts_per_batch,"
        "experts_per_full_batch,mean_wait,p99_wait,max_wait,max_queued\n",
        command);
  }
  fmt::print(
      "{} experts, {} layers, {} requests; waiting in batches\n\n| load | batch | age | rule | "
      "tokens | experts | in full ones | mean wait | p99 | max | in the queue |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|\n",
      routes.n_experts, routes.n_layers, options.requests);
  for (const double load : options.loads) {
    for (const int32_t max_tokens : options.batches) {
      for (const int32_t max_age : options.ages) {
        const ExpertBatchLimits limits{routes.n_experts, max_tokens, max_age, options.slots};
        const auto run = [&](Rule&& rule, const char* name) {
          print(Service(routes, options, load, max_tokens, &rule).run(), name_of(options), name,
                load, max_tokens, max_age, csv.get());
        };
        run(GroupedRule(limits), "by expert");
        run(FifoRule(max_tokens, false), "decode first");
        run(FifoRule(max_tokens, true), "prefill first");
      }
    }
  }
}

int run(int argc, char** argv) {
  CLI::App app("Batches of tokens whose experts are known: experts a batch, and who waits");
  StudyOptions options;
  app.add_option("--trace", options.trace,
                 "a routing trace, sequences are requests; else synthetic");
  app.add_option("--experts", options.synthetic.experts,
                 "synthetic: one of them a token, all equally likely")
      ->check(CLI::Range(1, 4096));
  app.add_option("--stay", options.synthetic.stay,
                 "synthetic: how often a token's is the last token's")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--prompt", options.synthetic.prompt, "synthetic: tokens of a prompt")
      ->check(CLI::Range(0, 4096));
  app.add_option("--decode", options.synthetic.decode, "synthetic: tokens decoded after it")
      ->check(CLI::Range(1, 4096));
  app.add_option("--requests", options.requests, "that are served")->check(CLI::Range(1, 1 << 20));
  app.add_option("--load", options.loads, "tokens that arrive over those that batches could take")
      ->delimiter(',')
      ->check(CLI::Range(0.001, 100.0));
  app.add_option("--batch", options.batches, "most tokens of a batch")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_option("--max-age", options.ages, "batches that may pass a token by")
      ->delimiter(',')
      ->check(CLI::Range(0, 4096));
  app.add_option("--slots", options.slots, "requests under way at a time")
      ->check(CLI::Range(1, 4096));
  app.add_option("--seed", options.seed, "of routes and arrivals");
  app.add_option("--csv", options.csv, "file for the raw rows");
  CLI11_PARSE(app, argc, argv);
  std::string command = "batching_study";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  study(options, command);
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  try {
    return tandem::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "batching_study: {}\n", error.what());
    return 1;
  }
}
