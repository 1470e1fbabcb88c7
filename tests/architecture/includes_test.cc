// Who may include whom. The folders of the project form layers: cache and kernels know nobody,
// the scheduler knows the cache, the runtime knows all. Reads the sources, runs none of them.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace tandem::test {
namespace {

namespace fs = std::filesystem;

struct Rule {
  std::string folder;
  std::vector<std::string> forbidden;  // folders
};

const std::vector<Rule> kRules = {
    {"cache", {"scheduler", "kernels", "runtime", "tests", "bench"}},
    {"scheduler", {"kernels", "runtime", "tests", "bench"}},
    {"kernels", {"cache", "scheduler", "runtime", "tests", "bench"}},
    {"runtime", {"tests", "bench"}},
    {"runtime/calibrate",
     {"runtime/cli", "runtime/config", "runtime/engine", "runtime/selftest", "runtime/text",
      "runtime/trace"}},
    {"runtime/config", {"runtime/cli"}},
    {"runtime/device", {"runtime/cli", "runtime/engine", "runtime/model"}},
    {"runtime/engine", {"runtime/cli"}},
    {"runtime/model", {"runtime/cli", "runtime/engine"}},
    {"runtime/pregate",
     {"runtime/calibrate", "runtime/cli", "runtime/config", "runtime/device", "runtime/engine",
      "runtime/refactor", "runtime/selftest", "runtime/text", "runtime/trace"}},
    {"runtime/probe",
     {"runtime/calibrate", "runtime/cli", "runtime/config", "runtime/engine", "runtime/model",
      "runtime/selftest", "runtime/text", "runtime/trace"}},
    {"runtime/refactor",
     {"runtime/calibrate", "runtime/cli", "runtime/config", "runtime/device", "runtime/engine",
      "runtime/selftest", "runtime/text", "runtime/trace"}},
    {"runtime/selftest",
     {"runtime/calibrate", "runtime/cli", "runtime/config", "runtime/engine", "runtime/model",
      "runtime/text", "runtime/trace"}},
    {"runtime/text", {"runtime/cli", "runtime/device", "runtime/engine"}},
    {"runtime/trace", {"runtime/cli", "runtime/device", "runtime/engine", "runtime/text"}},
};

bool is_source(const fs::path& path) {
  const std::string ending = path.extension().string();
  return ending == ".h" || ending == ".cc" || ending == ".cu" || ending == ".cuh";
}

std::vector<fs::path> sources(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && is_source(entry.path())) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// What a line includes, as written between the quotes or brackets; "" when it includes nothing.
std::string included_by(const std::string& line) {
  constexpr const char* kBlank = " \t";
  size_t at = line.find_first_not_of(kBlank);
  if (at == std::string::npos || line[at] != '#') return "";
  at = line.find_first_not_of(kBlank, at + 1);
  if (at == std::string::npos || line.compare(at, 7, "include") != 0) return "";
  const size_t open = line.find_first_of("\"<", at);
  if (open == std::string::npos) return "";
  return line.substr(open + 1, line.find_first_of("\">", open + 1) - open - 1);
}

std::vector<std::string> includes(const fs::path& file) {
  std::ifstream in(file);
  std::vector<std::string> found;
  for (std::string line; std::getline(in, line);) {
    const std::string header = included_by(line);
    if (!header.empty()) found.push_back(header);
  }
  return found;
}

// "file includes header", for every include of the rule's folder that the rule forbids. A path
// with ".." is forbidden everywhere: it could lead anywhere.
std::vector<std::string> violations(const fs::path& root, const Rule& rule) {
  std::vector<std::string> found;
  for (const fs::path& file : sources(root / rule.folder)) {
    for (const std::string& header : includes(file)) {
      const bool bad = header.find("..") != std::string::npos ||
                       std::any_of(rule.forbidden.begin(), rule.forbidden.end(),
                                   [&](const auto& f) { return header.rfind(f + "/", 0) == 0; });
      if (bad) found.push_back(fs::relative(file, root).string() + " includes " + header);
    }
  }
  return found;
}

void obeys(const std::string& folder) {
  const fs::path root = TANDEM_SOURCE_DIR;
  const auto rule =
      std::find_if(kRules.begin(), kRules.end(), [&](const Rule& r) { return r.folder == folder; });
  REQUIRE(rule != kRules.end());
  CHECK_FALSE(sources(root / folder).empty());
  CHECK(violations(root, *rule) == std::vector<std::string>{});
}

TEST_CASE("cache includes nothing of scheduler, kernels and runtime") { obeys("cache"); }
TEST_CASE("scheduler includes nothing of kernels and runtime") { obeys("scheduler"); }
TEST_CASE("kernels include nothing of cache, scheduler and runtime") { obeys("kernels"); }
TEST_CASE("the runtime includes nothing of tests and bench") { obeys("runtime"); }
TEST_CASE("runtime/config includes nothing of the command line") { obeys("runtime/config"); }
TEST_CASE("runtime/device includes nothing of engine, model and command line") {
  obeys("runtime/device");
}
TEST_CASE("runtime/engine includes nothing of the command line") { obeys("runtime/engine"); }
TEST_CASE("runtime/model includes nothing of engine and command line") { obeys("runtime/model"); }
TEST_CASE("runtime/calibrate includes nothing of config, engine, selftest and command line") {
  obeys("runtime/calibrate");
}
TEST_CASE("runtime/pregate includes nothing but model, kernels and scheduler") {
  obeys("runtime/pregate");
}
TEST_CASE("runtime/probe includes nothing but device and kernels") { obeys("runtime/probe"); }
TEST_CASE("runtime/refactor includes nothing but pregate, model, kernels and scheduler") {
  obeys("runtime/refactor");
}
TEST_CASE("runtime/selftest includes nothing but device, kernels and probe") {
  obeys("runtime/selftest");
}
TEST_CASE("runtime/text includes nothing of engine, device and command line") {
  obeys("runtime/text");
}
TEST_CASE("runtime/trace includes nothing of engine, device, text and command line") {
  obeys("runtime/trace");
}

TEST_CASE("a forbidden include is found, however it is written") {
  const fs::path root = fs::temp_directory_path() / ("tandem-includes-" + std::to_string(getpid()));
  fs::remove_all(root);
  fs::create_directories(root / "cache/policies");
  const auto write = [&](const char* file, const char* text) {
    std::ofstream(root / file) << text << "\n";
  };
  write("cache/good.h",
        "#include <vector>\n#include \"cache/types.h\"\n// #include \"runtime/a.h\"");
  write("cache/quoted.cc", "#include \"runtime/error.h\"");
  write("cache/policies/bracketed.cc", "#include \"cache/types.h\"\n  #  include <kernels/simd.h>");
  write("cache/upwards.cc", "#include \"../cache/types.h\"");
  write("cache/notes.txt", "#include \"runtime/error.h\"");
  const std::vector<std::string> found = violations(root, kRules.front());
  fs::remove_all(root);
  CHECK(found == std::vector<std::string>{
                     "cache/policies/bracketed.cc includes kernels/simd.h",
                     "cache/quoted.cc includes runtime/error.h",
                     "cache/upwards.cc includes ../cache/types.h",
                 });
}

}  // namespace
}  // namespace tandem::test
