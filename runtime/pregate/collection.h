// A folder of tap files, one a prompt, and collection.json, which says of what.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/pregate/tap_file.h"

namespace tandem {

struct CollectionInfo {
  std::string model;        // a name for people
  std::string router_hash;  // router_hash()
  TapShape shape;
  int64_t n_prompts = 0;
  std::string made_with;  // prompts' hash and what else decides what is written: to resume
};

class Collection {
 public:
  // Makes the folder, or goes on with one that was begun with the same info. ConfigError when it
  // was begun with another; FileError when it cannot be made or is no such folder.
  static Collection begin(const std::filesystem::path& folder, const CollectionInfo& info);
  // FileError when it is not there, damaged, or of another kind.
  static Collection open(const std::filesystem::path& folder);

  const CollectionInfo& info() const { return info_; }
  // The file of a prompt, whether it is there or not.
  std::filesystem::path file(int64_t prompt) const;
  bool has(int64_t prompt) const;
  // Of the prompts that are there.
  std::vector<int64_t> prompts() const;
  int64_t bytes() const;

 private:
  Collection(std::filesystem::path folder, CollectionInfo info);

  std::filesystem::path folder_;
  CollectionInfo info_;
};

}  // namespace tandem
