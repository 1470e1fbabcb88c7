// What is written is what the reader reads.
#include "runtime/model/gguf_writer.h"

#include <algorithm>
#include <fstream>

#include "tests/support/catch.h"
#include "tests/support/file_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/read_file.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

GgufWriter::Source source_of(Bytes bytes, size_t piece) {
  return [bytes = std::move(bytes), piece](const GgufWriter::Sink& sink) {
    for (size_t at = 0; at < bytes.size(); at += piece) {
      sink(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
    }
  };
}

Bytes counting(size_t n) {
  Bytes bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i);
  return bytes;
}

TEST_CASE("a copy of metadata has the types that the file had") {
  const TempDir dir;
  GgufBuilder builder;
  builder.add("a.u8", uint8_t{7}).add("a.i16", int16_t{-7}).add("a.u64", uint64_t{1} << 60);
  builder.add("a.f32", 0.1F).add("a.f64", 0.1).add("a.bool", true).add("a.text", "words");
  builder.add_array("a.i8s", std::vector<int8_t>{-1, 2}).add_strings("a.texts", {"x", "", "yz"});
  const Bytes image = builder.build();
  const GgufFile from = GgufFile::from_memory(image, "from.gguf");
  GgufWriter writer;
  for (size_t i = 0; i < from.metadata().size(); ++i) {
    writer.add_raw(from.metadata()[i].first, from.raw_metadata()[i]);
  }
  const auto path = dir.path() / "to.gguf";
  REQUIRE(writer.write(path, {}));
  // All of a file without tensors is its metadata, so that the copy has its bytes.
  const std::string copy = read_file(path);
  CHECK(copy.substr(0, image.size()) ==
        std::string(reinterpret_cast<const char*>(image.data()), image.size()));
}

TEST_CASE("what a writer is told is what the reader reads") {
  const TempDir dir;
  const Bytes first = counting(30);  // 15 halves: padding follows
  const Bytes second = counting(96);
  GgufWriter writer;
  writer.add_u32("some.count", 5);
  writer.add_string("some.text", "text");
  writer.add_tensor("first", 1, {5, 3}, source_of(first, 7));
  writer.add_tensor("second", 0, {4, 3, 2}, source_of(second, 1000));
  CHECK(writer.tensor_bytes() == 30 + 96);
  const auto path = dir.path() / "to.gguf";
  std::vector<int64_t> done;
  REQUIRE(writer.write(path, {[&](int64_t n, int64_t) { done.push_back(n); }, {}}));
  CHECK(done == std::vector<int64_t>{30, 126});
  const GgufFile file = GgufFile::open(path);
  CHECK(file.version() == 3);
  CHECK(file.need_uint("some.count") == 5);
  CHECK(file.need_string("some.text") == "text");
  REQUIRE(file.tensors().size() == 2);
  const GgufTensor& a = file.tensors()[0];
  CHECK((a.name == "first" && a.type_id == 1 && a.n_dims == 2 && a.ne[0] == 5 && a.ne[1] == 3));
  CHECK(std::ranges::equal(a.bytes(), first));
  const GgufTensor& b = file.tensors()[1];
  CHECK((b.name == "second" && b.type_id == 0 && b.n_dims == 3 && b.ne[2] == 2));
  CHECK(std::ranges::equal(b.bytes(), second));
}

TEST_CASE("an interrupted or failed write leaves what was there") {
  const TempDir dir;
  const auto path = dir.path() / "to.gguf";
  std::ofstream(path) << "before";
  GgufWriter writer;
  writer.add_tensor("t", 0, {1}, source_of(Bytes(4), 4));
  CHECK_FALSE(writer.write(path, {{}, [] { return true; }}));
  CHECK(read_file(path) == "before");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
  CHECK(error_of([&] { writer.write(dir.path() / "none" / "to.gguf", {}); }) ==
        (dir.path() / "none" / "to.gguf").string() +
            ": cannot be written: No such file or directory");
}

}  // namespace
}  // namespace tandem::test
