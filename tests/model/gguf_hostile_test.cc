// The GGUF reader on files that are not what they should be: a FileError, never a crash, and no
// allocation that the file does not pay for.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem::test {
namespace {

// Bytes widen to 64-bit numbers, a factor of 8; a vector that grows may double. Messages and
// hash tables have a floor.
constexpr size_t kMaxExpansion = 16;
constexpr size_t kSmallAllocation = 4096;

// Parses, touches what was found, and returns the error. Fails on a large allocation.
std::string probe(std::span<const std::byte> image) {
  largest_allocation = 0;
  std::string error = error_of([&] {
    const GgufFile file = GgufFile::from_memory(image, "memory");
    for (const GgufTensor& tensor : file.tensors()) {
      const auto data = data_of(tensor);
      // Not by the pointers' sum, which a wrong size could take past the end of memory.
      const auto offset = static_cast<uint64_t>(data.data() - image.data());
      if (offset > image.size() || data.size() > image.size() - offset) std::abort();
      volatile std::byte touched = data.front();
      touched = data.back();
      static_cast<void>(touched);
    }
  });
  if (largest_allocation > kMaxExpansion * image.size() + kSmallAllocation) {
    FAIL("an allocation of " << largest_allocation << " bytes for a file of " << image.size());
  }
  return error;
}

GgufBuilder small_model() {
  GgufBuilder builder;
  builder.set_alignment(32).add("general.architecture", "llama").add_u64("count", 3);
  builder.add_f32("epsilon", 1e-5F).add_bool("flag", true);
  builder.add_strings("tokens", {"a", "bc", ""}).add_array<uint8_t>("bytes", {1, 2, 3});
  builder.add_array<float>("scores", {1, 2}).add_array<bool>("flags", {true, false});
  builder.add_tensor_f32("norm", {4}, {1, 2, 3, 4});
  builder.add_tensor("weight", 8, {64, 2, 1, 1}, Bytes(64 / 32 * 34 * 2));
  return builder;
}

template <typename T>
Bytes with(Bytes image, size_t at, T value) {
  std::memcpy(image.data() + at, &value, sizeof(T));
  return image;
}

TEST_CASE("a small model cut anywhere is an error") {
  const Bytes image = small_model().build();
  REQUIRE(probe(image) == "no error");
  for (size_t size = 0; size < image.size(); ++size) {
    INFO(size);
    CHECK(probe(Bytes(image.begin(), image.begin() + static_cast<ptrdiff_t>(size))) != "no error");
  }
}

TEST_CASE("the demo model cut anywhere is an error") {
  // Its last tensor ends with the file, so that no cut is only in padding.
  const Bytes image = read_bytes(kDemoModel);
  REQUIRE(parse_error(image) == "no error");
  for (size_t size = 0; size < image.size(); size += 1000) {
    const auto cut = std::span(image).first(size);
    // The header is copied so that a sanitizer sees a read past its end; data are never read.
    const std::string error =
        size < 150'000 ? probe(Bytes(cut.begin(), cut.end())) : parse_error(cut);
    if (error == "no error") FAIL("cut at " << size);
  }
  CHECK(contains(parse_error(std::span(image).first(image.size() - 1)),
                 "\"blk.5.ffn_down_exps.weight\": expected 557056 bytes at offset 11841536 of the "
                 "data, but the file holds 12398591"));
}

TEST_CASE("no value in any count, length, dimension or offset crashes the reader") {
  GgufBuilder::Fields fields;
  const Bytes image = small_model().build(&fields);
  REQUIRE(fields.wide.size() > 25);
  for (const size_t at : fields.wide) {
    uint64_t original = 0;
    std::memcpy(&original, image.data() + at, sizeof(original));
    for (const uint64_t value :
         {uint64_t{0}, uint64_t{1}, original - 1, original + 1, uint64_t{1} << 31,
          (uint64_t{1} << 32) - 1, uint64_t{1} << 32, uint64_t{1} << 59, uint64_t{1} << 60,
          uint64_t{1} << 61, uint64_t{1} << 62, (uint64_t{1} << 63) - 1, uint64_t{1} << 63,
          ~uint64_t{31}, ~uint64_t{7}, ~uint64_t{0} - 1, ~uint64_t{0}}) {
      const std::string error = probe(with(image, at, value));
      // Whatever is larger than the file cannot be right in any of these fields.
      if (value > image.size() && error == "no error") FAIL(value << " at " << at);
    }
  }
}

TEST_CASE("no type id, version or number of dimensions crashes the reader") {
  GgufBuilder::Fields fields;
  const Bytes image = small_model().build(&fields);
  REQUIRE(fields.narrow.size() == 1 + 9 + 4 + 2 * 2);
  for (const size_t at : fields.narrow) {
    for (uint32_t value = 0; value < 45; ++value) probe(with(image, at, value));
    for (const uint32_t value : {1U << 16, 1U << 31, (1U << 31) - 1, ~0U}) {
      if (probe(with(image, at, value)) == "no error") FAIL(value << " at " << at);
    }
  }
}

TEST_CASE("no flipped bit crashes the reader") {
  const Bytes image = small_model().build();
  for (size_t bit = 0; bit < image.size() * 8; ++bit) {
    probe(with(image, bit / 8, image[bit / 8] ^ std::byte{1} << (bit % 8)));
  }
}

TEST_CASE("what is not GGUF, or GGUF of another kind, is refused by its name") {
  CHECK(contains(parse_error({}), "expected 4 bytes"));
  CHECK(parse_error(with(small_model().build(), 0, 'X')) ==
        "memory: not a GGUF file: expected it to begin with \"GGUF\", got \"XGUF\"");
  CHECK(contains(parse_error(Bytes(100)), "got \"\\x00\\x00\\x00\\x00\""));
  const auto version_error = [](uint32_t version) {
    return parse_error(GgufBuilder().set_version(version).build());
  };
  CHECK(version_error(1) == "memory: GGUF version 1 is not supported; expected 2 or 3");
  CHECK(contains(version_error(0), "GGUF version 0"));
  CHECK(contains(version_error(4), "GGUF version 4"));
  CHECK(contains(version_error(0x02000000), "a big-endian GGUF file"));
  CHECK(contains(open_error(kFixtures / "python_big_endian.gguf"), "a big-endian GGUF file"));
}

TEST_CASE("what cannot be opened is refused with a reason") {
  const TempDir dir;
  CHECK(contains(open_error(dir / "none.gguf"), "none.gguf: cannot open it: No such file"));
  CHECK(contains(open_error(dir / ""), "expected a regular file, got a directory"));
  CHECK(contains(open_error("/dev/zero"), "expected a regular file, got a device"));
  GgufBuilder::write_bytes(dir / "empty.gguf", {});
  CHECK(contains(open_error(dir / "empty.gguf"), "empty.gguf: the file is empty"));
  GgufBuilder::write_bytes(dir / "text.gguf", Bytes(3, std::byte{'x'}));
  CHECK(contains(open_error(dir / "text.gguf"), "text.gguf: the magic: expected 4 bytes"));
  REQUIRE(::mkfifo((dir / "fifo.gguf").c_str(), 0600) == 0);
  CHECK(contains(open_error(dir / "fifo.gguf"), "expected a regular file, got a FIFO"));
  if (::geteuid() != 0) {
    small_model().write_file(dir / "secret.gguf");
    REQUIRE(::chmod((dir / "secret.gguf").c_str(), 0) == 0);
    CHECK(contains(open_error(dir / "secret.gguf"), "cannot open it: Permission denied"));
  }
}

TEST_CASE("counts that the file cannot hold are refused before they are used") {
  CHECK(contains(probe(small_model().claim_entries(~uint64_t{0}).build()),
                 "metadata: expected 18446744073709551615 items"));
  CHECK(contains(probe(small_model().claim_tensors(uint64_t{1} << 40).build()),
                 "tensors: expected 1099511627776 items"));
  // Times the size of the smallest entry, this is 0 in 64 bits.
  CHECK(contains(probe(small_model().claim_entries(uint64_t{1} << 63).build()),
                 "metadata: expected 9223372036854775808 items"));
  Bytes huge;
  append(huge, uint32_t{0});
  append(huge, uint64_t{1} << 60);
  CHECK(
      contains(probe(GgufBuilder().add_raw("k", 9, huge).build()), "key \"k\": expected at most"));
  Bytes large;
  append(large, uint32_t{8});
  append(large, uint64_t{10'000'000});
  CHECK(contains(probe(GgufBuilder().add_raw("k", 9, large).build()), "expected 10000000 items"));
  Bytes text;
  append(text, ~uint64_t{0});
  CHECK(contains(probe(GgufBuilder().add_raw("k", 8, text).build()),
                 "key \"k\": expected 18446744073709551615 bytes"));
}

TEST_CASE("arrays are bounded together, however large the file") {
  const std::vector<uint8_t> half((size_t{1} << 23) + 1);
  GgufBuilder builder;
  builder.add_array("a", half);
  CHECK(parse_error(builder.build()) == "no error");
  builder.add_array("b", half);
  CHECK(contains(parse_error(builder.build()),
                 "key \"b\": expected at most 16777216 array elements in all of "
                 "the metadata, got 8388609 behind 8388609 of other arrays"));
}

TEST_CASE("an array of another type is named without a copy of it") {
  GgufBuilder builder;
  builder.add_array("k", std::vector<uint8_t>(size_t{1} << 20));
  const Bytes image = builder.build();
  const GgufFile file = GgufFile::from_memory(image, "memory");
  largest_allocation = 0;
  CHECK(contains(error_of([&] { file.get_string("k"); }), "got an array of uint8"));
  CHECK(contains(error_of([&] { file.get_string_array("k"); }), "got an array of uint8"));
  CHECK(largest_allocation <= kSmallAllocation);
}

TEST_CASE("metadata of impossible types and values are refused") {
  Bytes nested;
  for (const uint64_t word : {uint64_t{9} | uint64_t{1} << 32, uint64_t{4} << 32, uint64_t{0}}) {
    append(nested, word);
  }
  CHECK(contains(probe(GgufBuilder().add_raw("k", 9, nested).build()),
                 "key \"k\": an array of arrays is not supported"));
  CHECK(contains(probe(GgufBuilder().add_raw("k", 13, Bytes(8)).build()),
                 "key \"k\": expected a value type of 0 to 12, got 13"));
  Bytes unknown;
  append(unknown, uint32_t{99});
  append(unknown, uint64_t{0});
  CHECK(contains(probe(GgufBuilder().add_raw("k", 9, unknown).build()),
                 "key \"k\": expected an element type of 0 to 12, got 99"));
  CHECK(contains(probe(GgufBuilder().add_raw("k", 7, {std::byte{2}}).build()),
                 "key \"k\": expected a bool of 0 or 1, got 2"));
  Bytes bools;
  append(bools, uint32_t{7});
  append(bools, uint64_t{2});
  bools.insert(bools.end(), {std::byte{1}, std::byte{255}});
  CHECK(contains(probe(GgufBuilder().add_raw("k", 9, bools).build()), "0 or 1, got 255"));
}

TEST_CASE("keys are unique, present and of bounded length") {
  CHECK(contains(probe(GgufBuilder().add("k", "1").add("j", "").add("k", "2").build()),
                 "key \"k\" appears twice"));
  CHECK(contains(probe(GgufBuilder().add("", "1").build()), "key 0: expected 1 to 65535 bytes"));
  CHECK(probe(GgufBuilder().add(std::string(65535, 'k'), "1").build()) == "no error");
  CHECK(contains(probe(GgufBuilder().add(std::string(65536, 'k'), "1").build()), "got 65536"));
}

TEST_CASE("a hostile key makes a message of one short line") {
  const std::string key = "a\n\x1b[31m\"" + std::string(60000, 'k');
  const std::string error = probe(GgufBuilder().add(key, "1").add(key, "2").build());
  CHECK(contains(error, "key \"a\\x0a\\x1b[31m\\\"kkk"));
  CHECK(error.size() < 200);
}

TEST_CASE("alignments that cannot be are refused") {
  for (const uint32_t alignment : {0U, 1U, 4U, 12U, 33U, (1U << 20) + 8, 1U << 31}) {
    INFO(alignment);
    CHECK(contains(probe(GgufBuilder().add_u32("general.alignment", alignment).build()),
                   "\"general.alignment\": expected a multiple of 8 from 8 to 1048576"));
  }
  CHECK(contains(probe(GgufBuilder().add("general.alignment", "32").build()), "got a string"));
}

TEST_CASE("tensor names are unique, present and of bounded length") {
  const auto named = [](const std::string& name) {
    return probe(GgufBuilder().add_tensor_f32(name, {1}, {1}).build());
  };
  CHECK(contains(named(""), "tensor 0: expected a name of 1 to 127 bytes, got 0"));
  CHECK(named(std::string(127, 't')) == "no error");
  CHECK(contains(named(std::string(128, 't')), "got 128"));
  CHECK(contains(
      probe(GgufBuilder().add_tensor_f32("t", {1}, {1}).add_tensor_f32("t", {1}, {1}).build()),
      "tensor \"t\" appears twice"));
}

TEST_CASE("shapes that cannot be are refused") {
  const auto shaped = [](uint32_t type, const std::vector<uint64_t>& ne) {
    return probe(GgufBuilder().add_tensor("t", type, ne, Bytes(4096)).build());
  };
  CHECK(contains(shaped(0, {}), "tensor \"t\": expected 1 to 4 dimensions, got 0"));
  CHECK(contains(shaped(0, {1, 1, 1, 1, 1}), "got 5"));
  CHECK(contains(shaped(0, {4, 0}), "tensor \"t\": dimension 1 is zero"));
  CHECK(contains(shaped(8, {0}), "dimension 0 is zero"));
  CHECK(contains(shaped(8, {48}), "a row length that is a multiple of 32 (q8_0), got 48"));
  CHECK(contains(shaped(12, {128}), "a multiple of 256 (q4_K), got 128"));
  CHECK(shaped(8, {64, 2}) == "no error");
  const uint64_t half = uint64_t{1} << 32;
  CHECK(contains(shaped(0, {half, half}), "its size overflows"));
  CHECK(contains(shaped(0, {half, half / 4}), "its size overflows"));
  CHECK(contains(shaped(0, {half, half / 8}), "expected 9223372036854775808 bytes"));
  CHECK(contains(shaped(2, {half, half}), "its size overflows"));
  CHECK(contains(shaped(24, {uint64_t{1} << 63}), "its size overflows"));
  CHECK(contains(shaped(24, {half / 2, half / 2, 4, 4}), "its size overflows"));
  CHECK(contains(shaped(4, {32}), "tensor \"t\": unknown ggml type id 4"));
  CHECK(contains(shaped(1000, {32}), "tensor \"t\": unknown ggml type id 1000"));
}

TEST_CASE("tensors outside the file, off the alignment or over each other are refused") {
  const auto placed = [](uint64_t offset) {
    GgufBuilder builder;
    builder.add_tensor_f32("a", {16}, std::vector<float>(16));
    builder.add_tensor_f32("b", {2}, {1, 2}).claim_offset(offset);
    return probe(builder.build());
  };
  CHECK(placed(64) == "no error");
  CHECK(contains(placed(0), "overlap"));
  CHECK(contains(placed(32), "tensors \"a\" (offset 0, 64 bytes) and \"b\" (offset 32) overlap"));
  CHECK(contains(placed(65), "tensor \"b\": expected an offset that is a multiple of 32, got 65"));
  CHECK(contains(placed(96),
                 "tensor \"b\": expected 8 bytes at offset 96 of the data, but the "
                 "file holds 72 bytes of data"));
  CHECK(contains(placed(uint64_t{1} << 63), "expected 8 bytes at offset 9223372036854775808"));
  CHECK(contains(placed(~uint64_t{31}), "expected 8 bytes at offset 18446744073709551584"));
}

}  // namespace
}  // namespace tandem::test
