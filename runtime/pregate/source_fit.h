// The fit of one source layer; fit.h puts them together.
#pragma once

#include <cstdint>
#include <memory>
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

class SourceFit {
 public:
  // Asked now and then whether to go on.
  using GoOn = FunctionRef<bool()>;

  // All outlive this.
  SourceFit(const Model& model, const TapSplit& data, int32_t source, int32_t n_distances);
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

  bool accumulate(GoOn go_on);
  void count_uses();
  Guess reuse() const;
  Guess solve(double ridge) const;
  bool choose(GoOn go_on);
  bool calibrate(GoOn go_on);
  bool test(GoOn go_on, std::vector<LinkScore>* scores);
  std::vector<ExpertId> hot_list(size_t link) const;

  // f(first token of the chunk); false when it was not to go on.
  template <typename F>
  bool for_each_chunk(const TapFiles& files, GoOn go_on, F f);
  // f(link, chosen guess's logits, the router's, token of the chunk, whether it begins a text)
  template <typename F>
  bool for_each_guess(const TapFiles& files, GoOn go_on, F f);
  // Nobody where a logit is not finite.
  void select(const float* logits, std::vector<ExpertId>* ids);
  float middle(const float* logits);

  const Model& model_;
  const TapSplit& data_;
  int32_t source_;
  int64_t n_links_;
  int64_t n_experts_;
  size_t top_k_;
  Router router_;
  std::vector<float> sorted_;  // [n_experts]
  std::unique_ptr<Chunk> chunk_;
  std::unique_ptr<Sums> sums_;
  std::vector<Link> links_;
};

}  // namespace tandem
