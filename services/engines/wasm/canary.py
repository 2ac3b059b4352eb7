"""Whether a function can run here at all: a tiny guest, compiled and called in a worker process like any other."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path

from services.engines.engine import Health, HealthState
from services.engines.wasm.process import Problem, WorkerLost, WorkerProcess
from services.engines.wasm.runtimes import Runtimes
from services.errors import BeemeshError

WASM = bytes.fromhex("0061736d0100000001040160000003020100070a01065f737461727400000a040102000b")
"""(module (func (export "_start")))"""

_MEMORY_BYTES = 1 << 20
_ANSWER_BYTES = 1 << 10
_SECONDS = 20.0


async def try_out(runtimes: Runtimes) -> Health:
    """HEALTHY when it ran; else why it did not."""
    try:
        async with asyncio.timeout(_SECONDS):
            await _run(runtimes)
    except (WorkerLost, Problem, BeemeshError, TimeoutError, OSError, ImportError) as error:
        return Health(
            state=HealthState.UNHEALTHY,
            reason="CANARY_FAILED",
            message=f"a trial function did not run: {error or type(error).__name__}; "
            "is the distribution installed with its extra [wasm]?",
        )
    return Health(state=HealthState.HEALTHY)


async def _run(runtimes: Runtimes) -> None:
    with tempfile.NamedTemporaryFile(prefix="beemesh-canary-") as source:
        source.write(WASM)
        source.flush()
        artifact = await runtimes.user(Path(source.name), hashlib.sha256(WASM).hexdigest(), lambda _: None)
    order = {
        "kind": "module",
        "artifact": str(artifact.absolute()),
        "app": "",
        "handler": "_start",
        "name": "canary",
        "env": {},
        "memory_bytes": _MEMORY_BYTES,
        "result_max": _ANSWER_BYTES,
    }
    worker = await WorkerProcess.spawn()
    try:
        await worker.ask({"do": "load", "order": order}, b"", lambda _: None)
        await worker.ask({"do": "invoke", "call": {"id": "canary", "deadline": 0.0}}, b"null", lambda _: None)
    finally:
        await worker.end()
