// Our own format of traces, whole: bytes, round trips, writing.
#include <fstream>
#include <sstream>

#include "runtime/trace/crc32.h"
#include "runtime/trace/trace_fault.h"
#include "runtime/trace/trace_file.h"
#include "tests/support/catch.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

constexpr double kHalfPrecision = 0x1p-11;

std::string file_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST_CASE("the checksum is that of zlib") {
  CHECK(crc32("") == 0);
  CHECK(crc32("123456789") == 0xCBF43926);  // the check value of CRC-32/ISO-HDLC
  CHECK(crc32("6789", crc32("12345")) == 0xCBF43926);
}

TEST_CASE("the bytes of a small trace are those that the README describes") {
  Trace trace;
  trace.header = {"m", "h", 1, 3, 1, 2, 1, {9}, "a-9"};
  trace.steps = {{0, true, 0, 1}, {5, false, 1, 1}};
  trace.ids = {2, 0, 1, -1};
  trace.weights = {1.0F, 0.5F, 2.0F, 0.0F};
  trace.predicted = {-1, 1};
  const std::string json =
      R"({"expert_bytes":[9],"experts":3,"layers":1,"lookahead":"a-9","model":"m",)"
      R"("model_hash":"h","n_ahead":1,"n_ranks":2,"top_k":1})";
  std::string expected = "TANDEMRT";
  expected += std::string("\x02\0\0\0", 4) + raw(static_cast<uint32_t>(json.size())) + json;
  expected += raw(uint64_t{2}) + raw(uint64_t{2});
  expected += std::string("\0\0\0\0\0\0\0\0\1\0\0\0", 12);
  expected += std::string("\5\0\0\0\1\0\0\0\1\0\0\0", 12);
  expected += std::string("\2\0\x00\x3c\x00\x38\xff", 7);  // 1.0 and 0.5 are 3c00 and 3800
  expected += std::string("\1\xff\x00\x40\x00\x00\1", 7);  // 2.0 is 4000
  expected += raw(crc32(expected));
  CHECK(encode(trace) == expected);
  CHECK(difference(trace, parse(expected), 0.0) == "");
}

TEST_CASE("a trace of version 1 is read, and who predicted is not known") {
  const auto version_1 = [](int n_ahead, const std::string& predicted) {
    const std::string json =
        R"({"expert_bytes":[9],"experts":3,"layers":1,"model":"m","model_hash":"h","n_ahead":)" +
        std::to_string(n_ahead) + R"(,"n_ranks":1,"top_k":1})";
    std::string image = "TANDEMRT";
    image += raw(1U) + raw(static_cast<uint32_t>(json.size())) + json;
    image += raw(uint64_t{1}) + raw(uint64_t{1}) + raw(0U) + raw(1U) + raw(1U);
    image += std::string("\2\x00\x3c", 3) + predicted;
    return parse(image + raw(crc32(image)));
  };
  const Trace with = version_1(1, "\1");
  CHECK(with.header.lookahead == "unknown");
  CHECK(with.ids == std::vector<int16_t>{2});
  CHECK(with.predicted == std::vector<int16_t>{1});
  CHECK(version_1(0, "").header.lookahead == "none");
  // Written again it is of version 2, with what is known.
  CHECK(difference(with, parse(encode(with)), 0.0) == "");
  CHECK(encode(with)[8] == 2);
}

TEST_CASE("a trace comes back from its bytes with weights in half precision") {
  const Trace trace = small_trace();
  const Trace read = parse(encode(trace));
  CHECK(difference(trace, read, kHalfPrecision) == "");
  // Rounding is done once: what was read is written unchanged.
  CHECK(difference(read, parse(encode(read)), 0.0) == "");
  CHECK(encode(read) == encode(trace));
}

TEST_CASE("ids take one byte up to 255 experts and two from 256") {
  for (const int32_t n_experts : {2, 255, 256, 4096}) {
    Trace trace;
    trace.header = {"", "", 1, n_experts, 2, 2, 2, {}, "linear"};
    trace.steps = {{0, false, 0, 1}};
    const auto last = static_cast<int16_t>(n_experts - 1);
    trace.ids = {last, 0};
    trace.weights = {0.5F, 0.5F};
    trace.predicted = {0, last, -1, -1};
    const std::string image = encode(trace);
    INFO(n_experts);
    CHECK(difference(trace, parse(image), 0.0) == "");
    const size_t json_bytes = static_cast<unsigned char>(image[12]);
    const size_t id_bytes = n_experts <= 255 ? 1 : 2;
    CHECK(image.size() == 16 + json_bytes + 16 + 12 + 6 * id_bytes + 2 * 2 + 4);
  }
}

TEST_CASE("a synthetic trace comes back from a file") {
  const TempFolder folder;
  const Trace trace = make_synthetic_trace(small_settings());
  write_trace(trace, folder.path("synthetic.trace"));
  CHECK(difference(trace, read_trace(folder.path("synthetic.trace")), kHalfPrecision) == "");
  CHECK(folder.names() == std::vector<std::string>{"synthetic.trace"});
}

TEST_CASE("a trace that was written replaces the one before") {
  const TempFolder folder;
  const std::string path = folder.path("a.trace");
  write_trace(make_synthetic_trace(small_settings()), path);
  write_trace(small_trace(), path);
  CHECK(file_text(path) == encode(small_trace()));
}

TEST_CASE("where a trace cannot be written an error says so and nothing is left") {
  const TempFolder folder;
  const std::string missing = folder.path("missing/a.trace");
  const std::string error = error_of([&] { write_trace(small_trace(), missing); });
  CHECK(contains(missing + ": cannot create ").match(error));
  CHECK(contains("No such file or directory").match(error));

  // The name is taken by a folder, so that only the renaming fails.
  std::filesystem::create_directories(folder.path("taken/inside"));
  CHECK_THAT(error_of([&] { write_trace(small_trace(), folder.path("taken")); }),
             contains("cannot rename"));
  CHECK(folder.names() == std::vector<std::string>{"taken"});
}

TEST_CASE("a trace that no reader would take is not written") {
  const TempFolder folder;
  const std::string path = folder.path("a.trace");
  Trace trace = small_trace();
  trace.weights[0] = -1.0F;
  CHECK_THAT(error_of([&] { write_trace(trace, path); }),
             contains("a.trace: cannot write this trace to it: expected a weight from 0 to 65504 "
                      "for expert 0, got -1"));
  trace = small_trace();
  trace.header.model = std::string("\xC3");
  CHECK_THAT(error_of([&] { write_trace(trace, path); }), contains("model: expected UTF-8"));
  trace = small_trace();
  trace.header.lookahead = "none";
  CHECK_THAT(error_of([&] { write_trace(trace, path); }),
             contains("lookahead: expected \"none\" with n_ahead 0 and only there, got \"none\" "
                      "with 1"));
  CHECK(folder.names().empty());
}

TEST_CASE("a trace that is not there is an error with its path") {
  const TempFolder folder;
  CHECK_THAT(error_of([&] { read_trace(folder.path("none")); }), contains(folder.path("none")));
}

TEST_CASE("a trace fits the model it was recorded with and no other") {
  const Trace trace = small_trace();
  const auto fits = [&](int32_t layers, int32_t experts, int32_t top_k, const char* hash) {
    return error_of([&] { check_trace_fits(trace, layers, experts, top_k, hash); });
  };
  CHECK(fits(3, 5, 2, "0123abcd") == "no error");
  CHECK(fits(3, 5, 2, "") == "no error");
  CHECK(fits(4, 5, 2, "0123abcd") ==
        "the trace (of \"a model\") is of another model: expected 4 layers, 5 experts, top 2, got "
        "3 layers, 5 experts, top 2");
  CHECK(fits(3, 6, 2, "") != "no error");
  CHECK(fits(3, 5, 1, "") != "no error");
  CHECK(fits(3, 5, 2, "ffff") ==
        "the trace (of \"a model\") is of another model with the same shape: expected the router "
        "hash \"ffff\", got \"0123abcd\"");
  Trace unknown = trace;
  unknown.header.model_hash = "";
  CHECK(error_of([&] { check_trace_fits(unknown, 3, 5, 2, "ffff"); }) == "no error");
}

TEST_CASE("a fault of a trace in memory is found where it is") {
  CHECK_FALSE(find_trace_fault(small_trace()).has_value());
  Trace trace = small_trace();
  trace.steps[2].sequence = -1;
  CHECK(find_trace_fault(trace)->part == TraceFault::Part::kSteps);
  trace = small_trace();
  trace.weights.pop_back();
  CHECK(contains("35").match(find_trace_fault(trace)->what));
  trace = small_trace();
  trace.ids[static_cast<size_t>(2 * 9 + 1)] = 4;  // token 2, layer 0
  const auto fault = find_trace_fault(trace);
  CHECK(fault->part == TraceFault::Part::kIds);
  CHECK(fault->token == 2);
  CHECK(fault->layer == 0);
  CHECK(fault->what == "expert 4 appears twice");
}

}  // namespace
}  // namespace tandem::test
