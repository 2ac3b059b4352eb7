"""The WebAssembly machine that compiles and runs guests: one configuration, which compiled code is bound to."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import wasmtime

STACK_BYTES = 3 << 19
"""Of a guest's native stack; wasmtime gives it 2 MiB in all. Python's recursion limit is reached before it is full."""

_CONFIG = f"stack={STACK_BYTES},threads=no,memory64=no,opt=speed"


def make_engine() -> wasmtime.Engine:
    """An engine; what one compiles, another of the same `compiled_key` can load."""
    config = wasmtime.Config()
    config.wasm_component_model = True
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.cranelift_opt_level = "speed"
    config.max_wasm_stack = STACK_BYTES
    return wasmtime.Engine(config)


def compiled_key() -> str:
    """Names all that compiled code depends on: another wasmtime, configuration or processor has another."""
    parts = (version("wasmtime"), platform.machine(), _processor(), _CONFIG)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's features: compiled code uses what the machine that compiled it had."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
