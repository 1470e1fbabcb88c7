// What a test expects to fail, as the message it fails with.
#pragma once

#include <string>

#include "runtime/error.h"

namespace tandem::test {

// The message of the FileError that `action` throws; "no error" when it throws none. Anything
// else that it throws passes through and fails the test.
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace tandem::test
