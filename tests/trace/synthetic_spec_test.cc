// The text form of synthetic traces' settings.
#include "tests/support/catch.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

std::string fault(const std::string& spec) {
  SyntheticTraceSettings settings = small_settings();
  return parse_synthetic_trace(spec, settings);
}

TEST_CASE("a synthetic trace is told from a file by its first word") {
  CHECK(is_synthetic_trace("synthetic"));
  CHECK(is_synthetic_trace("synthetic:mixtral"));
  CHECK_FALSE(is_synthetic_trace("synthetic.csv"));
  CHECK_FALSE(is_synthetic_trace("./synthetic:mixtral"));
  CHECK_FALSE(is_synthetic_trace(""));
}

TEST_CASE("every key sets its own") {
  SyntheticTraceSettings s;
  CHECK(
      parse_synthetic_trace("synthetic:layers=3,experts=40,top_k=5,ranks=7,sequences=8,prompt=128,"
                            "decode=256,skew=0.3,topic=0.2,reuse=0.6,memory=0.5,sharpness=2.5,"
                            "predict=0.85,ahead=2,seed=18446744073709551615",
                            s) == "");
  CHECK(s.n_layers == 3);
  CHECK(s.n_experts == 40);
  CHECK(s.top_k == 5);
  CHECK(s.n_ranks == 7);
  CHECK(s.n_sequences == 8);
  CHECK(s.n_prompt == 128);
  CHECK(s.n_decode == 256);
  CHECK(s.skew == 0.3);
  CHECK(s.topic == 0.2);
  CHECK(s.reuse == 0.6);
  CHECK(s.memory == 0.5);
  CHECK(s.sharpness == 2.5);
  CHECK(s.predictability == 0.85);
  CHECK(s.n_ahead == 2);
  CHECK(s.seed == 18446744073709551615U);
}

TEST_CASE("what is not named keeps its value") {
  SyntheticTraceSettings s = small_settings();
  CHECK(parse_synthetic_trace("synthetic", s) == "");
  CHECK(parse_synthetic_trace("synthetic:seed=9", s) == "");
  CHECK(s.seed == 9);
  CHECK(s.n_experts == 32);
  CHECK(s.n_decode == 200);
}

TEST_CASE("a preset sets the model's shape and keys after it change it") {
  SyntheticTraceSettings s;
  CHECK(parse_synthetic_trace("synthetic:mixtral", s) == "");
  CHECK(s.model == "mixtral");
  CHECK(s.n_layers == 32);
  CHECK(s.n_experts == 8);
  CHECK(s.top_k == 2);
  s.n_ranks = 8;
  CHECK(parse_synthetic_trace("synthetic:deepseek-v2-lite,decode=4", s) == "");
  CHECK(s.n_layers == 26);
  CHECK(s.n_ranks == 0);
  CHECK(s.n_decode == 4);
  CHECK(parse_synthetic_trace("synthetic:qwen2-57b,skew=1,layers=2", s) == "");
  CHECK(s.top_k == 8);
  CHECK(s.skew == 1.0);
  CHECK(s.n_layers == 2);
}

TEST_CASE("a spec that is not as it should be is an error that says what to write") {
  CHECK(fault("synthetic:skew=1") == "");
  CHECK(fault("random:skew=1") == "a synthetic trace: expected synthetic:…, got random:skew=1");
  CHECK(fault("synthetic:skw=1") ==
        "synthetic:skw=1: unknown key skw; expected one of layers, experts, top_k, ranks, "
        "sequences, prompt, decode, ahead, skew, topic, reuse, memory, sharpness, predict, seed, "
        "or first a preset: mixtral deepseek-v2-lite qwen2-57b");
  CHECK_THAT(fault("synthetic:mixtrl"),
             contains("expected KEY=VALUE, got \"mixtrl\"; the keys are"));
  CHECK_THAT(fault("synthetic:skew=1,mixtral"), contains("expected KEY=VALUE, got \"mixtral\""));
  CHECK_THAT(fault("synthetic:"), contains("expected KEY=VALUE, got \"\""));
  CHECK_THAT(fault("synthetic:skew=1,"), contains("expected KEY=VALUE, got \"\""));
  CHECK(fault("synthetic:skew=1,skew=1") == "synthetic:skew=1,skew=1: skew is given twice");
  CHECK(fault("synthetic:skew=5") == "synthetic:skew=5: skew: expected 0 to 4, got 5");
  CHECK(fault("synthetic:skew=nan") == "synthetic:skew=nan: skew: expected 0 to 4, got nan");
  CHECK(fault("synthetic:memory=1") == "synthetic:memory=1: memory: expected 0 to 0.9999, got 1");
  CHECK(fault("synthetic:predict=") == "synthetic:predict=: predict: expected 0 to 1, got ");
  CHECK(fault("synthetic:prompt=1x") ==
        "synthetic:prompt=1x: prompt: expected 0 to 1000000, got 1x");
  CHECK(fault("synthetic:prompt=-1") ==
        "synthetic:prompt=-1: prompt: expected 0 to 1000000, got -1");
  CHECK(fault("synthetic:prompt=9999999999") ==
        "synthetic:prompt=9999999999: prompt: expected 0 to 1000000, got 9999999999");
  CHECK(fault("synthetic:seed=-1") ==
        "synthetic:seed=-1: seed: expected a number of 64 bits, got -1");
  CHECK(fault("synthetic:layers=4097") ==
        "synthetic:layers=4097: layers: expected 1 to 4096, got 4097");
}

TEST_CASE("settings that contradict each other are an error") {
  CHECK(fault("synthetic:experts=3") ==
        "synthetic:experts=3: top_k: expected at most the 3 experts, got 4");
  CHECK(fault("synthetic:ranks=3") ==
        "synthetic:ranks=3: ranks: expected top_k to experts (4 to 32), got 3");
  CHECK(fault("synthetic:ranks=33") ==
        "synthetic:ranks=33: ranks: expected top_k to experts (4 to 32), got 33");
  CHECK(fault("synthetic:prompt=0,decode=0") ==
        "synthetic:prompt=0,decode=0: expected tokens: prompt and decode are both 0");
  CHECK_THAT(fault("synthetic:sequences=1000000,decode=1000000"),
             contains("expected at most 2^30 entries"));
  SyntheticTraceSettings none;
  CHECK(parse_synthetic_trace("synthetic:skew=1", none) ==
        "synthetic:skew=1: layers: expected 1 to 4096, got 0");
}

TEST_CASE("settings that are refused change nothing") {
  SyntheticTraceSettings s = small_settings();
  CHECK(parse_synthetic_trace("synthetic:qwen2-57b,seed=9,skew=9", s) != "");
  CHECK(s.seed == small_settings().seed);
  CHECK(s.n_experts == small_settings().n_experts);
}

}  // namespace
}  // namespace tandem::test
