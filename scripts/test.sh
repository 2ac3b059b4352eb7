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
# What functions run on is built once for a checkout, outside of any test's time limit.
.venv/bin/python -m services.engines.wasm.toolchain --cache-dir .build/wasm >/dev/null ||
  echo "test: the Python runtime of functions cannot be built; the tests on it will fail" >&2
# Two at a time, each with engines of its own; the tests of one file stay together.
exec .venv/bin/python -m pytest -n "${JOBS:-2}" --dist loadfile "$@"
