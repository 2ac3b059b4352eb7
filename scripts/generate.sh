#!/usr/bin/env bash
# Writes DIR/beemesh (default gen/beemesh) from protos/: messages and their types for every file, service stubs for
# *_service.proto only. Whatever was there before goes, so that a deleted .proto leaves nothing behind.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${1:-$root/gen}")
export PATH="$root/.venv/bin:$PATH"

mkdir -p "$out"
new=$(mktemp -d "$out/.new-XXXXXX") # beside its target, so that the last step is a rename
trap 'rm -rf "$new"' EXIT
cd "$root/protos"
mapfile -t all < <(find beemesh -name '*.proto' | sort)
mapfile -t services < <(find beemesh -name '*_service.proto' | sort)
python -m grpc_tools.protoc -I . --python_out="$new" --mypy_out="quiet:$new" "${all[@]}"
python -m grpc_tools.protoc -I . --grpc_python_out="$new" --mypy_grpc_out="quiet,only_async:$new" "${services[@]}"
find "$new/beemesh" -type d -exec touch {}/__init__.py \;
rm -rf "$out/beemesh"
mv "$new/beemesh" "$out/beemesh"
