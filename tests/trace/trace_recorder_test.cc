#include "runtime/trace/trace_recorder.h"

#include "runtime/trace/trace_fault.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

TraceHeader small_header() {
  TraceHeader header;
  header.n_layers = 2;
  header.n_experts = 4;
  header.top_k = 1;
  header.n_ranks = 2;
  header.n_ahead = 1;
  header.lookahead = LookaheadName::kGateReuse;
  return header;
}

// The routing of tokens whose best and second best experts are given; the guess for the next layer
// is one expert each, or none.
struct Routed {
  std::vector<ExpertId> ids, ranked, predicted;
  std::vector<float> weights, scores;
  RoutingDecision decision;

  Routed(int layer, const std::vector<std::pair<int, int>>& best, const std::vector<int>& guesses) {
    for (const auto& [first, second] : best) {
      ids.push_back(ExpertId{first});
      weights.push_back(1.0F);
      ranked.insert(ranked.end(), {ExpertId{first}, ExpertId{second}});
      scores.insert(scores.end(), {0.5F, 0.25F});
    }
    for (const int guess : guesses) predicted.push_back(ExpertId{guess});
    decision.layer = LayerId{layer};
    decision.n_tokens = static_cast<int32_t>(best.size());
    decision.top_k = 1;
    decision.ids = ids;
    decision.weights = weights;
    decision.n_ranks = 2;
    decision.ranked = ranked;
    decision.scores = scores;
    decision.n_ahead = 1;
    decision.predicted = predicted;
  }
  Routed(const Routed&) = delete;
  Routed& operator=(const Routed&) = delete;
};

void observe(TraceRecorder* recorder, int layer, const std::vector<std::pair<int, int>>& best,
             const std::vector<int>& guesses) {
  recorder->observe(Routed(layer, best, guesses).decision);
}

// A prompt of three tokens in two steps, then one decoded token; then another prompt of one token.
Trace recorded() {
  TraceRecorder recorder(small_header());
  recorder.begin_sequence(3);
  observe(&recorder, 0, {{0, 1}, {1, 2}}, {3, 2});
  observe(&recorder, 1, {{3, 0}, {0, 1}}, {-1, -1});
  observe(&recorder, 0, {{2, 3}}, {1});
  observe(&recorder, 1, {{1, 0}}, {-1});
  observe(&recorder, 0, {{3, 2}}, {0});
  observe(&recorder, 1, {{2, 0}}, {-1});
  recorder.begin_sequence(1);
  observe(&recorder, 0, {{1, 0}}, {-1});
  observe(&recorder, 1, {{1, 0}}, {-1});
  return recorder.finish();
}

}  // namespace

TEST_CASE("a recorded trace has the steps, selections, scores and guesses that were seen") {
  const Trace trace = recorded();
  CHECK_FALSE(find_trace_fault(trace).has_value());
  REQUIRE(trace.steps.size() == 4);
  CHECK(trace.n_tokens() == 5);
  const std::vector<bool> prefill{true, true, false, true};
  const std::vector<int32_t> sequences{0, 0, 0, 1};
  const std::vector<int32_t> tokens{2, 1, 1, 1};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(trace.steps[i].prefill == prefill[i]);
    CHECK(trace.steps[i].sequence == sequences[i]);
    CHECK(trace.steps[i].n_tokens == tokens[i]);
  }
  CHECK(trace.ids ==
        std::vector<int16_t>{0, 1, 3, 0, 1, 2, 0, 1, 2, 3, 1, 0, 3, 2, 2, 0, 1, 0, 1, 0});
  CHECK(trace.weights_of(4, 1)[0] == 0.5F);
  CHECK(trace.weights_of(4, 1)[1] == 0.25F);
  CHECK(trace.predicted == std::vector<int16_t>{3, -1, 2, -1, 1, -1, 0, -1, -1, -1});
}

TEST_CASE("a recorded trace is read back as it was") {
  const Trace trace = recorded();
  const Trace back = parse(encode(trace));
  CHECK(back.ids == trace.ids);
  CHECK(back.weights == trace.weights);
  CHECK(back.predicted == trace.predicted);
  CHECK(back.steps.size() == trace.steps.size());
}

TEST_CASE("a step that was stopped half-way leaves no trace") {
  TraceRecorder recorder(small_header());
  recorder.begin_sequence(2);
  observe(&recorder, 0, {{0, 1}, {1, 2}}, {3, 2});
  recorder.begin_sequence(1);
  observe(&recorder, 0, {{2, 1}}, {3});
  observe(&recorder, 1, {{3, 1}}, {-1});
  observe(&recorder, 0, {{0, 1}}, {3});
  const Trace trace = recorder.finish();
  CHECK_FALSE(find_trace_fault(trace).has_value());
  REQUIRE(trace.steps.size() == 1);
  CHECK(trace.steps[0].sequence == 1);
  CHECK(trace.ids == std::vector<int16_t>{2, 1, 3, 1});
}

TEST_CASE("recall counts the guesses that came true, and nothing where none was made") {
  // Of the guesses 3, 2, 1 and 0 for layer 1, the first and the third were used.
  CHECK(lookahead_recall(recorded()) == std::vector<double>{0.5});
  TraceRecorder recorder(small_header());
  recorder.begin_sequence(1);
  observe(&recorder, 0, {{0, 1}}, {-1});
  observe(&recorder, 1, {{0, 1}}, {-1});
  CHECK(lookahead_recall(recorder.finish()) == std::vector<double>{0.0});
}

TEST_CASE("the memory of a token is that of its numbers") {
  // 2 layers: 2 ids of two bytes, 2 weights of four, 1 guess of two.
  CHECK(TraceRecorder::token_bytes(small_header()) == 2 * (2 * 2 + 2 * 4 + 2));
}

TEST_CASE("routing of another shape than the trace's fails a check") {
  CHECK(dies([] {
    TraceHeader header = small_header();
    header.top_k = 2;
    TraceRecorder recorder(header);
    recorder.begin_sequence(1);
    observe(&recorder, 0, {{0, 1}}, {-1});
  }));
}

}  // namespace tandem::test
