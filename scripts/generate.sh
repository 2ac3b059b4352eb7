#!/usr/bin/env bash
# Writes gen/ from protos/: messages and their types for every file, service stubs for *_service.proto only.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gen}
bin=$PWD/.venv/bin
mkdir -p "$out"
find "$out" \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \) -delete
cd protos
export PATH="$bin:$PATH"
target=$(cd .. && realpath "$out")
find beemesh -name '*.proto' -print0 | sort -z |
  xargs -0 python -m grpc_tools.protoc -I . --python_out="$target" --mypy_out="quiet:$target"
find beemesh -name '*_service.proto' -print0 | sort -z |
  xargs -0 python -m grpc_tools.protoc -I . --grpc_python_out="$target" --mypy_grpc_out="quiet,only_async:$target"
find "$target/beemesh" -type d -exec touch {}/__init__.py \;
