// What becomes of experts that are copied before they are asked for, in simulations.
#include "tests/scheduler/simulator_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a wrong lookahead costs copies, never a use that is not there") {
  Fixture f;
  f.input.lookahead.recall = 0;
  f.input.lookahead.drop = 0;
  const SimResult lied_to = simulate(f.input, f.ours);
  const SimResult plain = simulate(f.input, f.without_prefetch());
  CHECK(lied_to.cache.hits + lied_to.cache.misses == plain.cache.hits + plain.cache.misses);
  // It learns that the guesses are worth nothing: little is lost.
  CHECK(lied_to.tokens_per_second() >= 0.95 * plain.tokens_per_second());
}

TEST_CASE("every transfer comes to one end, or has not come to one yet") {
  const Fixture f;
  const TransferStats t = simulate(f.input, f.ours).transfers;
  CHECK(t.started > 0);
  CHECK(t.on_time + t.late + t.unused <= t.started);
  CHECK(t.polluting <= t.started);
  CHECK(t.wasted_bytes <= t.bytes);
}

// Unmeasured steps come first, and prompts in between.
TEST_CASE("transfers are counted where bytes are: in what is measured") {
  Fixture f;
  f.input.lookahead.recall = 0.3;
  const SimResult result = simulate(f.input, f.ours);
  CHECK(result.transfers.started > 0);
  CHECK(result.transfers.bytes == result.totals.bytes_prefetched);
  CHECK(result.transfers.wasted_bytes > 0);
  CHECK(result.transfers.wasted_bytes <=
        result.totals.bytes_prefetched + result.totals.bytes_demand);
}

TEST_CASE("looking ahead loses nothing where the link brings little of what is missed") {
  // Experts and rates as in the study's worst cell: it would take the link several tokens to bring
  // what one misses.
  const SyntheticTraceSettings routes{
      "small", 12, 64, 4, 0, /*n_sequences=*/3, /*n_prompt=*/16, /*n_decode=*/64, /*seed=*/3};
  Fixture f;
  f.trace = make_synthetic_trace(routes);
  f.shape.n_layers = 12;
  f.shape.n_experts = 64;
  f.shape.expert_bytes.assign(12, 13'000'000);
  f.shape.expert_params = 24'000'000;
  f.machine.cpu = {60, 800, 8};
  f.machine.link.h2d_gbps = 10;
  f.machine.dram_gbps = 80;
  f.input.steps = decode_steps(f.trace);
  f.input.capacity_bytes = int64_t{12} * 16 * 13'000'000;
  f.input.lookahead = {true, 0.25, 0.04, 1};
  SchedulingSettings settings;
  settings.policy = "learned";
  const double with = simulate(f.input, settings).tokens_per_second();
  SchedulingSettings fills_only = settings;
  fills_only.predictor = "none";
  const double without = simulate(f.input, fills_only).tokens_per_second();
  CHECK(with > 0.99 * without);
  // Whom a guess displaces is not back in the next token: without patience that is not seen.
  settings.prefetch.patience = 0;
  CHECK(simulate(f.input, settings).tokens_per_second() < 0.99 * without);
}

TEST_CASE(
    "what is sent early and never used stays under a fifth of all bytes, looking ahead or not") {
  for (const bool ahead : {false, true}) {
    // Most experts are there, so those that are guessed and absent are often guessed wrongly.
    Fixture f(0.8);
    f.input.lookahead.recall = 0.6;
    if (!ahead) f.ours.predictor = "none";
    const auto wasted = [&] {
      const SimResult result = simulate(f.input, f.ours);
      return static_cast<double>(result.transfers.wasted_bytes) /
             static_cast<double>(result.totals.bytes_demand + result.totals.bytes_prefetched);
    };
    CAPTURE(ahead);
    CHECK(wasted() < 0.2);
    f.ours.prefetch.most_waste = 1;
    CHECK(wasted() > 0.25);
  }
}

}  // namespace tandem::test
