"""The WebAssembly machine that compiles and runs guests: one configuration, which compiled code is bound to."""

from __future__ import annotations

import wasmtime

from services.engines.wasm import promises
from services.engines.wasm.configuration import OPTIMIZE, STACK_BYTES


def make_engine(*, has_promises: bool = False) -> wasmtime.Engine:
    """An engine; what one compiles, another of its kind with the same `keys.compiled_key` can load."""
    config = wasmtime.Config()
    config.wasm_component_model = True
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.cranelift_opt_level = OPTIMIZE
    config.max_wasm_stack = STACK_BYTES
    if has_promises:
        promises.allow(config)
    return wasmtime.Engine(config)
