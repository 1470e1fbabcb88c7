// What a decode token reads and writes of a GPU's memory, kernel by kernel, beside the fewest
// possible; counted in the emulation, on no GPU.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "bench/gpu/token_traffic.h"
#include "kernels/parallel.h"
#include "runtime/config/embedded.h"

namespace tandem {
namespace {

void print(const std::string& name, const vgpu::Traffic& t, int32_t tokens) {
  const auto each = [&](uint64_t n) { return static_cast<double>(n) / tokens; };
  fmt::print("\"{}\",{:.1f},{:.0f},{:.0f},{:.0f},{:.0f}\n", name, each(t.launches),
             each(t.read_once), each(t.read_by_blocks), each(t.written_once),
             each(t.written_by_blocks));
}

void measure(const std::string& path, int32_t tokens) {
  Model model = Model::load(path.empty() ? GgufFile::from_memory(embedded_model(), "demo")
                                         : GgufFile::open(path));
  model.pack(PackScope::kExperts, serial_for, [](int64_t) {});
  const TokenTraffic traffic = token_traffic(model, tokens);
  fmt::print("kernel,launches,read_once,read_by_blocks,written_once,written_by_blocks\n");
  vgpu::Traffic all;
  for (const auto& [name, t] : traffic.by_kernel) {
    print(name, t, tokens);
    all.launches += t.launches;
    all.read_once += t.read_once;
    all.read_by_blocks += t.read_by_blocks;
    all.written_once += t.written_once;
    all.written_by_blocks += t.written_by_blocks;
  }
  print("all", all, tokens);
  const auto to_fewest = [&](double bytes) { return bytes / static_cast<double>(traffic.fewest); };
  fmt::print("# {}: fewest bytes {}, declared {} ({:.4f}), counted {:.4f}, by blocks {:.4f}\n",
             model.config().name, traffic.fewest, traffic.declared,
             to_fewest(static_cast<double>(traffic.declared)),
             to_fewest(static_cast<double>(all.read_once + all.written_once) / tokens),
             to_fewest(static_cast<double>(all.read_by_blocks + all.written_by_blocks) / tokens));
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  CLI::App app{"Bytes of a decode token in a GPU's memory, counted in the emulation"};
  std::string path;
  int32_t tokens = 4;
  app.add_option("-m,--model", path, "GGUF file; without it the built-in demo model");
  app.add_option("-n", tokens, "tokens")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  tandem::measure(path, tokens);
  return 0;
}
