// One line on stderr that is written over; nothing at all when stderr is not a terminal.
#pragma once

#include <cstdint>
#include <string>

namespace tandem {

class Progress {
 public:
  Progress();
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(const std::string& what);
  void show_count(const std::string& what, int64_t done, int64_t total);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
};

}  // namespace tandem
