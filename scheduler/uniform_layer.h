// What a layer takes whose experts all have the same number of tokens, so that only numbers of
// pieces matter. The same as layer_end() in layer_problem.h, but with what several placements have
// in common worked out once.
//
// Experts are absent, residents (there when the GPU is free), or odd: there in part, or on their
// way. Absent ones are alike, and so are residents.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "scheduler/layer_problem.h"

namespace tandem {

class UniformLayer {
 public:
  static constexpr size_t kMostOdd = 16;
  using OddPieces = std::array<int32_t, kMostOdd>;

  // The problem must outlive this.
  explicit UniformLayer(const LayerProblem& problem);

  // False when loads differ, when there are none, or when there are more than kMostOdd odd experts.
  bool sort_out();

  int32_t absent() const { return absent_; }
  int32_t residents() const { return residents_; }
  size_t n_odd() const { return n_odd_; }
  // Those with more pieces first, of equal ones those that land sooner.
  const LayerItem& odd(size_t n) const { return problem_.items[odd_[n]]; }
  size_t odd_item(size_t n) const { return odd_[n]; }

  // Of one piece, in microseconds.
  double cpu_us() const { return cpu_; }
  double gpu_us() const { return gpu_; }
  double copy_us() const { return copy_; }
  // What a microsecond of copying takes from the CPU's.
  double slowed() const { return 1 - cpu_ / cpu_shared_; }
  // On the GPU, for an expert with a launch of its own.
  double launched_us(int32_t pieces) const { return problem_.cost.gpu_launch + pieces * gpu_; }

  // The GPU gets so many pieces of the odd experts,
  void set_odd(const OddPieces& gpu);
  // and so many of absent ones, which are fetched whole but for one.
  void set_fetched(int32_t pieces);
  // Then these hold; the GPU gets so many pieces of residents.
  double link_end() const { return link_; }
  double gpu_end(int32_t resident) const;
  double cpu_end(int32_t resident) const;

 private:
  // GPU work behind other work: started at s it ends at max(s + work, least).
  struct Chain {
    double work = 0;
    double least = 0;
    void then(double ready, double us);
  };
  // A copy and the computation that follows it.
  struct Copy {
    double copy = 0;
    double gpu = 0;
    bool before(const Copy& b) const;  // Johnson's rule; see layer_problem.h
  };
  void copy(const Copy& one);

  const LayerProblem& problem_;
  const int32_t pieces_;
  double cpu_ = 0;
  double cpu_shared_ = 0;
  double gpu_ = 0;
  double copy_ = 0;
  int32_t absent_ = 0;
  int32_t residents_ = 0;
  size_t n_odd_ = 0;
  std::array<size_t, kMostOdd> odd_{};  // items

  // Of the odd experts' pieces:
  Chain late_;                           // those on their way
  std::array<Copy, kMostOdd> copies_{};  // in their order
  size_t n_copies_ = 0;
  int32_t there_ = 0;    // pieces that are there at the start
  int32_t odd_cpu_ = 0;  // pieces for the CPU
  // And of the absent ones':
  Chain chain_;
  double link_ = 0;
  int32_t cpu_pieces_ = 0;
};

}  // namespace tandem
