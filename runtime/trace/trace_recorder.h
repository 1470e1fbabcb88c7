// Collects a trace from the routing of a model that runs. Used by the thread that runs the step
// loop. The whole trace stays in memory: token_bytes() for each token.
#pragma once

#include <cstdint>

#include "scheduler/routing.h"
#include "scheduler/trace.h"

namespace tandem {

class TraceRecorder {
 public:
  explicit TraceRecorder(TraceHeader header);

  // Host memory of one token.
  static int64_t token_bytes(const TraceHeader& header);
  // Room for so many tokens; std::bad_alloc when there is none.
  void reserve(int64_t n_tokens);

  // What follows is a new sequence: first so many tokens of a prompt, in one step or several, then
  // tokens that were decoded.
  void begin_sequence(int64_t prompt_tokens);
  // A step's layers, from the first to the last. A step that never gets there leaves no trace.
  // Guesses farther ahead than the header says are left out; CHECKs that there are as many.
  void observe(const RoutingDecision& routing);

  // The steps that were whole.
  Trace finish();

 private:
  void note(const RoutingDecision& routing, size_t token, size_t row);

  Trace trace_;
  int32_t sequence_ = -1;
  int64_t prompt_left_ = 0;
};

// Which part of the selections was among the recorded guesses, made so many layers before:
// [n_ahead], 0 where nothing was guessed.
std::vector<double> lookahead_recall(const Trace& trace);

}  // namespace tandem
