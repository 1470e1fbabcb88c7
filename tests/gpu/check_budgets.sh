#!/bin/sh
# check_budgets.sh LOGS BUDGETS: what ptxas says of the kernels (LOGS/*.ptxas) against the most
# registers and bytes of shared memory that BUDGETS allows each, over all types of weights and
# architectures. Every kernel has a line there, and every line a kernel; nothing spills, and no
# architecture is missing.
set -eu
logs=$1
budgets=$2
ls "$logs"/*.ptxas > /dev/null
cat "$logs"/*.ptxas | c++filt | awk -F, -v budgets="$budgets" '
  BEGIN {
    while ((getline line < budgets) > 0) {
      if (line ~ /^(#|kernel,)/ || line == "") continue
      split(line, field, ",")
      registers[field[1]] = field[2]
      shared[field[1]] = field[3]
    }
  }
  /Compiling entry function/ {
    name = "?"
    if (match($0, /[a-z0-9_]+_kernel|pack_x_[a-z0-9]+/)) name = substr($0, RSTART, RLENGTH)
    architecture = $0
    sub(/.* for ./, "", architecture)
    sub(/[^a-z0-9_].*/, "", architecture)
    compiled[architecture] = 1
  }
  /bytes stack frame/ {
    if ($0 !~ /^ *0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/) {
      printf "%s for %s: %s\n", name, architecture, $0
      bad = 1
    }
  }
  /Used [0-9]+ registers/ {
    used = $0; sub(/.*Used /, "", used); sub(/ .*/, "", used)
    bytes = 0
    if ($0 ~ /bytes smem/) { bytes = $0; sub(/ bytes smem.*/, "", bytes); sub(/.* /, "", bytes) }
    if (used + 0 > most[name] + 0) most[name] = used
    if (bytes + 0 > most_shared[name] + 0) most_shared[name] = bytes
    seen[name] = 1
  }
  END {
    for (name in seen) {
      printf "%s,%d,%d\n", name, most[name], most_shared[name]
      if (!(name in registers)) { print name ": no budget"; bad = 1; continue }
      if (most[name] + 0 > registers[name] + 0) {
        printf "%s: expected at most %d registers, got %d\n", name, registers[name], most[name]
        bad = 1
      }
      if (most_shared[name] + 0 > shared[name] + 0) {
        printf "%s: expected at most %d bytes of shared memory, got %d\n", name, shared[name], most_shared[name]
        bad = 1
      }
    }
    split("sm_80 sm_86 sm_89 sm_90 sm_120", wanted, " ")
    for (i in wanted) if (!(wanted[i] in compiled)) { print wanted[i] ": not compiled"; bad = 1 }
    for (name in registers) if (!(name in seen)) { print name ": a budget without a kernel"; bad = 1 }
    exit bad
  }'
