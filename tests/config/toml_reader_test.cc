#include "runtime/config/toml_reader.h"

#include <string>
#include <vector>

#include "runtime/error.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

template <typename Read>
std::string complaint(Read read) {
  try {
    read();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("a key that is absent has no value and is no error") {
  TomlReader toml("a = 1", "f");
  CHECK_FALSE(toml.number("b", 0, 1));
  CHECK_FALSE(toml.integer("b", 0, 1));
  CHECK_FALSE(toml.text("b"));
  CHECK_FALSE(toml.flag("b"));
  CHECK_FALSE(toml.scalar("a.b"));
}

TEST_CASE("values of each type are read") {
  TomlReader toml("n = 1.5\ni = -3\nt = 'x'\nf = true\n[deep.er]\nkey = 7", "f");
  CHECK(toml.number("n", 0, 2) == 1.5);
  CHECK(toml.number("i", -5, 5) == -3.0);
  CHECK(toml.integer("i", -5, 5) == -3);
  CHECK(toml.text("t") == "x");
  CHECK(toml.flag("f") == true);
  CHECK(toml.integer("deep.er.key", 0, 9) == 7);
  CHECK_NOTHROW(toml.done());
}

TEST_CASE("the limits of a number are allowed values") {
  TomlReader toml("a = 1\nb = 2", "f");
  CHECK(toml.number("a", 1, 2) == 1.0);
  CHECK(toml.number("b", 1, 2) == 2.0);
  CHECK(toml.integer("a", 1, 2) == 1);
  CHECK(toml.integer("b", 1, 2) == 2);
}

TEST_CASE("an integer too large to be exact as a number is read or refused, never undefined") {
  TomlReader toml("a = 9007199254740993", "f");
  const std::string said = complaint([&] { CHECK(toml.number("a", 0, 1e18) > 9e15); });
  CHECK((said.empty() || said.rfind("f: a ", 0) == 0));
}

TEST_CASE("a scalar is given as text, whatever its type") {
  TomlReader toml("a = 'lru'\nb = 3\nc = 0.5\nd = false", "f");
  CHECK(toml.scalar("a") == "lru");
  CHECK(toml.scalar("b") == "3");
  CHECK(toml.scalar("c") == "0.5");
  CHECK(toml.scalar("d") == "false");
}

TEST_CASE("a list is not a scalar") {
  TomlReader toml("a = [1]", "f");
  CHECK(complaint([&] { toml.scalar("a"); }).rfind("f: a ", 0) == 0);
}

TEST_CASE("a list of numbers is read in order, whole ones among them") {
  TomlReader toml("a = [1.5, 2, 0.25]\nb = []", "f");
  CHECK(toml.numbers("a", 0, 2) == std::vector<double>{1.5, 2, 0.25});
  CHECK(toml.numbers("b", 0, 2) == std::vector<double>{});
  CHECK_FALSE(toml.numbers("c", 0, 2));
  CHECK_NOTHROW(toml.done());
}

TEST_CASE("an element of a list that is refused is named with its place") {
  TomlReader toml("a = [1, 7, 2]\nb = [1, 'x']\nc = 3", "f");
  CHECK(complaint([&] { toml.numbers("a", 0, 2); }) == "f: a[1] is 7; expected 0 to 2");
  CHECK(complaint([&] { toml.numbers("b", 0, 2); }) == "f: b[1] is not a number");
  CHECK(complaint([&] { toml.numbers("c", 0, 9); }) == "f: c is not a list of numbers");
}

TEST_CASE("a needed number that is absent is missing") {
  TomlReader toml("a = 1", "f");
  CHECK(toml.need_integer("a", 0, 1) == 1);
  CHECK(complaint([&] { toml.need_integer("b", 0, 1); }) == "f: b is missing");
  CHECK(complaint([&] { toml.need_number("b", 0, 1); }) == "f: b is missing");
}

TEST_CASE("a value outside the limits is quoted with them") {
  TomlReader toml("a.b = 12", "f.toml");
  CHECK(complaint([&] { toml.integer("a.b", 1, 9); }) == "f.toml: a.b is 12; expected 1 to 9");
}

TEST_CASE("a key that was asked for under another type counts as known") {
  TomlReader toml("a = 1", "f");
  CHECK_FALSE(complaint([&] { toml.text("a"); }).empty());
  CHECK_NOTHROW(toml.done());
}

TEST_CASE("the first key in the alphabet that nobody asked for is named") {
  TomlReader toml("z = 1\n[t]\nb = 2\nknown = 3", "f");
  toml.integer("t.known", 0, 9);
  CHECK(complaint([&] { toml.done(); }) == "f: t.b is not a known setting");
}

TEST_CASE("an unknown table is an error even when it is empty") {
  const TomlReader toml("[typo]\n", "f");
  CHECK(complaint([&] { toml.done(); }) == "f: typo is not a known setting");
}

}  // namespace
}  // namespace tandem::test
