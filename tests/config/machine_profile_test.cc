#include "runtime/config/machine_profile.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "runtime/config/embedded.h"
#include "runtime/error.h"
#include "tests/config/temp_file.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

namespace fs = std::filesystem;

// A complete profile with some keys set to other values; an empty value leaves the key out.
std::string profile(const std::map<std::string, std::string>& changes = {}) {
  std::vector<std::pair<std::string, std::string>> keys = {
      {"description", "\"a test\""}, {"dram_gbps", "50.0"},        {"cpu.read_gbps", "40"},
      {"cpu.gflops", "100.5"},       {"cpu.first_expert_us", "8"}, {"gpu.vram_mib", "1024"},
      {"gpu.read_gbps", "400.0"},    {"gpu.gflops", "10000"},      {"gpu.launch_us", "4.0"},
      {"link.h2d_gbps", "20.0"},     {"link.d2h_gbps", "10.0"},    {"link.latency_us", "5.0"}};
  std::string text;
  for (const auto& [key, value] : keys) {
    const auto change = changes.find(key);
    const std::string& chosen = change == changes.end() ? value : change->second;
    if (!chosen.empty()) text.append(key).append(" = ").append(chosen).append("\n");
  }
  for (const auto& [key, value] : changes) {
    if (text.find(key + " = ") == std::string::npos && !value.empty()) {
      text.append(key).append(" = ").append(value).append("\n");
    }
  }
  return text;
}

MachineProfile parse(const std::string& text) {
  return parse_machine_profile(text, "test", "here.toml");
}

// What the ConfigError says; "" when there is none.
std::string complaint(const std::string& text) {
  try {
    parse(text);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

// One line that names file and key, for this value of this key.
bool refused(const std::string& key, const std::string& value) {
  const std::string message = complaint(profile({{key, value}}));
  CAPTURE(message);
  CHECK(message.rfind("here.toml: " + key + " ", 0) == 0);
  CHECK(message.find('\n') == std::string::npos);
  return !message.empty();
}

const std::vector<std::string> kRates = {"dram_gbps",     "cpu.read_gbps", "cpu.gflops",
                                         "gpu.read_gbps", "gpu.gflops",    "link.h2d_gbps",
                                         "link.d2h_gbps"};
const std::vector<std::string> kNeededTimes = {"cpu.first_expert_us", "gpu.launch_us",
                                               "link.latency_us"};
const std::vector<std::string> kTimes = {"cpu.first_expert_us", "gpu.launch_us", "link.latency_us",
                                         "layer_overhead_us"};

std::string file_complaint(const std::string& path) {
  try {
    load_machine_profile(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("every built-in profile parses and has positive rates") {
  CHECK(embedded_machines().size() >= 2);
  for (const EmbeddedFile& file : embedded_machines()) {
    CAPTURE(file.name);
    const MachineProfile m = load_machine_profile(std::string(file.name));
    CHECK(m.name == file.name);
    CHECK_FALSE(m.description.empty());
    for (const double rate : {m.dram_gbps, m.cpu.read_gbps, m.cpu.gflops, m.gpu.read_gbps,
                              m.gpu.gflops, m.link.h2d_gbps, m.link.d2h_gbps}) {
      CHECK(rate > 0);
    }
    CHECK(m.gpu.vram_bytes >= int64_t{1} << 30);
    CHECK(m.dram_gbps >= m.cpu.read_gbps);
    CHECK(m.layer_overhead_us > 0);
    CHECK(m.gpu.measured_on.empty());
  }
}

TEST_CASE("the default machine is built in") {
  CHECK(load_machine_profile(std::string(kDefaultMachine)).name == kDefaultMachine);
}

TEST_CASE("every profile in configs/machines is built in, byte for byte") {
  size_t files = 0;
  for (const auto& entry :
       fs::directory_iterator(fs::path(TANDEM_SOURCE_DIR) / "configs/machines")) {
    if (entry.path().extension() != ".toml") continue;
    ++files;
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    bool found = false;
    for (const EmbeddedFile& file : embedded_machines()) {
      found = found || (file.name == entry.path().stem().string() && file.text == text);
    }
    CAPTURE(entry.path());
    CHECK(found);
  }
  CHECK(files == embedded_machines().size());
}

TEST_CASE("every key of a profile ends up in its own field") {
  const MachineProfile m = parse(profile());
  CHECK(m.name == "test");
  CHECK(m.description == "a test");
  CHECK(m.dram_gbps == 50.0);
  CHECK(m.cpu.read_gbps == 40.0);
  CHECK(m.cpu.gflops == 100.5);
  CHECK(m.cpu.first_expert_us == 8.0);
  CHECK(m.cpu.onednn_bf16_tokens == 0);
  CHECK(parse(profile({{"cpu.onednn_bf16_tokens", "64"}})).cpu.onednn_bf16_tokens == 64);
  CHECK(m.gpu.vram_bytes == int64_t{1} << 30);
  CHECK(m.gpu.read_gbps == 400.0);
  CHECK(m.gpu.gflops == 10000.0);
  CHECK(m.gpu.launch_us == 4.0);
  CHECK(m.gpu.measured_on.empty());
  CHECK(parse(profile({{"gpu.measured_on", "\"GPU 1\""}})).gpu.measured_on == "GPU 1");
  CHECK(m.link.h2d_gbps == 20.0);
  CHECK(m.link.d2h_gbps == 10.0);
  CHECK(m.link.latency_us == 5.0);
}

TEST_CASE("a profile without an overhead per layer has none") {
  CHECK(parse(profile()).layer_overhead_us == 0.0);
}

TEST_CASE("an overhead per layer is read, and may be zero") {
  CHECK(parse(profile({{"layer_overhead_us", "1900.5"}})).layer_overhead_us == 1900.5);
  CHECK(parse(profile({{"layer_overhead_us", "0"}})).layer_overhead_us == 0.0);
}

TEST_CASE("a profile without a description is described by its name") {
  CHECK(parse(profile({{"description", ""}})).description == "test");
}

TEST_CASE("latencies and VRAM may be zero") {
  for (const std::string& key : kTimes) CHECK(complaint(profile({{key, "0"}})).empty());
  CHECK(complaint(profile({{"gpu.vram_mib", "0"}})).empty());
}

TEST_CASE("a missing key is named, with its file") {
  std::vector<std::string> needed = kRates;
  needed.insert(needed.end(), kNeededTimes.begin(), kNeededTimes.end());
  needed.emplace_back("gpu.vram_mib");
  for (const std::string& key : needed) {
    CHECK(complaint(profile({{key, ""}})) == "here.toml: " + key + " is missing");
  }
}

TEST_CASE("a misspelt key is named, with its file") {
  CHECK(complaint(profile({{"gpu.launch_uss", "4"}})) ==
        "here.toml: gpu.launch_uss is not a known setting");
  CHECK(complaint(profile({{"colour", "\"red\""}})) == "here.toml: colour is not a known setting");
  CHECK(complaint(profile({{"gpu.extra.deep", "1"}})) ==
        "here.toml: gpu.extra.deep is not a known setting");
}

TEST_CASE("a rate that is zero, negative or absurdly large is refused") {
  for (const std::string& key : kRates) {
    for (const auto* value :
         {"0", "0.0", "-1", "-25.0", "1e12", "9007199254740993", "9223372036854775807"}) {
      CAPTURE(key, value);
      CHECK(refused(key, value));
    }
  }
}

TEST_CASE("a time that is negative or absurdly long is refused") {
  for (const std::string& key : kTimes) {
    for (const auto* value : {"-1", "-0.001", "1e9"}) CHECK(refused(key, value));
  }
}

TEST_CASE("a number that is not finite is refused") {
  for (const auto* value : {"nan", "-nan", "inf", "-inf"}) {
    for (const std::string& key : kRates) CHECK(refused(key, value));
    for (const std::string& key : kTimes) CHECK(refused(key, value));
    CHECK(refused("gpu.vram_mib", value));
  }
}

TEST_CASE("a value of another type is refused") {
  for (const auto* value : {"\"25\"", "true", "[25.0]", "{ a = 25.0 }", "2024-06-11"}) {
    for (const std::string& key : {std::string("link.h2d_gbps"), std::string("gpu.launch_us"),
                                   std::string("gpu.vram_mib")}) {
      CAPTURE(key, value);
      CHECK(refused(key, value));
    }
  }
  CHECK(refused("gpu.vram_mib", "1024.5"));
  CHECK(refused("description", "3"));
}

TEST_CASE("VRAM that is negative or would overflow in bytes is refused") {
  for (const auto* value : {"-1", "9223372036854775807", "17592186044416"}) {
    CHECK(refused("gpu.vram_mib", value));
  }
}

TEST_CASE("a table where a number is expected, or the other way round, is refused") {
  CHECK_FALSE(complaint("cpu = 3\n" + profile()).empty());
  CHECK_FALSE(complaint("cpu = 3\n").empty());
  CHECK_FALSE(complaint("").empty());
}

TEST_CASE("text that is not TOML is one line with file and line number") {
  const std::string message = complaint("dram_gbps = 50.0\n\ncpu.read_gbps = = 3\n");
  CAPTURE(message);
  CHECK(message.rfind("here.toml:3: ", 0) == 0);
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("a key that is given twice is an error with its line") {
  CHECK(complaint("dram_gbps = 1\ndram_gbps = 2\n").rfind("here.toml:2: ", 0) == 0);
}

TEST_CASE("bytes that are not text are a ConfigError") {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  CHECK(complaint(bytes).rfind("here.toml:1: ", 0) == 0);
}

TEST_CASE("a profile is read from a file and named after it") {
  const TempFile file("mine.toml", profile());
  const MachineProfile m = load_machine_profile(file.path());
  CHECK(m.name == fs::path(file.path()).stem().string());
  CHECK(m.link.h2d_gbps == 20.0);
}

TEST_CASE("an error in a file names the path as given") {
  const TempFile file("bad.toml", profile({{"link.h2d_gbps", "-1"}}));
  CHECK(file_complaint(file.path()).rfind(file.path() + ": link.h2d_gbps is -1", 0) == 0);
}

TEST_CASE("a name that is not built in is answered with those that are") {
  CHECK_THROWS_AS(load_machine_profile("rtx9999"), ConfigError);
  const std::string message = file_complaint("rtx9999");
  CHECK(message.find("rtx9999") != std::string::npos);
  for (const EmbeddedFile& file : embedded_machines()) {
    CHECK(message.find(std::string(file.name)) != std::string::npos);
  }
}

TEST_CASE("a missing file is a FileError that names it") {
  for (const auto* path : {"/nonexistent/machine.toml", "missing.toml", "./missing"}) {
    CHECK_THROWS_AS(load_machine_profile(path), FileError);
    CHECK(file_complaint(path).rfind(std::string(path) + ": ", 0) == 0);
  }
}

TEST_CASE("a folder instead of a file is a FileError that names it") {
  const std::string folder = fs::temp_directory_path().string() + "/";
  CHECK_THROWS_AS(load_machine_profile(folder), FileError);
  CHECK(file_complaint(folder).rfind(folder + ": ", 0) == 0);
}

TEST_CASE("a device file is refused without being read") {
  CHECK_THROWS_AS(load_machine_profile("/dev/null"), FileError);
}

TEST_CASE("a file that may not be read is a FileError that names it") {
  const TempFile file("secret.toml", profile());
  fs::permissions(file.path(), fs::perms::none);
  if (access(file.path().c_str(), R_OK) == 0) return;  // root reads everything
  CHECK_THROWS_AS(load_machine_profile(file.path()), FileError);
}

TEST_CASE("a path longer than the system allows is a FileError") {
  CHECK_THROWS_AS(load_machine_profile("/" + std::string(5000, 'x')), FileError);
}

}  // namespace
}  // namespace tandem::test
