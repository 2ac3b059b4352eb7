"""Calls an async export of a guest by wasmtime's C interface: the Python one does not wrap it."""

from __future__ import annotations

import ctypes

from wasmtime import Config, Store, WasmtimeError, _bindings
from wasmtime.component import Func


def allow(config: Config) -> None:
    """Components made with this configuration may have async exports."""
    _bindings.wasmtime_config_wasm_component_model_async_set(config.ptr(), True)


def run(function: Func, store: Store) -> None:
    """Call it, without arguments or a result, to its end; raises WasmtimeError."""
    error = ctypes.POINTER(_bindings.wasmtime_error)()
    future = _bindings.wasmtime_component_func_call_async(
        ctypes.byref(function._func), store._context(), None, 0, None, 0, ctypes.byref(error)
    )
    try:
        while not _bindings.wasmtime_call_future_poll(future):
            continue  # the guest waits for nothing of the host's: it is there at once
    finally:
        _bindings.wasmtime_call_future_delete(future)
    if error:
        raise WasmtimeError._from_ptr(error)
