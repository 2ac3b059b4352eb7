#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu lacks: `setup.sh python | engines | tools | base`. Without root it uses what is there
# and says what it left out. Every part is quick when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .build
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # not every user has them
exec 9>.build/setup.lock
flock 9 # two makes at once wait for each other

say() { echo "setup: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
can_install() { [ "$(id -u)" = 0 ] && have apt-get; }

# Runs a command and shows what it printed only if it fails.
quietly() {
  "$@" >.build/setup.log 2>&1 </dev/null || { cat .build/setup.log >&2; return 1; }
}

# Installs those of the packages that this release has; the rest is said.
install_packages() {
  local wanted=() missing=() name
  export DEBIAN_FRONTEND=noninteractive
  compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || quietly apt-get update
  for name in "$@"; do
    if apt-cache show "$name" >/dev/null 2>&1; then wanted+=("$name"); else missing+=("$name"); fi
  done
  [ ${#missing[@]} = 0 ] || say "this release has no ${missing[*]}"
  [ ${#wanted[@]} = 0 ] && return
  say "installing ${wanted[*]}"
  local install=(apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${wanted[@]}")
  quietly "${install[@]}" 2>/dev/null || { quietly apt-get update && quietly "${install[@]}"; }
}

# A Python of at least 3.11 that can make virtual environments.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if have "$name" && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

setup_python() {
  local python
  if [ ! -x .venv/bin/python ]; then
    if ! python=$(find_python); then
      can_install || { say "needs Python 3.11 or newer with venv: apt-get install python3 python3-venv"; exit 1; }
      install_packages python3 python3-venv
      python=$(find_python) || install_packages python3.12 python3.12-venv python3.11 python3.11-venv
      python=$(find_python) || { say "this release has no Python 3.11 or newer"; exit 1; }
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  say "installing the locked dependencies"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

first_of() {
  local path
  for path in "$@"; do [ ! -e "$path" ] || return 0; done
  return 1
}

setup_engines() {
  local lacking=()
  have podman || lacking+=(podman)
  have iptables || lacking+=(iptables)
  have crun || have runc || lacking+=(crun runc)
  have newuidmap || lacking+=(uidmap) # this and the next: podman without root's rights
  have slirp4netns || lacking+=(slirp4netns)
  have catatonit || first_of /usr/{,local/}lib{,exec}/podman/catatonit || lacking+=(catatonit)
  if have podman && [ -e /etc/cni/net.d/87-podman-bridge.conflist ] && ! first_of /usr/lib/podman/netavark; then
    : # an older podman, with CNI networks
  else
    first_of /usr/{,local/}lib{,exec}/podman/netavark || lacking+=(netavark)
    first_of /usr/{,local/}lib{,exec}/podman/aardvark-dns || lacking+=(aardvark-dns)
  fi
  have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1 || lacking+=(busybox-static)
  install_or_say "${lacking[@]}"
  have dockerd || without_starting install_or_say docker.io
}

install_or_say() {
  [ $# = 0 ] && return
  if can_install; then install_packages "$@"; else say "left out, not being root: apt-get install $*"; fi
}

# Runs a command so that packages it installs start no service: the tests have a docker of their own, and a daemon of
# the system's would rewrite this machine's firewall.
without_starting() {
  local policy=/usr/sbin/policy-rc.d code=0
  if ! can_install || [ -e "$policy" ]; then "$@"; return; fi
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
  "$@" || code=$?
  rm -f "$policy"
  trap - EXIT
  return "$code"
}

# Unpacks Debian's registry for the tests of pulls; installed, it would start and be open to everybody.
fetch_registry() {
  have apt-get && have dpkg || { say "left out: docker-registry"; return; }
  mkdir -p .build/bin .build/registry
  say "fetching docker-registry"
  if (cd .build/registry && rm -f ./*.deb && apt-get download -q docker-registry >/dev/null 2>&1 && dpkg -x ./*.deb .); then
    ln -sf ../registry/usr/bin/docker-registry .build/bin/docker-registry
  else
    say "left out: docker-registry (this release has none, or cannot be reached)"
  fi
}

# What the tests' clients in Node.js need, as locked.
install_clients() {
  local clients=tests/clients/node
  [ "$clients/node_modules/.package-lock.json" -nt "$clients/package-lock.json" ] && return
  have node && have npm || { say "left out: the clients in Node.js (node or npm is not here)"; return; }
  say "installing what the clients in Node.js need"
  quietly npm ci --prefix "$clients" --ignore-scripts --no-audit --no-fund || say "left out: the clients in Node.js"
}

# What builds the runtime of functions in JavaScript.
install_jco() {
  local version=1.35.0 place=.build/javascript
  grep -qs "\"version\": \"$version\"" "$place/node_modules/@bytecodealliance/jco/package.json" && return
  have node && have npm || { say "left out: jco (node or npm is not here)"; return; }
  say "installing jco"
  mkdir -p "$place"
  quietly npm install --prefix "$place" --no-save --no-package-lock --ignore-scripts --no-audit --no-fund \
    "@bytecodealliance/jco@$version" || say "left out: jco"
}

setup_tools() {
  local lacking=() go
  have jq || lacking+=(jq)
  if [ ${#lacking[@]} != 0 ]; then
    if can_install; then install_packages "${lacking[@]}"; else say "left out: ${lacking[*]}"; fi
  fi
  have docker-registry || [ -x .build/bin/docker-registry ] || fetch_registry
  install_clients
  install_jco
  have grpcurl || [ -x .build/bin/grpcurl ] && return
  go=$(command -v go || { [ -x /usr/local/go/bin/go ] && echo /usr/local/go/bin/go; } || true)
  if [ -z "$go" ]; then
    [ -e .build/no-grpcurl ] || say "left out: grpcurl (it comes by Go, which is not here)"
    touch .build/no-grpcurl
  elif found=$("$go" env GOPATH)/bin/grpcurl && [ -x "$found" ]; then
    mkdir -p .build/bin && ln -sf "$found" .build/bin/grpcurl
  else
    say "installing grpcurl"
    GOBIN=$PWD/.build/bin "$go" install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 >&2 || say "left out: grpcurl"
  fi
}

# What makes a base image where images come from no registry.
setup_base() {
  have debootstrap && return
  can_install || { say "needs debootstrap: apt-get install debootstrap"; exit 1; }
  install_packages debootstrap
}

case ${1:-} in
  python) setup_python ;;
  engines) setup_engines ;;
  tools) setup_tools ;;
  base) setup_base ;;
  *) say "usage: setup.sh python | engines | tools | base" && exit 2 ;;
esac
