// The page that tandem simulate --report writes.
#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tests/cli/cli_harness.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

constexpr const char* kTrace = "synthetic:sequences=3,prompt=8,decode=24";

Outcome simulate(std::vector<std::string> more, const std::string& trace = kTrace) {
  const std::vector<std::string> small{"simulate", "--model-shape", "olmoe-1b-7b", "--trace",
                                       trace};
  more.insert(more.begin(), small.begin(), small.end());
  return tandem(more);
}

// Every <svg> element of a page, from tag to tag.
std::vector<std::string> svgs(const std::string& page) {
  std::vector<std::string> all;
  for (size_t at = 0; (at = page.find("<svg", at)) != std::string::npos;) {
    const size_t end = page.find("</svg>", at);
    if (end == std::string::npos) return {};
    all.push_back(page.substr(at, end + 6 - at));
    at = end;
  }
  return all;
}

// Tags close in the order in which they were opened, attributes are in double quotes, and nothing
// between tags looks like one.
bool is_balanced(const std::string& xml) {
  std::vector<std::string> open;
  for (size_t at = 0; (at = xml.find('<', at)) != std::string::npos;) {
    const size_t end = xml.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (contains(tag, "<") || std::count(tag.begin(), tag.end(), '"') % 2 != 0) return false;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    at = end;
  }
  return open.empty();
}

size_t count_of(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

std::string report(std::vector<std::string> more, const std::string& trace = kTrace) {
  const TempDir dir;
  const std::string path = dir / "report.html";
  more.insert(more.end(), {"--report", path});
  const Outcome run = simulate(more, trace);
  INFO(run.err);
  REQUIRE(run.exit_code == 0);
  CHECK(contains(run.out, "All speeds are modelled"));
  // Nothing else is left behind.
  const auto files = std::filesystem::directory_iterator(dir.path());
  CHECK(std::distance(begin(files), end(files)) == 1);
  return read_file(path);
}

// Routes for the model's 16 layers of 64 experts.
std::string small_trace() {
  std::string text = "{\"n_experts\": 64}\n";
  for (int token = 0; token < 6; ++token) {
    for (int layer = 0; layer < 16; ++layer) {
      text += "{\"layer_idx\": " + std::to_string(layer) +
              ", \"token_idx\": " + std::to_string(token) + ", \"selected_ids\": [" +
              std::to_string(layer + token) + ", 40], \"gate_weights\": [0.6, 0.4]}\n";
    }
  }
  return text;
}

}  // namespace

TEST_CASE("a report has speeds, hit rates, a timeline and the table") {
  const std::string page = report(
      {"--cache", "10%,25%,50%", "--policy", "tandem,hybrimoe", "--prefill", "16,32", "-s", "7"});
  CHECK(contains(page, "modelled, never measured"));
  CHECK(contains(page, "Seed 7."));
  CHECK(contains(page, "tandem simulate --trace synthetic:sequences=3,prompt=8,decode=24"));
  CHECK(contains(page, "--cache 10%,25%,50% --prefill 16,32"));
  CHECK(contains(page, "aria-label=\"Decoding: rtx3060-ddr4 · olmoe-1b-7b"));
  CHECK(contains(page, "prompts of 16 tokens\""));
  CHECK(contains(page, "prompts of 32 tokens\""));
  CHECK(contains(page, "aria-label=\"Hit rates: olmoe-1b-7b"));
  CHECK(contains(page, "belady, shared slots"));
  CHECK(contains(page, "belady, slots per layer"));
  CHECK(contains(page, "aria-label=\"CPU, GPU and link during one decoded token\""));
  CHECK(count_of(page, "role=\"img\"") == 5);
  CHECK(contains(page, "<title>experts, layer 0: "));
  CHECK(contains(page, "<title>prefetch, layer "));
  CHECK(count_of(page, "<tr>") == 1 + 3 * 2 * 2);
  CHECK(count_of(page, "class=\"line ref dash\" d=\"M") >= 4);
}

TEST_CASE("every drawing of a report is well-formed") {
  for (const char* cache : {"10%,25%,50%", "25%", "512,25%"}) {
    const std::string page = report({"--cache", cache, "--policy", "tandem,lru,ktransformers"});
    const std::vector<std::string> drawings = svgs(page);
    CHECK(drawings.size() > 8);
    for (const std::string& svg : drawings) {
      INFO(svg.substr(0, 300));
      CHECK(is_balanced(svg));
      CHECK_FALSE(contains(svg, "nan"));
      CHECK_FALSE(contains(svg, "inf\""));
    }
  }
}

TEST_CASE("a report needs nothing from elsewhere and runs nothing") {
  const std::string page = report({});
  CHECK(contains(page, "default-src 'none'"));
  CHECK_FALSE(contains(page, "<script"));
  CHECK_FALSE(contains(page, "href"));
  CHECK_FALSE(contains(page, "src="));
  CHECK_FALSE(contains(page, "url("));
  CHECK_FALSE(contains(page, "@import"));
  CHECK(contains(page, "prefers-color-scheme: dark"));
}

TEST_CASE("one size of the cache makes bars, several make lines") {
  const std::string bars = report({"--cache", "25%"});
  CHECK_FALSE(contains(bars, "class=\"line c0\" d=\"M4"));
  CHECK(contains(bars, "cache, share of all experts: 25%"));
  const std::string lines = report({"--cache", "25%,50%"});
  CHECK(contains(lines, ">25%</text>"));
  CHECK(contains(lines, ">50%</text>"));
  CHECK(contains(lines, ">cache, share of all experts</text>"));
  CHECK(contains(report({"--cache", "512,1024"}), ">cache, GiB</text>"));
}

TEST_CASE("the same sweep writes the same report") {
  const TempDir dir;
  const std::string path = dir / "report.html";
  REQUIRE(simulate({"--report", path}).exit_code == 0);
  const std::string first = read_file(path);
  REQUIRE(simulate({"--report", path}).exit_code == 0);
  CHECK(read_file(path) == first);
}

TEST_CASE("what names hold cannot become part of a report's markup") {
  const TempDir dir;
  const std::string path = dir / "<img src=x onerror=alert(1)>\"'&\x01\xff.jsonl";
  write_file(path, small_trace());
  const std::string page = report({"--no-bounds"}, path);
  CHECK_FALSE(contains(page, "<img"));
  CHECK(contains(page, "&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;?\xef\xbf\xbd.jsonl"));
  CHECK(is_utf8(page));
  for (const std::string& svg : svgs(page)) CHECK(is_balanced(svg));
}

TEST_CASE("a report that cannot be written is refused before anything is simulated") {
  const TempDir dir;
  for (const std::string& path : {dir / "no-such-folder/report.html", dir.path().string()}) {
    const Outcome run = simulate({"--report", path, "--trace", "no-such-trace.csv"});
    CHECK(run.exit_code == 1);
    CHECK(run.out.empty());
    CHECK(contains(run.err, path));
    CHECK_FALSE(contains(run.err, "no-such-trace"));
    CHECK(line_count(run.err) == 1);
  }
  CHECK(std::filesystem::is_empty(dir.path()));
}

}  // namespace tandem::test
