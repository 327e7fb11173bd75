#!/usr/bin/env bash
# Build envs/NAME/.venv from envs/NAME/requirements.lock, for each NAME given.
#
#     envs/setup.sh generator verifier
#     envs/setup.sh generator verifier --extra ray    # and what envs/NAME/ray.lock adds
#
# Nothing is done for an environment whose lock has not changed since it was built. An extra stays:
# later calls need not name it. Works from any folder. Interrupted, it starts that environment
# again; run twice at once, one waits.
# UV_TORCH_BACKEND=cpu (or cu118, cu124, ...) takes PyTorch from PyTorch's own index instead.
set -euo pipefail

envs=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
private_uv=$envs/.uv/bin/uv

say() { printf '%s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }

# Measured with an empty cache. The generator and the verifier share 1.1 GB of theirs.
download_size() {
  case $1 in
    generator) echo "about 3.3 GB" ;;
    verifier) echo "about 3.2 GB" ;;
    downloader) echo "about 220 MB" ;;
    training) echo "about 3.4 GB" ;;
    *) echo "an unmeasured amount" ;;
  esac
}

find_python() {
  local candidate
  for candidate in python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  if command -v uv >/dev/null; then
    uv python find --no-python-downloads 3.11 2>/dev/null && return
  fi
  die "Python 3.11 was not found (as python3.11, python3 or python)." \
    "Install it in one of these ways, then try again:" \
    "  apt install python3.11 python3.11-venv     (Debian 12)" \
    "  conda create -n curator python=3.11 && conda activate curator" \
    "  uv python install 3.11" \
    "or work in the container image python:3.11 (see docs/setup.md)."
}

# uv from the PATH, else one of our own in envs/.uv, got by pip.
find_uv() {
  if uv --version >/dev/null 2>&1; then
    command -v uv
    return
  fi
  exec 8>"$envs/.uv.lock"
  flock 8
  if ! "$private_uv" --version >/dev/null 2>&1; then
    say "setup: uv is not installed; getting one into $envs/.uv by pip" >&2
    "$1" -m venv --clear "$envs/.uv" >&2 || die \
      "$1 cannot make virtual environments (on Debian: apt install python3.11-venv)."
    "$envs/.uv/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2 || die \
      "pip could not install uv. Is the package registry reachable?"
  fi
  exec 8>&-
  echo "$private_uv"
}

# Install exactly what the locks name; with another PyTorch, that and what it needs for itself.
install_locks() {
  local folder=$1
  shift
  local -a target=(--python "$folder/.venv/bin/python")
  if [[ -z ${UV_TORCH_BACKEND:-} ]]; then
    "$uv" pip sync "${target[@]}" "$@"
  else
    cat "$@" | grep -vE '^(nvidia-|cuda-|triton==)' >"$folder/.venv/lock.txt"
    "$uv" pip install "${target[@]}" --override "$folder/overrides.txt" \
      --requirements "$folder/.venv/lock.txt"
  fi
}

# uv draws its progress on a terminal; in a log, its list of every package is left out.
report() {
  if [[ -t 2 ]]; then "$@"; else "$@" 2> >(grep -v '^ [-+~] ' >&2); fi
}

build() {
  local name=$1 folder=$envs/$1 built started=$SECONDS wanted added=$extra
  local stamp=$folder/.venv/built-from chosen=$folder/.venv/extra
  [[ -f $folder/requirements.lock ]] || die \
    "there is no environment '$name'; there are: $(cd "$envs" && echo */ | tr -d /)"

  exec 9>"$folder/.setup.lock"
  flock --nonblock 9 || { say "setup: $name: another set-up of it is running; waiting" && flock 9; }
  [[ -n $added ]] || added=$(cat "$chosen" 2>/dev/null || true)
  local -a locks=("$folder/requirements.lock" ${added:+"$folder/$added.lock"})
  [[ -f ${locks[-1]} ]] || die "the environment '$name' has no extra '$added'"
  # Read through stdin, so that the hash does not depend on where the clone lies.
  wanted="$(cat "${locks[@]}" | sha256sum | cut -d' ' -f1) ${UV_TORCH_BACKEND:-default}"
  built=$(cat "$stamp" 2>/dev/null || true)
  if [[ $built == "$wanted" ]] && "$folder/.venv/bin/python" -c '' 2>/dev/null; then
    say "setup: $name: up to date"
    return
  fi

  [[ "$(uname -s) $(uname -m)" == "Linux x86_64" ]] || die \
    "the locks are for Linux on x86-64, and this is $(uname -s) on $(uname -m)." \
    "Work in a container: docker run --platform linux/amd64 ... (see docs/setup.md)."
  python=$(find_python)
  uv=$(find_uv "$python")
  if [[ -n $built && -x $folder/.venv/bin/python && $built == *" ${UV_TORCH_BACKEND:-default}" ]]; then
    say "setup: $name: the lock has changed${added:+ (extra: $added)}; updating envs/$name/.venv"
    rm "$stamp"
  else
    say "setup: $name: building envs/$name/.venv," \
      "$(cat "${locks[@]}" | grep '==' | sort -u | wc -l) packages;" \
      "with nothing cached, $(download_size "$name") to download"
    rm -rf "$folder/.venv"
    "$uv" venv --quiet --python "$python" "$folder/.venv"
  fi
  # Before the install, so that one that is cut short is taken up with the extra.
  [[ -z $added ]] || echo "$added" >"$chosen"
  report install_locks "$folder" "${locks[@]}" || die \
    "$name could not be installed: see uv's message above." \
    "If a download failed, run it again: what has arrived is kept (UV_HTTP_TIMEOUT=300 helps on slow lines)."
  echo "$wanted" >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "setup: $name: built in $((SECONDS - started)) s"
  exec 9>&-
}

extra='' names=()
while (($#)); do
  case $1 in
    --extra) extra=${2:?which extra?} && shift ;;
    *) names+=("$1") ;;
  esac
  shift
done
((${#names[@]})) || die "say which: envs/setup.sh generator verifier"
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120}
for name in "${names[@]}"; do build "$name"; done
