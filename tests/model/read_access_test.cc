// Files that are read into memory instead of being mapped.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "runtime/model/byte_ranges.h"
#include "runtime/model/model.h"
#include "runtime/model/throwing_tasks.h"
#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

GgufFile open_read(const std::filesystem::path& path) {
  return GgufFile::open(path, FileAccess::kRead);
}

bool all_zero(ByteRange bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{}; });
}

bool same(const std::byte* a, ByteRange b) { return std::memcmp(a, b.data(), b.size()) == 0; }

std::vector<ByteRange> matrices(const Model& model) {
  std::vector<ByteRange> all;
  const auto add = [&](const WeightView& w) {
    if (w) all.push_back({w.data, static_cast<size_t>(w.span_bytes())});
  };
  add(model.weights().embedding);
  add(model.weights().output);
  for (const LayerWeights& layer : model.weights().layers) {
    for (const WeightView& w : {layer.wq, layer.wk, layer.wv, layer.wo, layer.router}) add(w);
    for (const ExpertWeights& e : layer.experts) {
      for (const WeightView& w : {e.gate, e.up, e.down}) add(w);
    }
  }
  return all;
}

Model demo(FileAccess access, bool packed) {
  Model model = Model::load(GgufFile::open(kDemoModel, access));
  if (packed) model.pack(PackScope::kAll, serial_for, [](int64_t) {});
  model.bring_in_unpacked(serial_for, [](int64_t) {});
  return model;
}

}  // namespace

TEST_CASE("a file that is read has its metadata at once and its tensors once they are filled") {
  const GgufFile mapped = GgufFile::open(kDemoModel);
  GgufFile file = open_read(kDemoModel);
  CHECK(file.access() == FileAccess::kRead);
  CHECK(file.need_string("general.architecture") == "qwen3moe");
  CHECK(file.metadata().size() == mapped.metadata().size());
  REQUIRE(file.tensors().size() == mapped.tensors().size());
  std::vector<std::byte> scratch;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const ByteRange there = file.tensors()[i].bytes();
    const ByteRange expected = mapped.tensors()[i].bytes();
    CHECK(same(file.bytes_of(there, &scratch), expected));
    if (there.size() > 8192) CHECK(all_zero(there.subspan(4096, there.size() - 8192)));
    file.fill(there);
    file.advise_will_need(there);
    file.touch(there);
    file.advise_dont_need(there);  // may drop nothing: there is no other copy
    CHECK(same(there.data(), expected));
  }
}

TEST_CASE("every part of a split file is read from its own file") {
  GgufFile file = open_read(kFixtures / "python_split-00002-of-00003.gguf");
  REQUIRE(file.tensors().size() == 6);
  for (size_t i = 0; i < 6; ++i) {
    file.fill(file.tensors()[i].bytes());
    float value = -1;
    std::memcpy(&value, file.tensors()[i].data, sizeof value);
    CHECK(value == static_cast<float>(i));
  }
}

TEST_CASE("a file that has become shorter since it was opened is an error, in any use of it") {
  const TempDir dir;
  const auto path = dir / "model.gguf";
  std::filesystem::copy_file(kDemoModel, path);
  const auto full = std::filesystem::file_size(path);
  GgufFile file = open_read(path);
  Model model = Model::load(open_read(path));
  Model packing = Model::load(open_read(path));
  std::filesystem::resize_file(path, full / 2);
  const std::string expected = path + ": the file has " + std::to_string(full / 2) +
                               " bytes now; it had " + std::to_string(full) + " when it was opened";
  CHECK(error_of([&] {
          for (const GgufTensor& tensor : file.tensors()) file.fill(tensor.bytes());
        }) == expected);
  CHECK(error_of([&] { model.bring_in_unpacked(serial_for, [](int64_t) {}); }) == expected);
  CHECK(error_of([&] { model.check_finite(); }) == expected);
  CHECK(error_of([&] { packing.pack(PackScope::kAll, serial_for, [](int64_t) {}); }) == expected);
}

TEST_CASE("a model is the same in every byte, mapped or read, packed or not") {
  for (const bool packed : {false, true}) {
    const Model mapped = demo(FileAccess::kMapped, packed);
    const Model read = demo(FileAccess::kRead, packed);
    CHECK(read.packed() == packed);
    const auto expected = matrices(mapped);
    const auto got = matrices(read);
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      REQUIRE(got[i].size() == expected[i].size());
      CHECK(same(got[i].data(), expected[i]));
    }
    read.check_finite();
  }
}

TEST_CASE("what is left to read behind packing is what is not packed") {
  Model model = Model::load(open_read(kDemoModel));
  CHECK_FALSE(model.usable());
  const int64_t all = model.unpacked_bytes();
  model.pack(PackScope::kAll, serial_for, [](int64_t) {});
  CHECK(model.unpacked_bytes() < all);
  CHECK(model.unpacked_bytes() >= model.weights().embedding.bytes());
  int64_t done = 0;
  model.bring_in_unpacked(serial_for, [&](int64_t bytes) { done = bytes; });
  CHECK(done == model.unpacked_bytes());
  CHECK(model.usable());
}

TEST_CASE("ranges that touch become one, and are cut into pieces without a gap") {
  const std::vector<std::byte> bytes(100);
  const ByteRange all(bytes);
  const auto ranges = merged({all.subspan(50, 10), all.subspan(0, 20), all.subspan(20, 5)});
  REQUIRE(ranges.size() == 2);
  CHECK(ranges[0].data() == all.data());
  CHECK(ranges[0].size() == 25);
  CHECK(total_bytes(ranges) == 35);
  const auto pieces = cut(ranges, 10);
  REQUIRE(pieces.size() == 4);
  CHECK(pieces[2].data() == all.data() + 20);
  CHECK(pieces[2].size() == 5);
  CHECK(pieces[3].data() == all.data() + 50);
}

TEST_CASE("an error in a task is thrown when all tasks have ended") {
  int ended = 0;
  CHECK(error_of([&] {
          run_throwing(serial_for, 5, [&](int64_t i) {
            ++ended;
            if (i == 2) throw FileError("file", "cannot be read");
          });
        }) == "file: cannot be read");
  CHECK(ended == 5);
}

}  // namespace tandem::test
