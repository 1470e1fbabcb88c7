// Whole files, standard input and output as text, with errors of one line.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// Reads a whole file, or standard input for "-". FileError when it cannot be read.
std::string read_text(const std::string& path);

// Writes all of it or nothing: a temporary file beside it, then a rename. A pipe or a device is
// written as it is. FileError when it cannot be written.
void write_file(const std::string& path, std::string_view bytes);
// FileError when write_file would fail for want of a folder: call before a long computation.
void check_writable(const std::string& path);

// Writes to standard output at once. Error when it cannot take it (a full disk).
void print_out(std::string_view text);
// Before an error's line: where text was being written, that begins a line of its own.
void end_out_line() noexcept;

// Whether it begins with one of U+0080 to U+009F, two bytes that a terminal may obey like ESC.
bool is_c1(std::string_view text);

// Control characters become "?": text out of a file can neither break a line nor steer a terminal.
std::string printable(std::string_view text);

}  // namespace tandem
