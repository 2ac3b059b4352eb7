#!/usr/bin/env bash
# Runs the tests. Where podman must be there (root, CI) or is, the tests on it fail rather than skip.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${BEEMESH_REQUIRE_ENGINES+set}" ]; then
  if [ "$(id -u)" = 0 ] || [ -n "${CI:-}" ] || podman info >/dev/null 2>&1; then
    export BEEMESH_REQUIRE_ENGINES=podman
  else
    echo "test: no podman here; the tests on it are left out" >&2
  fi
fi
exec .venv/bin/python -m pytest "$@"
