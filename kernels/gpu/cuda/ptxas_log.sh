#!/bin/sh
# Runs a compile command of nvcc, keeps what ptxas says of each kernel beside the object
# (OBJECT.ptxas, for tests/gpu/check_budgets.sh), and prints the rest.
object=
previous=
for word in "$@"; do
  [ "$previous" = -o ] && object=$word
  previous=$word
done
[ -n "$object" ] || exec "$@"
"$@" 2> "$object.ptxas"
code=$?
grep -v -e '^ptxas info ' -e '^ *[0-9]* bytes stack frame' -e '^ *$' "$object.ptxas" >&2
exit $code
