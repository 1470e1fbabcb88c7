// What SourceFit keeps between its parts; for its two .cc files alone.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "runtime/pregate/platt.h"
#include "runtime/pregate/refine.h"
#include "runtime/pregate/source_fit.h"
#include "scheduler/routing.h"

namespace tandem {

constexpr double kNoCorrection = std::numeric_limits<double>::infinity();

// logits of all distances = weight x + bias.
struct SourceFit::Guess {
  double ridge = kNoCorrection;
  Rows weight;           // [links * E, d]
  Eigen::VectorXf bias;  // [links * E]
};

struct SourceFit::Sums {
  Rows reuse;  // [links * E, d]
  int64_t n = 0;
  Eigen::MatrixXd gram;                    // [d, d], its lower half
  Eigen::MatrixXd cross;                   // [d, links * E] of inputs and what gate reuse lacks
  Eigen::VectorXd x;                       // [d]
  Eigen::VectorXd lacks;                   // [links * E]
  std::vector<std::vector<int64_t>> uses;  // [links] of [E]
};

struct SourceFit::Chunk {
  Rows inputs;  // [n, d]
  Rows logits;  // [n, links * E] of later layers' routers
  FloatProducts products;
};

struct SourceFit::Link {
  double ridge = kNoCorrection;
  int32_t epochs = 0;    // of its refinement
  int64_t right = 0;     // guessed experts of the prompts that choose
  Rows weight;           // [E, d], exactly what halves hold
  Eigen::VectorXf bias;  // [E]
  PlattCurve curve;
  double middle = 0;  // mean of the selection's middle, on the prompts that choose
};

// How many are in both.
int64_t in_common(std::span<const ExpertId> a, std::span<const ExpertId> b);

}  // namespace tandem
