// The readers of traces on files that are not what they should be: a FileError, never a crash, and
// no allocation that the file does not pay for.
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "runtime/error.h"
#include "runtime/trace/trace_fault.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"
#include "tests/trace/trace_testing.h"

namespace tandem::test {
namespace {

// One byte of an id becomes two, half precision becomes single; vectors of text traces may double
// while they grow. Small traces may have gaps.
constexpr size_t kMaxExpansion = 64;
constexpr size_t kSmallTrace = 8 << 20;

// Reads and returns the error. Whatever is read must be free of faults.
std::string probe(const std::string& image) {
  largest_allocation = 0;
  std::string error = "no error";
  try {
    // A copy of exactly this size, so that a sanitizer sees a read past its end.
    const std::vector<char> copy(image.begin(), image.end());
    const Trace trace = parse({copy.data(), copy.size()});
    if (find_trace_fault(trace)) FAIL("a trace with a fault was read");
  } catch (const FileError& e) {
    error = e.what();
  }
  CHECK(error.find('\n') == std::string::npos);
  if (largest_allocation > kMaxExpansion * image.size() + kSmallTrace) {
    FAIL("an allocation of " << largest_allocation << " bytes for a file of " << image.size());
  }
  return error;
}

// A trace in our own format, piece by piece.
struct RawTrace {
  std::string magic = "TANDEMRT";
  uint32_t version = 2;
  std::string json = R"({"model":"","model_hash":"","layers":1,"experts":4,"top_k":2,"n_ranks":2,)"
                     R"("n_ahead":1,"lookahead":"linear","expert_bytes":[]})";
  uint64_t n_steps = 1;
  uint64_t n_tokens = 1;
  std::string steps = raw(0U) + raw(0U) + raw(1U);
  std::string ids = std::string("\x03\x01", 2);
  std::string weights = std::string("\x00\x3c\x00\x38", 4);
  std::string predicted = std::string("\x00\x02", 2);
  std::string more;

  std::string build() const {
    return with_checksum(magic + raw(version) + raw(static_cast<uint32_t>(json.size())) + json +
                         raw(n_steps) + raw(n_tokens) + steps + ids + weights + predicted + more +
                         raw(0U));
  }
  std::string error() const { return probe(build()); }
};

// The error with one value of the JSON header exchanged.
std::string header_error(const std::string& key, const std::string& value) {
  RawTrace trace;
  const size_t at = trace.json.find("\"" + key + "\":") + key.size() + 3;
  const size_t end = trace.json.find_first_of(",}", at);
  trace.json.replace(at, end - at, value);
  return trace.error();
}

TEST_CASE("a hand-made trace in our own format is read") {
  REQUIRE(RawTrace().error() == "no error");
}

TEST_CASE("a trace cut anywhere is an error") {
  const std::string image = encode(small_trace());
  REQUIRE(probe(image) == "no error");
  for (size_t size = 0; size < image.size(); ++size) {
    INFO(size);
    CHECK(probe(image.substr(0, size)) != "no error");
  }
}

TEST_CASE("a cut trace whose checksum was made to fit is an error") {
  const std::string image = encode(small_trace());
  for (size_t size = 4; size < image.size(); ++size) {
    INFO(size);
    CHECK(probe(with_checksum(image.substr(0, size))) != "no error");
  }
}

TEST_CASE("a byte changed anywhere in a trace is an error") {
  const std::string image = encode(small_trace());
  for (size_t at = 0; at < image.size(); ++at) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string changed = image;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      INFO(at);
      CHECK(probe(changed) != "no error");
    }
  }
}

TEST_CASE("every byte of a trace set to extremes with a checksum that fits does no harm") {
  const std::string image = encode(small_trace());
  for (size_t at = 0; at + 4 < image.size(); ++at) {
    for (const int value : {0x00, 0x7f, 0x80, 0xff}) {
      std::string changed = image;
      changed[at] = static_cast<char>(value);
      probe(with_checksum(changed));
    }
  }
}

TEST_CASE("a text trace cut anywhere does no harm") {
  for (const char* name : {"tiny.csv", "tiny.jsonl"}) {
    std::ifstream in(fixture(name));
    std::ostringstream text;
    text << in.rdbuf();
    const std::string image = text.str();
    REQUIRE(probe(image) == "no error");
    for (size_t size = 0; size < image.size(); ++size) probe(image.substr(0, size));
  }
}

TEST_CASE("a CSV trace cut within a line is an error") {
  std::ifstream in(fixture("tiny.csv"));
  std::ostringstream text;
  text << in.rdbuf();
  const std::string image = text.str();
  for (size_t size = 0; size < image.size(); ++size) {
    if (size > 0 && image[size - 1] == '\n') continue;
    INFO(size);
    CHECK(probe(image.substr(0, size)) != "no error");
  }
}

TEST_CASE("another magic or version is an error") {
  RawTrace trace;
  trace.magic = "TANDEMRU";
  CHECK_THAT(trace.error(), contains("expected a routing trace"));
  trace = {};
  for (const uint32_t version : {0U, 3U, 0x01000000U, 0x02000000U, 0xffffffffU}) {
    trace.version = version;
    CHECK(trace.error() == "memory: trace version " + std::to_string(version) +
                               " is not supported; expected 1 or 2");
  }
}

TEST_CASE("a header with a number out of its limits is an error") {
  const auto error = [](const std::string& key, const std::string& value) {
    return header_error(key, value);
  };
  CHECK(error("layers", "0") == "memory: the header: layers: expected 1 to 4096, got 0");
  CHECK(error("layers", "4097") == "memory: the header: layers: expected 1 to 4096, got 4097");
  CHECK(error("experts", "0") == "memory: the header: experts: expected 1 to 4096, got 0");
  CHECK(error("experts", "4097") == "memory: the header: experts: expected 1 to 4096, got 4097");
  CHECK(error("top_k", "0") == "memory: the header: top_k: expected 1 to 4, got 0");
  CHECK(error("top_k", "5") == "memory: the header: top_k: expected 1 to 4, got 5");
  CHECK(error("n_ranks", "1") == "memory: the header: n_ranks: expected 2 to 4, got 1");
  CHECK(error("n_ranks", "257") == "memory: the header: n_ranks: expected 2 to 4, got 257");
  CHECK(error("n_ahead", "9") == "memory: the header: n_ahead: expected 0 to 8, got 9");
  for (const char* key : {"layers", "experts", "top_k", "n_ranks", "n_ahead"}) {
    const std::string prefix = "memory: the header: " + std::string(key);
    for (const char* value :
         {"-1", "2147483648", "18446744073709551616", "1.5", "\"1\"", "null", "true", "[1]"}) {
      INFO(key << " " << value);
      CHECK_THAT(error(key, value), contains(prefix + ": expected a whole number"));
    }
    // The tokens no longer have the size that the header says.
    CHECK_THAT(error(key, "3"), contains("expected"));
  }
  CHECK_THAT(error("expert_bytes", "[1,2]"), contains("expected one for each of 1 layers, got 2"));
  CHECK_THAT(error("expert_bytes", "[0]"), contains("expert_bytes: expected 1 to 1099511627776"));
  CHECK_THAT(error("expert_bytes", "[-1]"), contains("expert_bytes: expected a whole number"));
  CHECK_THAT(error("expert_bytes", "7"), contains("expert_bytes: expected an array"));
  CHECK_THAT(error("model", "7"), contains("model: expected text"));
  CHECK_THAT(error("model", "\"" + std::string(5000, 'x') + "\""),
             contains("model: expected at most 4096 bytes, got 5000"));
}

TEST_CASE("a lookahead whose name is none, or that contradicts the predictions, is an error") {
  const std::string prefix = "memory: the header: lookahead: expected ";
  const std::string letters = prefix + "1 to 32 small letters, digits and hyphens, got ";
  for (const std::string& name :
       {std::string(), std::string("Linear"), std::string("a b"), std::string("a\\n"),
        std::string("a\\u0000"), std::string("\xc3\xa4"), std::string("<b>"),
        std::string(33, 'x')}) {
    INFO(name);
    CHECK_THAT(header_error("lookahead", "\"" + name + "\""), contains(letters));
  }
  CHECK(header_error("lookahead", "\"" + std::string(32, 'x') + "\"") == "no error");
  CHECK(header_error("lookahead", "\"a-lookahead-of-2031\"") == "no error");
  CHECK_THAT(header_error("lookahead", "\"none\""), contains(prefix + "\"none\" with n_ahead 0"));
  for (const char* value : {"7", "null", "[]", "[\"linear\"]"}) {
    CHECK_THAT(header_error("lookahead", value), contains("lookahead: expected text"));
  }
  RawTrace trace;
  trace.json.replace(trace.json.find("\"n_ahead\":1"), 11, "\"n_ahead\":0");
  trace.predicted = "";
  CHECK_THAT(trace.error(), contains("only there, got \"linear\" with 0"));
}

TEST_CASE("a header that is not the JSON of this version is an error") {
  for (const char* json : {"", "{", "[]", "{}", "3", "{\"model\":\"\"}"}) {
    RawTrace trace;
    trace.json = json;
    INFO(json);
    CHECK_THAT(trace.error(), contains("memory: the header: expected "));
  }
  RawTrace trace;
  trace.json.insert(1, "\"extra\":1,");
  CHECK_THAT(trace.error(), contains("expected the 9 keys of version 2"));
  trace = {};
  trace.version = 1;  // knows no lookahead
  CHECK_THAT(trace.error(), contains("expected the 8 keys of version 1"));
  trace = {};
  const std::string lookahead = "\"lookahead\":\"linear\",";
  trace.json.erase(trace.json.find(lookahead), lookahead.size());
  CHECK_THAT(trace.error(), contains("expected the 9 keys of version 2"));
  trace.version = 1;
  CHECK(trace.error() == "no error");
  trace = {};
  trace.json = std::string(100000, '[');
  CHECK_THAT(trace.error(), contains("expected a JSON object"));
  trace.json = std::string(200000, ' ');
  CHECK_THAT(trace.error(), contains("the header: expected at most 131072 bytes, got 200000"));
}

TEST_CASE("counts that the file does not hold are an error") {
  for (const uint64_t n :
       {uint64_t{0}, uint64_t{2}, uint64_t{1} << 32, uint64_t{1} << 63,
        std::numeric_limits<uint64_t>::max(), std::numeric_limits<uint64_t>::max() / 12 + 1,
        std::numeric_limits<uint64_t>::max() / 8 + 1}) {
    INFO(n);
    RawTrace trace;
    trace.n_steps = n;
    CHECK(trace.error() != "no error");
    trace = {};
    trace.n_tokens = n;
    CHECK(trace.error() != "no error");
  }
  RawTrace trace;
  trace.more = "x";
  CHECK_THAT(trace.error(), contains("expected 24 bytes for 1 steps and 1 tokens at offset"));
  trace = {};
  trace.n_tokens = 0;
  trace.ids = trace.weights = trace.predicted = "";
  CHECK(trace.error() != "no error");
  trace.n_steps = 0;
  trace.steps = "";
  CHECK_THAT(trace.error(), contains("0 steps: expected 1 tokens in them, got 0"));
}

TEST_CASE("a damaged trace is called so") {
  std::string image = RawTrace().build();
  image[image.size() - 5] ^= 1;
  CHECK_THAT(probe(image), contains("memory: damaged: expected the checksum "));
}

TEST_CASE("steps that go backwards or have no tokens are an error") {
  RawTrace two;
  two.n_steps = 2;
  two.n_tokens = 2;
  two.ids += two.weights + two.predicted + two.ids;  // two tokens, one after the other
  const auto error = [&](const std::string& first, const std::string& second) {
    two.steps = first + second;
    return two.error();
  };
  const auto step = [](uint32_t sequence, uint32_t phase, uint32_t n) {
    return raw(sequence) + raw(phase) + raw(n);
  };
  CHECK(error(step(0, 0, 1), step(0, 1, 1)) == "no error");
  CHECK(error(step(7, 0, 1), step(7, 0, 1)) == "no error");
  CHECK_THAT(
      error(step(1, 0, 1), step(0, 0, 1)),
      contains("expected a sequence from 1, a phase 0 or 1 and 1 to 1 tokens, got 0, 0 and 1"));
  CHECK_THAT(error(step(0, 2, 1), step(0, 1, 1)), contains("step 0 at offset "));
  CHECK_THAT(error(step(0, 0, 0), step(0, 1, 2)), contains("step 0 at offset "));
  CHECK_THAT(error(step(0, 0, 2), step(0, 1, 1)), contains("step 1 at offset "));
  CHECK_THAT(error(step(0, 0, 1), step(0x80000000, 1, 1)), contains("step 1 at offset "));
  CHECK_THAT(error(step(0, 0, 1), step(0, 1, 0xffffffff)), contains("step 1 at offset "));
}

TEST_CASE("a wrong expert is an error with the place of its layer") {
  RawTrace trace;
  const size_t at = trace.build().find("\x03\x01\x00\x3c");
  const std::string prefix = "memory: token 0, layer 0 (offset ";
  const auto error = [&](const char* ids) {
    trace.ids = std::string(ids, 2);
    return trace.error();
  };
  CHECK(error("\x04\x01") ==
        prefix + std::to_string(at) + "): expected an expert from 0 to 3, got 4");
  CHECK(error("\x01\x01") == prefix + std::to_string(at) + "): expert 1 appears twice");
  CHECK(error("\xff\x01") ==
        prefix + std::to_string(at) + "): expected no expert after a missing one, got 1");
  trace = {};
  trace.predicted = "\x02\x02";
  CHECK(trace.error() ==
        prefix + std::to_string(at + 6) + "): prediction 1 ahead: expert 2 appears twice");
}

TEST_CASE("a weight that is no number or negative is an error with its place") {
  const auto error = [](uint16_t first, uint16_t second, const char* ids = "\x03\x01") {
    RawTrace trace;
    trace.ids = std::string(ids, 2);
    trace.weights = raw(first) + raw(second);
    return trace.error();
  };
  CHECK(error(0x7bff, 0x0001) == "no error");  // the largest and the smallest
  CHECK_THAT(error(0x3c00, 0x7e00),
             contains("expected a weight from 0 to 65504 for expert 1, got nan"));
  CHECK_THAT(error(0x7c00, 0x3c00),
             contains("expected a weight from 0 to 65504 for expert 3, got inf"));
  CHECK_THAT(error(0xbc00, 0x3c00), contains("expert 3, got -1"));
  CHECK_THAT(error(0x3c00, 0x3c00, "\x03\xff"),
             contains("expected a weight from 0 to 0 for no expert, got 1"));
}

TEST_CASE("ids of two bytes are checked like those of one") {
  RawTrace trace;
  const size_t at = trace.json.find("\"experts\":4") + 10;
  trace.json.replace(at, 1, "300");
  trace.predicted = raw(uint16_t{0xffff}) + raw(uint16_t{0xffff});
  const auto error = [&](uint16_t first, uint16_t second) {
    trace.ids = raw(first) + raw(second);
    return trace.error();
  };
  CHECK(error(299, 0) == "no error");
  CHECK_THAT(error(300, 0), contains("expected an expert from 0 to 299, got 300"));
  CHECK_THAT(error(0x8000, 0), contains("expected an expert from 0 to 299, got -32768"));
  CHECK_THAT(error(0xfffe, 0), contains("expected an expert from 0 to 299, got -2"));
}

}  // namespace
}  // namespace tandem::test
