// The fit of one source layer, or of one tap of it; fit.h puts them together.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/function_ref.h"
#include "runtime/model/model.h"
#include "runtime/pregate/fit.h"
#include "runtime/pregate/pregate.h"
#include "runtime/pregate/tap_file.h"
#include "scheduler/routing.h"

namespace tandem {

using TapFiles = std::vector<std::unique_ptr<TapFile>>;

struct TapSplit {
  TapFiles training, validation, test;
};

struct FittedLink {
  PregateLink link;
  LinkScore score;
};

// What is guessed of what is known of a layer: of its router's input the next layers, or of the
// residual before its attention the layer itself.
struct FitTask {
  int32_t source = 0;
  int32_t first_distance = 1;  // 0: before attention
  int32_t n_distances = 1;     // from that one on, whose layers are there
  int32_t epochs = 0;          // of refinement, at most
};

class SourceFit {
 public:
  // Asked now and then whether to go on.
  using GoOn = FunctionRef<bool()>;

  // All outlive this.
  SourceFit(const Model& model, const TapSplit& data, const FitTask& task);
  ~SourceFit();
  SourceFit(const SourceFit&) = delete;
  SourceFit& operator=(const SourceFit&) = delete;

  // By distance; empty when it was not to go on.
  std::vector<FittedLink> run(GoOn go_on);

  // Memory that it takes at most.
  static int64_t bytes(const TapShape& shape, int32_t n_distances, int64_t validation_tokens);

 private:
  struct Sums;   // of the training prompts
  struct Guess;  // for all distances, with one ridge
  struct Link;   // what is chosen for a distance
  struct Chunk;  // some tokens
  struct TokenAt {
    const TapFile* file;
    int64_t at;
  };
  using Counts = std::vector<std::vector<int64_t>>;  // [guesses] of [links]

  bool accumulate(GoOn go_on);
  void count_uses();
  Guess reuse() const;
  Guess solve(double ridge) const;
  bool choose(GoOn go_on);
  // Guessed experts that are right, on the prompts that choose.
  bool count_right(GoOn go_on, std::span<const Guess> guesses, Counts* right);
  void take(const Guess& guess, size_t link);
  Guess calibrated() const;
  bool refine(GoOn go_on);
  bool calibrate(GoOn go_on);
  bool test(GoOn go_on, std::vector<LinkScore>* scores);
  std::vector<ExpertId> hot_list(size_t link) const;

  void read_inputs(const TapFile& file, int64_t first, int64_t n, float* inputs) const;
  void read_tokens(std::span<const TokenAt> tokens);
  // f(first token of the chunk); false when it was not to go on.
  bool for_each_chunk(const TapFiles& files, GoOn go_on, FunctionRef<void(int64_t)> f);
  // f(link, chosen guess's logits, the router's, token of the chunk, whether it begins a text)
  template <typename F>
  bool for_each_guess(const TapFiles& files, GoOn go_on, F f);
  // Nobody where a logit is not finite.
  void select(const float* logits, std::vector<ExpertId>* ids);
  float middle(const float* logits);

  const Model& model_;
  const TapSplit& data_;
  int32_t source_;
  int32_t first_;  // distance
  int64_t n_links_;
  int32_t epochs_;
  int64_t n_experts_;
  size_t top_k_;
  Router router_;
  std::vector<float> sorted_;  // [n_experts]
  std::unique_ptr<Chunk> chunk_;
  std::unique_ptr<Sums> sums_;
  std::vector<Link> links_;
};

}  // namespace tandem
