// Model files that are not what they should be: one line with the file's name, and no output.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_builder.h"

namespace tandem::test {
namespace {

const std::vector<std::string> kReaders{"run", "inspect", "tokenize", "bench"};

std::vector<std::string> reading(const std::string& command, const std::string& path) {
  if (command == "run") return {"run", "-m", path, "-p", "a", "-n", "1"};
  if (command == "tokenize") return {"tokenize", "-m", path, "-p", "a"};
  if (command == "bench") return {"bench", "-m", path, "-p", "2", "-n", "0", "-r", "1"};
  return {command, path};
}

void check_refused(const std::vector<std::string>& arguments, const std::string& path,
                   const std::string& part) {
  const Outcome run = tandem(arguments);
  INFO(arguments.front() << ": " << run.err);
  CHECK(run.exit_code == 1);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "tandem: " + path));
  CHECK(contains(run.err, part));
}

void check_refused_by_all(const std::string& path, const std::string& part) {
  for (const std::string& command : kReaders) check_refused(reading(command, path), path, part);
}

std::string valid_model() { return read_file(family_model("qwen3moe-f32")); }

}  // namespace

TEST_CASE("a model that is not there, a directory or empty is refused") {
  const TempDir dir;
  write_file(dir / "empty.gguf", "");
  check_refused_by_all(dir / "none.gguf", "No such file");
  check_refused_by_all(dir.path().string(), "expected a regular file, got a directory");
  check_refused_by_all(dir / "empty.gguf", "empty");
  check_refused_by_all("/dev/zero", "expected a regular file, got a device");
}

TEST_CASE("a model that may not be read is refused") {
  if (geteuid() == 0) {
    WARN("root may read everything: not tested");
    return;
  }
  const TempDir dir;
  write_file(dir / "locked.gguf", valid_model());
  std::filesystem::permissions(dir / "locked.gguf", std::filesystem::perms::none);
  check_refused_by_all(dir / "locked.gguf", "Permission denied");
}

TEST_CASE("a file of another kind is refused") {
  const TempDir dir;
  std::string image = valid_model();
  image[3] = 'X';
  write_file(dir / "magic.gguf", image);
  check_refused_by_all(dir / "magic.gguf", "GGUF");
}

TEST_CASE("a model cut off at any place is refused") {
  const TempDir dir;
  const std::string image = valid_model();
  for (const size_t size :
       {size_t{3}, size_t{12}, size_t{24}, size_t{500}, image.size() / 2, image.size() - 1}) {
    INFO(size);
    write_file(dir / "cut.gguf", std::string_view(image).substr(0, size));
    check_refused(reading("run", dir / "cut.gguf"), dir / "cut.gguf", "");
    check_refused(reading("inspect", dir / "cut.gguf"), dir / "cut.gguf", "");
  }
}

TEST_CASE("a split model with a missing part is refused with the part's name") {
  const TempDir dir;
  GgufBuilder builder;
  builder.add("general.architecture", "qwen3moe");
  builder.add("split.no", uint16_t{0}).add("split.count", uint16_t{2});
  builder.add_i32("split.tensors.count", 2).add_tensor_f32("a", {1}, {1});
  builder.write_file(dir / "m-00001-of-00002.gguf");
  const Outcome run = tandem(reading("run", dir / "m-00001-of-00002.gguf"));
  INFO(run.err);
  CHECK(run.exit_code == 1);
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, "m-00002-of-00002.gguf"));
}

TEST_CASE("a model of another architecture is refused, but can be inspected") {
  const TempDir dir;
  GgufBuilder builder;
  builder.add("general.architecture", "mamba").add_tensor_f32("a", {1}, {1});
  builder.write_file(dir / "mamba.gguf");
  check_refused(reading("run", dir / "mamba.gguf"), dir / "mamba.gguf", "mamba");
  CHECK(tandem({"inspect", dir / "mamba.gguf"}).exit_code == 0);
}

TEST_CASE("a tensor type that nobody knows is refused with its tensor") {
  const TempDir dir;
  GgufBuilder builder;
  builder.add("general.architecture", "qwen3moe");
  builder.add_tensor("blk.0.odd.weight", 999, {32}, Bytes(64));
  builder.write_file(dir / "type.gguf");
  check_refused_by_all(dir / "type.gguf", "blk.0.odd.weight");
}

TEST_CASE("a name with line breaks still makes one line of error") {
  const TempDir dir;
  GgufBuilder builder;
  builder.add("general.architecture", "ma\nm\x1b[2Jba\n").add_tensor_f32("a", {1}, {1});
  builder.write_file(dir / "lines.gguf");
  const Outcome run = tandem(reading("run", dir / "lines.gguf"));
  INFO(run.err);
  CHECK(run.exit_code == 1);
  CHECK(line_count(run.err) == 1);
  CHECK_FALSE(contains(run.err, "\x1b"));
}

TEST_CASE("weights that are not numbers are found, and --check-tensors names them at once") {
  const TempDir dir;
  std::string image = valid_model();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (size_t at = image.size() - 256; at < image.size(); at += sizeof nan) {
    std::memcpy(image.data() + at, &nan, sizeof nan);
  }
  write_file(dir / "nan.gguf", image);
  const Outcome checked = tandem({"run", "-m", dir / "nan.gguf", "-p", "a", "--check-tensors"});
  INFO(checked.err);
  CHECK(checked.exit_code == 1);
  CHECK(checked.out.empty());
  CHECK(line_count(checked.err) == 1);
  CHECK(contains(checked.err, ".weight"));
}

TEST_CASE("a model whose logits are not numbers ends in one line instead of text") {
  const TempDir dir;
  std::string image = read_file(family_model("qwen3moe-f32"));
  // Only F32 data follows the tensor list: everything from the middle on becomes NaN.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (size_t at = image.size() / 2 / 4 * 4; at < image.size(); at += sizeof nan) {
    std::memcpy(image.data() + at, &nan, sizeof nan);
  }
  write_file(dir / "nan.gguf", image);
  const Outcome run = tandem(
      {"run", "-m", dir / "nan.gguf", "-p", "a", "-n", "5", "--no-display-prompt", "--temp", "0"});
  INFO(run.err);
  CHECK(run.exit_code == 1);
  CHECK(run.out.empty());
  CHECK(line_count(run.err) == 1);
  CHECK(contains(run.err, dir / "nan.gguf"));
}

}  // namespace tandem::test
