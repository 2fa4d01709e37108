#!/usr/bin/env bash
# Installs what building Harrow needs on Debian 12. Does nothing when all is there. Root or sudo.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git python3 python3-numpy
  nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libfmt-dev
  libopenblas-dev liblapacke-dev libsentencepiece-dev libpcre2-dev libxxhash-dev libutf8proc-dev
  libsqlite3-dev
  libgtest-dev libbenchmark-dev libdnnl-dev clang-format
)
# clang and its sanitizer runtime are only for the fuzz targets.
[ "${1:-}" = "--fuzz" ] && packages+=(clang libclang-rt-14-dev)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
