// tandem calibrate: measures this machine's CPU, and writes a machine profile.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "runtime/calibrate/measure_cpu.h"
#include "runtime/calibrate/profile_text.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/host_facts.h"
#include "runtime/cli/option_checks.h"
#include "runtime/cli/progress.h"
#include "runtime/cli/text_io.h"
#include "runtime/config/machine_profile.h"
#include "runtime/device/cpu_quota.h"
#include "runtime/device/cpu_topology.h"
#include "runtime/device/thread_count.h"

namespace tandem {
namespace {

struct CalibrateOptions {
  int n_threads = 0;
  std::string machine{kDefaultMachine};
  std::string out;
};

void calibrate(const CalibrateOptions& options) {
  if (!options.out.empty()) check_writable(options.out);
  const MachineProfile base = load_machine_profile(options.machine);
  const CpuTopology cpu = CpuTopology::of_this_machine();
  ThreadPool pool(thread_count(options.n_threads, cpu, cpu_quota()).n,
                  cpu.n_nodes() > 1 ? &cpu : nullptr);
  Progress progress;
  const CpuRates rates =
      measure_cpu(pool, [&](const std::string& what) { progress.show("measuring: " + what); });
  progress.clear();
  const std::string text = profile_text(rates, base, cpu_name(), pool.size());
  if (options.out.empty()) {
    print_out(text);
  } else {
    write_file(options.out, text);
  }
}

}  // namespace

void add_calibrate_command(CLI::App* program) {
  const auto options = std::make_shared<CalibrateOptions>();
  CLI::App* app =
      program->add_subcommand("calibrate", "Measure this machine's CPU; write a machine profile");
  app->footer(
      "Example:\n  tandem calibrate -o here.toml\n  tandem run --machine here.toml -p Hello");
  app->add_option("-t,--threads", options->n_threads,
                  "CPU threads; 0: the physical cores available")
      ->type_name("N")
      ->check(whole_number(0, 512))
      ->capture_default_str();
  app->add_option("--machine", options->machine,
                  "profile whose GPU and link are taken over: a name or a TOML file")
      ->type_name("NAME")
      ->check(not_empty())
      ->capture_default_str();
  app->add_option("-o,--out", options->out, "file to write (default: standard output)")
      ->type_name("FILE")
      ->check(not_empty());
  app->callback([options] { calibrate(*options); });
}

}  // namespace tandem
