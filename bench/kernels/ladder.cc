// The ladder of CPU kernels: how fast each is beside what this machine can do at most, beside
// oneDNN and beside plain C++. bench/README.md says how it is run and read.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/kernels/cases.h"
#include "bench/kernels/report.h"
#include "bench/kernels/weights.h"
#include "kernels/onednn_gemm.h"
#include "runtime/device/cpu_topology.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::bench {
namespace {

struct Shape {
  const char* name;
  int64_t n_experts;
  int64_t top_k;
  int64_t ff;
  int64_t d;
  int64_t n_heads;
  int64_t n_kv_heads;
};
constexpr Shape kShapes[] = {{"olmoe", 64, 8, 1024, 2048, 16, 16},
                             {"qwen3", 128, 8, 768, 2048, 32, 4},
                             {"mixtral", 8, 2, 14336, 4096, 32, 8}};
constexpr int64_t kHeadDim = 128;  // of all three

struct Options {
  std::vector<std::string> types{"f32",  "f16",  "bf16", "q4_0", "q5_0",
                                 "q8_0", "q4_K", "q5_K", "q6_K", kU8S8};
  std::vector<int64_t> tokens{1, 2, 4, 8, 12, 16, 32, 64, 128, 512};
  std::vector<int> threads{1, CpuTopology::of_this_machine().cores()};
  std::vector<std::string> kernels{kMatmul, kScalar, kOnednn, kOnednnTile, kExpertFfn};
  std::vector<std::string> experts{"olmoe", "qwen3", "mixtral"};
  std::vector<int64_t> depths{512, 4096};
  int64_t rows = 1024;
  int64_t cols = 2048;
  int rounds = 5;
  int64_t ring_mb = 600;
  int sample_ms = 20;
  std::string out;
};

double seconds_of_calls(const Case& c, int64_t n) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < n; ++i) c.call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(n);
}

class Ladder {
 public:
  Ladder(const Options& options, std::FILE* csv)
      : options_(options), csv_(csv), memory_(as_memory(options.ring_mb)) {
    for (const int n : options.threads) {
      const bool there = !pools_.empty() && pools_.back()->size() == n;  // a machine with one core
      if (!there) pools_.push_back(std::make_unique<ThreadPool>(n));
    }
    wanted_.kernels = options.kernels;
    wanted_.ring_bytes = options.ring_mb * 1'000'000;
    wanted_.most_tokens = *std::max_element(options.tokens.begin(), options.tokens.end());
  }

  void print_machine() {
    fmt::print(
        "Kernels: {}. {}.\n\nLimits at the start; each row is held against those that were "
        "measured beside it.\n\n| threads | reading, GB/s |",
        simd().name, onednn_missing() == nullptr ? onednn_version() : onednn_missing());
    for (size_t i = 0; i < kPeaks; ++i) fmt::print(" {} |", peak_name(static_cast<Peak>(i)));
    fmt::print("\n|---|---|---|---|---|\n");
    for (const auto& pool : pools_) {
      const Limits limits = measure_limits(memory_.all(), *pool);
      fmt::print("| {} | {:.1f} | {:.0f} | {:.0f} | {:.0f} |\n", pool->size(), limits.read_gbps,
                 limits.gops[0], limits.gops[1], limits.gops[2]);
    }
    fmt::print("\n");
    print_table_head();
  }

  void run() {
    for (const std::string& type : options_.types) {
      std::vector<std::unique_ptr<Bench>> products;
      if (type != kU8S8 && (wanted_.has(kMatmul) || wanted_.has(kScalar))) {
        products.push_back(matmul_bench(rng_, type, options_.rows, options_.cols, pools_, wanted_));
      }
      if (wanted_.has(kOnednn) || wanted_.has(kOnednnTile)) {
        products.push_back(onednn_bench(rng_, type, options_.rows, options_.cols, pools_, wanted_));
      }
      climb(products);
    }
    for (const Shape& s : kShapes) {
      if (std::find(options_.experts.begin(), options_.experts.end(), s.name) ==
          options_.experts.end()) {
        continue;
      }
      if (wanted_.has(kExpertFfn)) climb_experts({kExpertFfn, 8, 8, s.ff, s.d});
      if (wanted_.has(kMoeLayer)) climb_experts({kMoeLayer, s.n_experts, s.top_k, s.ff, s.d});
      if (wanted_.has(kLookahead)) climb_lookahead({kLookahead, s.n_experts, s.top_k, s.ff, s.d});
      if (wanted_.has(kAttention)) {
        for (const int64_t depth : options_.depths) {
          climb_attention({s.n_heads, s.n_kv_heads, kHeadDim, depth});
        }
      }
    }
  }

 private:
  static Ring as_memory(int64_t megabytes) {
    const std::vector<std::byte> one(1'000'000, std::byte{1});
    return {one, megabytes * 1'000'000};
  }

  void climb_experts(const Experts& shape) {
    for (const std::string& type : options_.types) {
      if (type == kU8S8) continue;
      std::vector<std::unique_ptr<Bench>> experts;
      experts.push_back(ffn_bench(rng_, type, shape, pools_, wanted_));
      climb(experts);
    }
  }

  void climb_lookahead(const Experts& shape) {
    for (const std::string& type : options_.types) {
      if (type != "q8_0" && type != "f16") continue;  // what devices hold, and what files do
      std::vector<std::unique_ptr<Bench>> one;
      one.push_back(lookahead_bench(rng_, type, shape, pools_, wanted_));
      climb(one);
    }
  }

  void climb_attention(const Heads& heads) {
    std::vector<std::unique_ptr<Bench>> caches;
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0}) {
      caches.push_back(attention_bench(rng_, type, heads, pools_, wanted_));
    }
    climb(caches);
  }

  // All kernels of a number of tokens take turns.
  void climb(const std::vector<std::unique_ptr<Bench>>& benches) {
    for (const int64_t tokens : options_.tokens) {
      std::vector<Case> cases;
      for (const auto& bench : benches) {
        for (Case& c : bench->cases(tokens)) cases.push_back(std::move(c));
      }
      std::vector<int64_t> calls;
      calls.reserve(cases.size());
      for (const Case& c : cases) calls.push_back(check(c));
      std::vector<Measured> measured(cases.size());
      for (int round = 0; round < options_.rounds; ++round) measure(cases, calls, &measured);
      for (size_t i = 0; i < cases.size(); ++i) {
        print_row(cases[i], measured[i]);
        write_csv_row(csv_, cases[i], measured[i]);
      }
    }
  }

  // The calls that make a sample long enough. std::runtime_error where a result is wrong.
  int64_t check(const Case& c) const {
    const testing::IsaScope isa(c.isa);
    c.call();
    const std::string wrong = c.check();
    if (!wrong.empty()) {
      throw std::runtime_error(fmt::format("{} of {} [{}, {}] with {} tokens and {} threads: {}",
                                           c.kernel, c.type, c.rows, c.cols, c.tokens,
                                           c.pool->size(), wrong));
    }
    const double seconds = seconds_of_calls(c, 1);
    return std::max<int64_t>(std::llround(options_.sample_ms * 1e-3 / seconds), 1);
  }

  void measure(const std::vector<Case>& cases, const std::vector<int64_t>& calls,
               std::vector<Measured>* measured) {
    std::map<const ThreadPool*, Limits> limits;
    for (const Case& c : cases) {
      if (!limits.contains(c.pool)) limits[c.pool] = measure_limits(memory_.all(), *c.pool);
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      const testing::IsaScope isa(c.isa);
      Measured& m = (*measured)[i];
      m.seconds.push_back(seconds_of_calls(c, calls[i]));
      m.read_gbps.push_back(limits[c.pool].read_gbps);
      m.peak_gops.push_back(limits[c.pool].gops[static_cast<size_t>(c.peak)]);
    }
  }

  const Options& options_;
  std::FILE* csv_;
  Ring memory_;
  Pools pools_;
  Wanted wanted_;
  std::mt19937 rng_{1};
};

std::string command(int argc, char** argv) {
  std::string text = "bench_kernels";
  for (int i = 1; i < argc; ++i) text += std::string(" ") + argv[i];
  return text;
}

int run(int argc, char** argv) {
  CLI::App app("CPU kernels beside the limits of this machine, oneDNN and plain C++");
  Options options;
  const auto list = [&](const char* flag, auto* values, const char* what) {
    return app.add_option(flag, *values, what)->delimiter(',')->capture_default_str();
  };
  list("--types", &options.types, "of weights; u8s8: oneDNN's bytes without scales")
      ->check(CLI::IsMember(options.types));
  list("--tokens", &options.tokens, "at once")->check(CLI::Range(1, 4096));
  list("--threads", &options.threads, "experts and attention take the last")
      ->check(CLI::Range(1, 1024));
  list("--kernels", &options.kernels, "which to measure")
      ->check(CLI::IsMember(
          {kMatmul, kScalar, kOnednn, kOnednnTile, kExpertFfn, kMoeLayer, kAttention, kLookahead}));
  list("--depths", &options.depths, "tokens before those of attention")
      ->check(CLI::Range(1, 65536));
  list("--experts", &options.experts, "shapes for expert_ffn, moe_layer, attention and lookahead")
      ->check(CLI::IsMember({"olmoe", "qwen3", "mixtral"}));
  app.add_option("--rows", options.rows, "of the matrix, a multiple of 16")->capture_default_str();
  app.add_option("--cols", options.cols, "of the matrix, a multiple of 256")->capture_default_str();
  app.add_option("--rounds", options.rounds, "samples of each row")->check(CLI::Range(1, 1000));
  app.add_option("--sample-ms", options.sample_ms, "least length of a sample, one call at least");
  app.add_option("--ring-mb", options.ring_mb, "bytes of copies that calls go through");
  app.add_option("--out", options.out, "CSV file for the raw figures");
  CLI11_PARSE(app, argc, argv);
  if (options.rows < 16 || options.rows % 16 != 0 || options.cols < 256 ||
      options.cols % 256 != 0) {
    throw std::invalid_argument(
        fmt::format("expected rows in 16s and columns in 256s, got a matrix of {} by {}",
                    options.rows, options.cols));
  }
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> csv(nullptr, std::fclose);
  if (!options.out.empty()) {
    csv.reset(std::fopen(options.out.c_str(), "w"));
    if (!csv) throw std::runtime_error("cannot write " + options.out);
  }
  write_csv_head(csv.get(), command(argc, argv));
  Ladder ladder(options, csv.get());
  ladder.print_machine();
  ladder.run();
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  try {
    return tandem::bench::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_kernels: {}\n", e.what());
    return 1;
  }
}
