// Writes the seed corpus of taps_fuzz, a small collection with one prompt, into the folder named by
// the argument.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/pregate/collection.h"
#include "tests/fuzz/seeds.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_collection(const fs::path& to, int32_t n_layers, int32_t n_experts, int32_t width,
                      int tokens, bool before_attention) {
  const fs::path folder = to.string() + ".taps";
  fs::remove_all(folder);
  CollectionInfo info;
  info.model = "seed";
  info.router_hash = "0123";
  info.shape = {n_layers, n_experts, width, before_attention};
  info.n_prompts = 1;
  info.made_with = "nothing";
  const Collection collection = Collection::begin(folder, info);
  TapBuffer taps(info.shape);
  const std::vector<float> input(static_cast<size_t>(width), 0.5F);
  const std::vector<float> logits(static_cast<size_t>(n_experts), -1.0F);
  for (int t = 0; t < tokens; ++t) {
    for (int32_t l = 0; l < n_layers; ++l) {
      taps.add(l, t, input.data(), logits.data(), before_attention ? input.data() : nullptr);
    }
  }
  taps.write(collection.file(0).string());
  const std::string json = text_of(folder / "collection.json");
  const std::string sizes{static_cast<char>(json.size() % 256),
                          static_cast<char>(json.size() / 256)};
  fuzz::write_seed(to, sizes + json + text_of(collection.file(0)));
  fs::remove_all(folder);
}

void write_all(const fs::path& dir) {
  write_collection(dir / "one_token", 1, 1, 1, 1, false);
  write_collection(dir / "three_tokens", 2, 4, 3, 3, false);
  write_collection(dir / "no_token", 2, 2, 2, 0, false);
  write_collection(dir / "before_attention", 2, 3, 2, 2, true);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::fuzz::write_seeds(argc, argv, tandem::write_all); }
