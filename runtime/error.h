// Errors of the outside world: files, configuration, memory, devices. Thrown where they are
// found, caught once (in the command line), and turned into one line: what, where, expected, got.
// A caller's bug is not an Error: see TANDEM_CHECK.
#pragma once

#include <stdexcept>
#include <string>

namespace tandem {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file that cannot be read or does not hold what it should. `where` begins with its path.
class FileError : public Error {
 public:
  FileError(const std::string& where, const std::string& what) : Error(where + ": " + what) {}
};

// A flag, a setting or a combination of them that cannot be honoured.
class ConfigError : public Error {
 public:
  using Error::Error;
};

// Memory that a plan needs and the machine or the device does not have.
class MemoryError : public Error {
 public:
  using Error::Error;
};

// Of the host.
class HostMemoryError : public MemoryError {
 public:
  using MemoryError::MemoryError;
};

// A device that failed: a copy, a kernel, the whole of it. What it was computing is lost.
class DeviceError : public Error {
 public:
  using Error::Error;
};

}  // namespace tandem
