#!/usr/bin/env bash
# Chromium for the tests of the listening page: Debian's, unless one is installed already.
#
#     envs/chromium.sh          install it if need be; without root, say what to install
#     envs/chromium.sh --find   install nothing
#
# Prints the program's path.
set -euo pipefail

names=(chromium-headless-shell chromium chromium-browser google-chrome)
find_chromium() { command -v "${names[@]}" | head -n 1; }

find_chromium && exit
if [[ ${1:-} == --find ]] || ((EUID)) || ! command -v apt-get >/dev/null; then
  echo "chromium: the tests of the listening page need a Chromium and fail without one." >&2
  echo "  Install it as root, on Debian: apt install chromium-headless-shell (or chromium)" >&2
  exit 1
fi
echo "chromium: installing Debian's chromium-headless-shell (100 MB to download)" >&2
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=300 -qq)
"${apt[@]}" update >&2
"${apt[@]}" install -y --no-install-recommends chromium-headless-shell >&2
find_chromium
