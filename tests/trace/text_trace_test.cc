// CSV and JSON lines: what is read from good files, and what is said of bad ones.
#include "runtime/trace/trace_file.h"
#include "tests/support/catch.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

// tests/fixtures/trace/tiny.*, sorted by weight.
Trace tiny() {
  Trace trace;
  trace.header = {"tiny.gguf", "", 3, 6, 2, 2, 0, {1000, 2000, 3000}};
  trace.steps = {{0, true, 0, 3}, {0, false, 3, 1}, {0, false, 4, 1}, {1, false, 5, 1}};
  trace.ids = {
      5, 1, 4, 3,  -1, -1,  //
      2, 5, 4, -1, -1, -1,  //
      1, 0, 0, 3,  2,  1,   //
      1, 2, 0, 5,  2,  0,   //
      4, 1, 0, 4,  5,  2,   //
      3, 0, 2, 1,  0,  1,
  };
  trace.weights = {
      0.75F,   0.25F,   0.75F,   0.25F,   0.0F,    0.0F,     //
      0.625F,  0.375F,  1.0F,    0.0F,    0.0F,    0.0F,     //
      0.5F,    0.5F,    0.875F,  0.125F,  0.5625F, 0.4375F,  //
      0.9375F, 0.0625F, 0.5F,    0.5F,    0.625F,  0.375F,   //
      0.75F,   0.25F,   0.6875F, 0.3125F, 0.8125F, 0.1875F,  //
      0.625F,  0.375F,  1.0F,    0.0F,    0.75F,   0.25F,
  };
  return trace;
}

TEST_CASE("a CSV trace is read with a prompt as one step and missing cells as -1") {
  CHECK(difference(tiny(), read_trace(fixture("tiny.csv")), 0.0) == "");
}

TEST_CASE("a trace in JSON lines is read with sequences and phases") {
  CHECK(difference(tiny(), read_trace(fixture("tiny.jsonl")), 0.0) == "");
}

TEST_CASE("a trace in JSON lines needs only layers, tokens, ids and weights") {
  Trace expected;
  expected.header = {"", "", 2, 4, 2, 2, 0, {}};
  expected.steps = {{0, false, 0, 1}, {0, false, 1, 1}};
  expected.ids = {3, 0, 2, 1, 1, -1, -1, -1};
  expected.weights = {0.75F, 0.5F, 0.5F, 0.25F, 1.0F, 0.0F, 0.0F, 0.0F};
  CHECK(difference(expected, read_trace(fixture("bare.jsonl")), 0.0) == "");
}

TEST_CASE("a text trace survives our own format") {
  CHECK(difference(tiny(), parse(encode(read_trace(fixture("tiny.csv")))), 0.0) == "");
}

const std::string kColumns = "turn,phase,step,layer,slot,expert,weight\n";

std::string csv_error(const std::string& text) {
  return error_of([&] { parse(text, "t.csv"); });
}

TEST_CASE("a CSV trace needs no comments and may end its lines in two bytes") {
  const Trace trace = parse(
      "turn,phase,step,layer,slot,expert,weight\r\n"
      "2,1,0,0,0,3,0.5\r\n"
      "2,1,0,0,1,1,0.25\r\n"
      "2,1,0,1,0,0,0.5\r\n");
  CHECK(trace.header.n_layers == 2);
  CHECK(trace.header.n_experts == 4);
  CHECK(trace.header.top_k == 2);
  CHECK(trace.ids == std::vector<int16_t>{3, 1, 0, -1});
  CHECK(trace.steps.at(0).sequence == 2);
}

TEST_CASE("a CSV row that is not as it should be is an error with its line") {
  const std::string good = "0,1,0,0,0,3,0.5\n";
  REQUIRE(csv_error(kColumns + good) == "no error");
  const auto error = [&](const std::string& row) {
    return csv_error(kColumns + good + row + "\n");
  };
  CHECK(error("0,1,0,0,1,2") == "t.csv:3: expected 7 columns, got 6");
  CHECK(error("0,1,0,0,1,2,0.5,1,1") == "t.csv:3: expected 7 columns, got 9");
  CHECK(error("0,1,0,0,1,x,0.5") == "t.csv:3: expert: expected a number, got \"x\"");
  CHECK(error("0,1,0,0,1,,0.5") == "t.csv:3: expert: expected a number, got \"\"");
  CHECK(error("0,1,0,0,1,4096,0.5") == "t.csv:3: expert: expected 0 to 4095, got 4096");
  CHECK(error("0,1,0,0,1,-1,0.5") == "t.csv:3: expert: expected 0 to 4095, got -1");
  CHECK(error("0,1,0,4096,0,1,0.5") == "t.csv:3: layer: expected 0 to 4095, got 4096");
  CHECK(error("0,2,0,0,0,1,0.5") == "t.csv:3: phase: expected 0 to 1, got 2");
  CHECK(error("-1,1,0,0,0,1,0.5") == "t.csv:3: turn: expected 0 to 2147483647, got -1");
  CHECK(error("0,1,-3,0,0,1,0.5") == "t.csv:3: step: expected 0 to 9007199254740992, got -3");
  CHECK(error("0,1,0,0,2,1,0.5") == "t.csv:3: expected slot 1, got 2");
  CHECK(error("0,1,1,0,1,1,0.5") == "t.csv:3: expected slot 0, got 1");
  CHECK(error("0,1,0,0,1,1,nan") == "t.csv:3: weight: expected 0 to 65504, got nan");
  CHECK(error("0,1,0,0,1,1,inf") == "t.csv:3: weight: expected 0 to 65504, got inf");
  CHECK(error("0,1,0,0,1,1,-0.25") == "t.csv:3: weight: expected 0 to 65504, got -0.25");
  CHECK(error("0,1,0,0,1,1,65505") == "t.csv:3: weight: expected 0 to 65504, got 65505");
  CHECK(error("0,1,0,0,1,3,0.5") == "t.csv:3: expert 3 appears twice in a selection");
}

TEST_CASE("tokens that go backwards are an error") {
  const auto error = [&](const std::string& first, const std::string& second) {
    return csv_error(kColumns + first + ",0,0,0,1\n" + second + ",0,0,0,1\n" + "9,1,0,0,0,0,1\n");
  };
  CHECK(error("0,0,5", "0,1,0") == "no error");  // phases count their own tokens
  CHECK(error("0,1,5", "1,1,0") == "no error");
  CHECK(error("0,1,5", "0,1,4") ==
        "t.csv:4: layer 0: expected a token after token 5 of sequence 0, got token 4 of 0");
  CHECK_THAT(error("1,1,5", "0,1,6"), contains("expected a token after token 5 of sequence 1"));
  CHECK_THAT(error("0,1,5", "0,0,6"), contains("expected a token after"));
  // A token whose layer was closed by another one cannot be opened again.
  CHECK_THAT(csv_error(kColumns + "0,1,0,0,0,0,1\n0,1,0,1,0,0,1\n0,1,0,0,0,1,1\n0,1,1,0,0,0,1\n"),
             contains("expected a token after token 0 of sequence 0, got token 0 of 0"));
}

TEST_CASE("a CSV header that is not as it should be is an error with its line") {
  const std::string row = kColumns + "0,1,0,0,0,3,0.5\n";
  CHECK(csv_error("# n_layer=0\n" + row) == "t.csv:1: n_layer: expected 1 to 4096, got 0");
  CHECK(csv_error("#\n# n_expert=4097\n" + row) ==
        "t.csv:2: n_expert: expected 1 to 4096, got 4097");
  CHECK(csv_error("# n_expert_used=65\n" + row) ==
        "t.csv:1: n_expert_used: expected 1 to 64, got 65");
  CHECK(csv_error("# n_expert=many\n" + row) ==
        "t.csv:1: n_expert: expected a number, got \"many\"");
  CHECK(csv_error("# n_expert=3\n" + row) == "t.csv:3: expert: expected 0 to 2, got 3");
  CHECK(csv_error("# layer=1 expert_bytes=5\n" + row) ==
        "t.csv:1: expert_bytes: expected layer 0, got 1");
  CHECK(csv_error("# layer=0 expert_bytes=0\n" + row) ==
        "t.csv:1: expert_bytes: expected 1 to 1099511627776, got 0");
  CHECK(csv_error("# n_layer=2\n# layer=0 expert_bytes=5\n" + row) ==
        "t.csv: expert_bytes: expected one for each of 2 layers, got 1");
  CHECK(csv_error("# model=a\xFFz\n" + row) == "t.csv: model: expected UTF-8, got \"a\\xffz\"");
  CHECK_THAT(csv_error("# x\nstep,layer\n"), contains("t.csv:2: expected the columns turn,phase"));
  CHECK(csv_error("# x\n") == "t.csv: expected a routing trace, got one without a token");
  CHECK(csv_error(kColumns) == "t.csv: expected a routing trace, got one without a token");
  CHECK(csv_error(row.substr(0, row.size() - 1)) ==
        "t.csv:2: expected the last line to end (truncated?)");
  CHECK(csv_error("# " + std::string(70000, 'x') + "\n" + row) ==
        "t.csv:1: longer than 65536 bytes");
}

TEST_CASE("a token with more experts than the model uses is an error") {
  std::string rows = kColumns;
  for (int slot = 0; slot < 65; ++slot) {
    rows += "0,1,0,0," + std::to_string(slot) + "," + std::to_string(slot) + ",0.5\n";
  }
  CHECK(csv_error(rows) == "t.csv:66: expected at most 64 experts of a token");
  CHECK_THAT(csv_error("# n_expert_used=3\n" + rows.substr(0, rows.find("0,1,0,0,4"))),
             contains("expected at most 3 experts of a token, got 4"));
}

TEST_CASE("a text trace with nearly nothing in it is refused before it takes memory") {
  // 300 tokens x 4096 layers, one expert each 4096 cells.
  std::string rows = "# n_layer=4096\n" + kColumns;
  for (int step = 0; step < 300; ++step) rows += "0,1," + std::to_string(step) + ",0,0,0,1\n";
  CHECK(csv_error(rows) ==
        "t.csv: 300 tokens x 4096 layers x top 1 hold only 300 experts; expected at least one in "
        "16");
}

std::string jsonl_error(const std::string& text) {
  return error_of([&] { parse(text, "t.jsonl"); });
}

TEST_CASE("a line of JSON that is not as it should be is an error with its number") {
  const std::string good =
      R"({"layer_idx":0,"token_idx":0,"selected_ids":[1,2],"gate_weights":[0.5,0.5]})";
  REQUIRE(jsonl_error(good) == "no error");  // the last line need not end
  const auto error = [&](const std::string& line) {
    return jsonl_error(good + "\n" + line + "\n");
  };
  const auto cell = [&](const char* ids, const char* weights, const char* more = "") {
    return error(R"({"layer_idx":1,"token_idx":0,"selected_ids":)" + std::string(ids) +
                 R"(,"gate_weights":)" + weights + more + "}");
  };
  CHECK(error("{\"layer_idx\":") == "t.jsonl:2: expected JSON, got \"{\\\"layer_idx\\\":\"");
  CHECK(error("[1]") == "t.jsonl:2: expected an object, got \"[1]\"");
  CHECK(error("{}") == "t.jsonl:2: expected a key token_idx");
  CHECK(error(good) ==
        "t.jsonl:2: layer 0: expected a token after token 0 of sequence 0, got token 0 of 0");
  CHECK(cell("[1,2]", "[0.5]") ==
        "t.jsonl:2: expected as many gate_weights as selected_ids (2), got 1");
  CHECK(cell("[1,1]", "[0.5,0.5]") == "t.jsonl:2: expert 1 appears twice in a selection");
  CHECK(cell("[1.5]", "[0.5]") ==
        "t.jsonl:2: selected_ids: expected a whole number from 0 to 4095, got \"1.5\"");
  CHECK_THAT(cell("[-1]", "[0.5]"), contains("from 0 to 4095, got \"-1\""));
  CHECK_THAT(cell("[18446744073709551615]", "[0.5]"), contains("from 0 to 4095"));
  CHECK(cell("[1]", "[-0.5]") == "t.jsonl:2: weight: expected 0 to 65504, got -0.5");
  CHECK(cell("[1]", "[\"a\"]") == "t.jsonl:2: gate_weights: expected a number, got \"\\\"a\\\"\"");
  CHECK_THAT(cell("[1]", "[NaN]"), contains("t.jsonl:2: expected JSON"));
  CHECK_THAT(cell("[1]", "[1e999]"), contains("t.jsonl:2: expected JSON"));
  CHECK_THAT(cell("3", "[1]"), contains("selected_ids: expected an array of at most 64"));
  CHECK(cell("[1]", "[1]", ",\"sequence_idx\":-1") ==
        "t.jsonl:2: sequence_idx: expected a whole number from 0 to 2147483647, got \"-1\"");
  CHECK_THAT(cell("[1]", "[1]", ",\"phase\":\"warm-up\""), contains("phase: expected \"prefill\""));
  CHECK(cell("[1]", "[1]", ",\"phase\":0") ==
        "t.jsonl:2: token 0 of sequence 0: expected the phase of line 1");
}

TEST_CASE("a JSON header is believed and checked") {
  const std::string cell =
      "\n"
      R"({"layer_idx":0,"token_idx":0,"selected_ids":[1],"gate_weights":[0.5]})";
  CHECK(parse(R"({"n_experts":8,"n_layers":2,"top_k":3})" + cell).header.n_experts == 8);
  CHECK(parse(R"({"n_experts":8,"n_layers":2,"top_k":3})" + cell).header.n_layers == 2);
  CHECK(parse(R"({"n_experts":8,"n_layers":2,"top_k":3})" + cell).ids ==
        std::vector<int16_t>{1, -1, -1, -1, -1, -1});
  CHECK(jsonl_error(R"({"n_experts":1})" + cell) == "t.jsonl:2: expert: expected 0 to 0, got 1");
  CHECK(jsonl_error(R"({"model":"x"})" + cell) == "t.jsonl:1: expected a key n_experts");
  CHECK(jsonl_error(R"({"n_experts":0})" + cell) ==
        "t.jsonl:1: n_experts: expected a whole number from 1 to 4096, got \"0\"");
  CHECK(jsonl_error(R"({"n_experts":2,"model":3})" + cell) == "t.jsonl:1: model: expected text");
  CHECK(jsonl_error(R"({"n_experts":2,"expert_bytes":[1,2]})" + cell) ==
        "t.jsonl: expert_bytes: expected one for each of 1 layers, got 2");
  CHECK(jsonl_error(R"({"n_experts":2})") ==
        "t.jsonl: expected a routing trace, got one without a token");
}

TEST_CASE("what is no trace is named") {
  const auto error = [](std::string_view image) { return error_of([&] { parse(image, "f"); }); };
  CHECK(error("GGUF....") ==
        "f: expected a routing trace (binary, CSV or JSON lines), got \"GGUF....\"");
  CHECK(error("\xFD"
              "7zXZ\0") == "f: compressed with xz; unpack it first");
  CHECK(error("\x1F\x8B\x08") == "f: compressed with gzip; unpack it first");
  CHECK(error("") == "f: expected a routing trace (binary, CSV or JSON lines), got \"\"");
}

}  // namespace
}  // namespace tandem::test
