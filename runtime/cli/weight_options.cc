#include "runtime/cli/weight_options.h"

#include <fmt/format.h>

#include <cstdio>

#include "runtime/error.h"
#include "runtime/model/available_memory.h"
#include "runtime/model/host_memory.h"
#include "runtime/words.h"

namespace tandem {
namespace {

const char* on_or_off(bool on) { return on ? "on" : "off"; }

// Of memory that was to be locked, how much is, and why not all: "0 B of 3.66 GiB: …".
std::string lock_text(const MemoryLock& lock) {
  return fmt::format("{} of {} locked", bytes_text(lock.locked_bytes),
                     bytes_text(lock.wanted_bytes));
}

}  // namespace

void WeightOptions::add_to(CLI::App* app) {
  app->add_flag("--no-repack", no_repack_,
                "use weights as the file has them, also -nr; slower, ready sooner");
  CLI::Option* mmap = app->add_flag("--mmap", mmap_, "map the file; the default, also -mmp 1");
  app->add_flag("--no-mmap", no_mmap_,
                "read the weights into memory instead of mapping the file, also -mmp 0")
      ->excludes(mmap);
  app->add_flag("--mlock", mlock_, "lock the weights that the CPU reads in memory");
}

void WeightOptions::load(Model* model, PackScope scope, ParallelFor parallel,
                         const MemoryNodes& nodes, const std::string& loading,
                         Progress* progress) const {
  pack(model, scope, parallel, nodes, loading, progress);
  bring_in(model, scope, parallel, loading, progress);
  if (!mlock_) return;
  progress->show("locking weights in memory");
  const MemoryLock& lock = model->lock(scope);
  progress->clear();
  if (lock.error.empty()) return;
  std::fprintf(stderr, "tandem: warning: --mlock: %s: %s\n", lock_text(lock).c_str(),
               lock.error.c_str());
}

bool WeightOptions::packs(const Model& model, PackScope scope) const {
  return !no_repack_ && model.packable_bytes(scope) <= available_host_bytes();
}

void WeightOptions::plan(Model* model, PackScope scope) const {
  if (packs(*model, scope)) model->lay_out_packed(scope);
}

void WeightOptions::pack(Model* model, PackScope scope, ParallelFor parallel,
                         const MemoryNodes& nodes, const std::string& loading,
                         Progress* progress) const {
  if (!packs(*model, scope)) return;
  const int64_t bytes = model->packable_bytes(scope);
  model->pack(
      scope, parallel,
      [&](int64_t done) { progress->show_count(loading + ", MiB", done >> 20, bytes >> 20); },
      nodes);
}

void WeightOptions::bring_in(Model* model, PackScope scope, ParallelFor parallel,
                             const std::string& loading, Progress* progress) const {
  const int64_t bytes = model->unpacked_bytes();
  const int64_t available = available_host_bytes();
  const bool read = model->file().access() == FileAccess::kRead;
  if (read && bytes > available) {
    throw MemoryError(fmt::format(
        "--no-mmap: reading the weights of {} takes {} of memory, {} are available; without the "
        "flag they stay in the file",
        model->file().name(), bytes_text(bytes), bytes_text(available)));
  }
  // Of a mapped file, pages come by themselves. Behind packed weights little is left, experts that
  // go to a GPU leave host memory, and where memory is short one page would displace another.
  if (!read && (model->packed() || scope == PackScope::kExperts || bytes > available)) return;
  model->bring_in_unpacked(parallel, [&](int64_t done) {
    progress->show_count(loading + ", MiB", done >> 20, bytes >> 20);
  });
}

std::vector<EffectiveSetting> WeightOptions::effective(const Model& model, PackScope scope) const {
  return {packed_setting(model, scope), mmap_setting(model), mlock_setting(model)};
}

EffectiveSetting WeightOptions::packed_setting(const Model& model, PackScope scope) const {
  EffectiveSetting weights{"weights", no_repack_ ? "as in the file" : "auto", "packed for the CPU",
                           ""};
  if (model.packed()) return weights;
  weights.effective = "as in the file";
  const int64_t packable = model.packable_bytes(scope);
  if (packable == 0) {
    weights.reason = "no matrix makes whole groups of 16 rows";
  } else if (!no_repack_) {
    weights.reason = fmt::format("packing takes {} of memory, {} are available",
                                 bytes_text(packable), bytes_text(available_host_bytes()));
  }
  return weights;
}

EffectiveSetting WeightOptions::mmap_setting(const Model& model) const {
  EffectiveSetting mmap{"mmap", on_or_off(access() == FileAccess::kMapped), "", ""};
  if (model.file().in_memory()) {
    mmap.effective = "none";
    mmap.reason = "the model is part of the program";
  } else {
    mmap.effective = on_or_off(model.file().access() == FileAccess::kMapped);
  }
  return mmap;
}

EffectiveSetting WeightOptions::mlock_setting(const Model& model) const {
  if (!mlock_) return {"mlock", "off", "off", ""};
  const MemoryLock& lock = model.memory_lock();
  return {"mlock", "on", lock.error.empty() ? "on" : lock_text(lock),
          !lock.error.empty()     ? lock.error
          : lock.wanted_bytes > 0 ? lock_text(lock)
                                  : ""};
}

}  // namespace tandem
