// How weights come into memory and stay there: flags, loading, and what became of them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "runtime/cli/progress.h"
#include "runtime/engine/settings.h"
#include "runtime/model/model.h"

namespace tandem {

class WeightOptions {
 public:
  // --no-repack, --mmap, --no-mmap, --mlock
  void add_to(CLI::App* app);

  FileAccess access() const { return mmap_ && !no_mmap_ ? FileAccess::kMapped : FileAccess::kRead; }

  // Packs the weights unless --no-repack or too little memory forbids it, brings in the others,
  // and locks them if that was asked for; where that fails, a line on stderr says so. MemoryError
  // when the file is to be read and there is not enough memory for that. `loading` opens the line
  // of progress.
  void load(Model* model, PackScope scope, ParallelFor parallel, const MemoryNodes& nodes,
            const std::string& loading, Progress* progress) const;
  // Lays the weights out as load() would; moves and reads none.
  void plan(Model* model, PackScope scope) const;
  std::vector<EffectiveSetting> effective(const Model& model, PackScope scope) const;

 private:
  bool packs(const Model& model, PackScope scope) const;
  void pack(Model* model, PackScope scope, ParallelFor parallel, const MemoryNodes& nodes,
            const std::string& loading, Progress* progress) const;
  void bring_in(Model* model, PackScope scope, ParallelFor parallel, const std::string& loading,
                Progress* progress) const;
  EffectiveSetting packed_setting(const Model& model, PackScope scope) const;
  EffectiveSetting mmap_setting(const Model& model) const;
  EffectiveSetting mlock_setting(const Model& model) const;

  bool no_repack_ = false;
  bool mmap_ = true;
  bool no_mmap_ = false;
  bool mlock_ = false;
};

}  // namespace tandem
