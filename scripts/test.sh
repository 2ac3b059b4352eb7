#!/usr/bin/env bash
# Runs the tests. Where podman and docker must be there (root, CI) the tests on them fail rather than skip; so do those on
# a podman that any other user has.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${BEEMESH_REQUIRE_ENGINES+set}" ]; then
  if [ "$(id -u)" = 0 ] || [ -n "${CI:-}" ]; then
    export BEEMESH_REQUIRE_ENGINES=podman,docker
  elif podman info >/dev/null 2>&1; then
    export BEEMESH_REQUIRE_ENGINES=podman
  else
    echo "test: no podman here; the tests on it are left out" >&2
  fi
fi
exec .venv/bin/python -m pytest "$@"
