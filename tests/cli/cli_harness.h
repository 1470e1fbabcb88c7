// Runs the built program as a user's shell would, and keeps what it printed. Black box: shares no
// code with the program.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/temp_dir.h"

namespace tandem::test {

struct Invocation {
  std::string program{};              // default: the one that was built
  std::optional<std::string> in;      // standard input; without it /dev/null
  std::string in_path;                // standard input comes from here
  std::string out_path;               // standard output goes to this file instead of a pipe
  int interrupts = 0;                 // SIGINTs sent once the first output has come
  bool interrupt_when_quiet = false;  // a SIGINT after each half second without output
  std::string interrupt_at;           // one SIGINT once standard error has had this text
  bool ignores_interrupts = false;    // as the background job of a script
  bool close_output_early = false;    // the reader goes away after the first output
  bool errors_to_terminal = false;    // standard error is a terminal
  bool no_stdin = false;              // file descriptor 0 is closed
  bool may_lock_memory = true;        // false: not even as root
};

struct Outcome {
  int exit_code = -1;  // as a shell has it: 128 + signal for a killed process
  std::string out;
  std::string err;
  std::vector<std::string> pieces;  // of `out`, as they came; each ends where a write ended

  nlohmann::json json() const { return nlohmann::json::parse(out); }
};

// std::runtime_error when the program cannot start or does not end within two minutes.
Outcome tandem(const std::vector<std::string>& arguments, const Invocation& how = {});

// While it lives, programs start with the reference's arithmetic: activations are not rounded.
class ReferenceArithmetic {
 public:
  ReferenceArithmetic();
  ~ReferenceArithmetic();
  ReferenceArithmetic(const ReferenceArithmetic&) = delete;
  ReferenceArithmetic& operator=(const ReferenceArithmetic&) = delete;

 private:
  std::optional<std::string> before_;
};

// A started program, for those that run side by side.
class Process {
 public:
  Process(const std::vector<std::string>& arguments, const Invocation& how);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  Outcome wait();

 private:
  void feed(short events);
  bool take(int* fd, std::string* to, bool is_output);
  void on_first_output();

  Invocation how_;
  int pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
  size_t fed_ = 0;
  Outcome outcome_;
};

std::string source_file(std::string_view path);  // of the repository
std::string family_model(std::string_view name);
std::string read_file(const std::string& path);
void write_file(const std::string& path, std::string_view bytes);

bool contains(std::string_view text, std::string_view part);
size_t line_count(std::string_view text);
// Well-formed by RFC 3629, complete at the end.
bool is_utf8(std::string_view text);

}  // namespace tandem::test
