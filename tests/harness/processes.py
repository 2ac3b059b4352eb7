"""Places and waits that tests of served services share: a directory with short paths, and a server that is ready."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for socket names, deleted afterwards."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


async def until_serving(channel: grpc.aio.Channel, name: str = "readiness", *, seconds: float = 10.0) -> None:
    """Return when the health service says that `name` is SERVING; raises TimeoutError."""
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type has no methods
    request = health_pb2.HealthCheckRequest(service=name)
    async with asyncio.timeout(seconds):
        while (await stub.Check(request, wait_for_ready=True, timeout=seconds)).status != _SERVING:
            await asyncio.sleep(0.01)
