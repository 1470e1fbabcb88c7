#!/bin/sh
# Installs the packages that building Tandem needs, where they are missing (Debian, Ubuntu).
# Without root it tries sudo; failing that, it says in one line what is missing.
# "./deps.sh ci" adds what the checks of .ci/run need.
set -eu

packages='cmake g++ make git pkg-config libcli11-dev libfmt-dev libhwloc-dev
libpcre2-dev libtomlplusplus-dev libeigen3-dev nlohmann-json3-dev catch2'
if [ "${1:-}" = ci ]; then
  packages="$packages clang clang-format clang-tidy libclang-rt-dev libdnnl-dev python3"
fi

missing=
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  as_root=sudo
elif command -v sudo >/dev/null 2>&1 && [ -t 0 ]; then
  as_root=sudo
else
  echo "tandem: missing packages, to be installed as root: apt-get install$missing" >&2
  exit 1
fi
echo "installing:$missing"
log=$(mktemp)
if ! { $as_root apt-get update && \
       $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; \
     } >"$log" 2>&1; then
  cat "$log" >&2
  rm -f "$log"
  echo "tandem: could not install:$missing" >&2
  exit 1
fi
rm -f "$log"
