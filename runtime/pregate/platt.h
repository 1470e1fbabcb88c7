// Platt's calibration: from a margin to a probability by a logistic curve.
// Source: J. Platt, "Probabilistic outputs for support vector machines" (1999); the likelihood is
// maximised by Newton's method.
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

struct PlattCurve {
  double scale = 1;  // P = 1 / (1 + exp(-(scale margin + offset)))
  double offset = 0;
  double probability(double margin) const;
};

// margins, used: [n], used being 0 or 1. Targets are drawn a little towards the middle, as there,
// so that a margin that separates perfectly gives a finite curve.
PlattCurve fit_platt(std::span<const float> margins, std::span<const uint8_t> used);

}  // namespace tandem
