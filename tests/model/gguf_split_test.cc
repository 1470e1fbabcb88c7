// Models that are split over several files.
#include <cstring>

#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// One part of a split with one tensor; `no` from 0.
GgufBuilder part(uint16_t no, uint16_t count, int32_t n_tensors, const std::string& tensor) {
  GgufBuilder builder;
  builder.add("split.no", no).add("split.count", count).add("split.tensors.count", n_tensors);
  builder.add_tensor_f32(tensor, {1}, {static_cast<float>(no)});
  return builder;
}

float first_value(const GgufTensor& tensor) {
  float value = 0;
  std::memcpy(&value, tensor.data, sizeof(value));
  return value;
}

TEST_CASE("a split model is read whole, whichever part is named") {
  for (const int named : {1, 2, 3}) {
    const auto path = kFixtures / ("python_split-0000" + std::to_string(named) + "-of-00003.gguf");
    INFO(path);
    const GgufFile file = GgufFile::open(path);
    CHECK(file.name() == path.string());
    CHECK(file.n_parts() == 3);
    CHECK(file.file_bytes() == 352 + 352 + 416);
    CHECK(file.need_string("general.name") == "split");
    CHECK(file.need_uint("split.no") == 0);
    REQUIRE(file.tensors().size() == 6);
    for (uint32_t i = 0; i < 6; ++i) {
      const GgufTensor* tensor = file.find_tensor("tensor." + std::to_string(i));
      REQUIRE(tensor == &file.tensors()[i]);
      CHECK(tensor->part == i / 2);
      CHECK(tensor->ne[1] == i + 1);
      CHECK(tensor->size_bytes == (i + 1) * 16);
      CHECK(first_value(*tensor) == static_cast<float>(i));
      file.advise_dont_need(tensor->bytes());
    }
  }
}

TEST_CASE("a missing part is an error that names the expected path") {
  const TempDir dir;
  part(0, 3, 3, "a").write_file(dir / "m-00001-of-00003.gguf");
  part(2, 3, 3, "c").write_file(dir / "m-00003-of-00003.gguf");
  const std::string missing = dir / "m-00002-of-00003.gguf";
  CHECK(open_error(dir / "m-00001-of-00003.gguf") ==
        missing + ": part 2 of 3 is missing; expected it here");
  CHECK(contains(open_error(dir / "m-00003-of-00003.gguf"), missing));
}

TEST_CASE("a part that cannot be looked for is an error with the reason") {
  const TempDir dir;
  part(0, 2, 2, "a").write_file(dir / "m-00001-of-00002.gguf");
  const std::filesystem::path second = dir / "m-00002-of-00002.gguf";
  std::filesystem::create_symlink(second.filename(), second);  // a loop, for root too
  CHECK(open_error(dir / "m-00001-of-00002.gguf") ==
        second.string() + ": cannot look for part 2 of 2: Too many levels of symbolic links");
}

TEST_CASE("parts that disagree are an error") {
  const TempDir dir;
  const auto first = dir / "m-00001-of-00002.gguf";
  const auto second = dir / "m-00002-of-00002.gguf";
  part(0, 2, 2, "a").write_file(first);
  SECTION("all is well") {
    part(1, 2, 2, "b").write_file(second);
    CHECK(open_error(first) == "no error");
  }
  SECTION("on their number") {
    part(0, 2, 2, "b").write_file(second);
    CHECK(contains(open_error(first), "key \"split.no\": expected 1, got 0"));
    CHECK(contains(open_error(second), "key \"split.no\": expected 1, got 0"));
  }
  SECTION("on their count") {
    part(1, 3, 2, "b").write_file(second);
    CHECK(contains(open_error(first), "key \"split.count\": expected 2, got 3"));
    CHECK(contains(open_error(second), "key \"split.count\": expected 2, got 3"));
  }
  SECTION("on the number of tensors") {
    part(1, 2, 3, "b").write_file(second);
    CHECK(contains(open_error(first), "key \"split.tensors.count\": expected 2, got 3"));
  }
  SECTION("on who holds a tensor") {
    part(1, 2, 2, "a").write_file(second);
    CHECK(contains(open_error(first), "tensor \"a\" is in an earlier part too"));
  }
  SECTION("on being a split model") {
    GgufBuilder().add_tensor_f32("b", {1}, {1}).write_file(second);
    CHECK(contains(open_error(first), "key \"split.count\": expected 2, got 1"));
    CHECK(contains(open_error(second), "its name says that it is one of several parts"));
  }
  SECTION("on their format") {
    GgufBuilder::write_bytes(second, Bytes(100));
    CHECK(contains(open_error(first), second + ": not a GGUF file"));
  }
}

TEST_CASE("a number of tensors other than the keys' is an error") {
  const TempDir dir;
  part(0, 2, 5, "a").write_file(dir / "m-00001-of-00002.gguf");
  part(1, 2, 5, "b").write_file(dir / "m-00002-of-00002.gguf");
  CHECK(contains(open_error(dir / "m-00001-of-00002.gguf"),
                 "key \"split.tensors.count\": expected the 2 tensors of the 2 parts, got 5"));
}

TEST_CASE("a part whose name hides the others is an error") {
  const TempDir dir;
  for (const char* name : {"model.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf",
                           "m-1-of-2.gguf", "m-00001-of-00002.bin", "00001-of-00002.gguf"}) {
    INFO(name);
    part(0, 2, 2, "a").write_file(dir / name);
    CHECK(contains(open_error(dir / name), "expected a name that ends in -00001-of-00002.gguf"));
  }
  part(0, 2, 2, "a").write_file(dir / "n-00002-of-00002.gguf");
  CHECK(contains(open_error(dir / "n-00002-of-00002.gguf"), "\"split.no\": expected 1, got 0"));
  part(0, 2, 2, "a").write_file(dir / "m-00001-of-00004.gguf");
  CHECK(contains(open_error(dir / "m-00001-of-00004.gguf"), "expected 4, got 2"));
}

TEST_CASE("split keys that cannot be are errors") {
  const TempDir dir;
  const auto path = dir / "m-00001-of-00002.gguf";
  part(2, 2, 2, "a").write_file(path);
  CHECK(contains(open_error(path), "\"split.no\": expected less than split.count (2), got 2"));
  GgufBuilder().add("split.count", uint16_t{2}).write_file(path);
  CHECK(contains(open_error(path), "the key \"split.no\" that says which is missing"));
  GgufBuilder().add("split.count", "two").write_file(path);
  CHECK(contains(open_error(path), "\"split.count\": expected an integer, got a string"));
  GgufBuilder().add("split.count", -2).write_file(path);
  CHECK(contains(open_error(path), "expected an integer of at least 0, got -2"));
  GgufBuilder().add("split.count", ~uint64_t{0}).add("split.no", 0).write_file(path);
  CHECK(contains(open_error(path), "\"split.count\": expected 2, got 18446744073709551615"));
}

TEST_CASE("a part of a split model cannot be read from memory") {
  CHECK(contains(parse_error(part(0, 2, 2, "a").build()), "it is one of 2 parts"));
  CHECK(parse_error(part(0, 1, 1, "a").build()) == "no error");
}

}  // namespace
}  // namespace tandem::test
