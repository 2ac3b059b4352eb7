"""Calls with a stream of requests that end before all of it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.errors import NotFound
from services.rpc.sending import heard_out
from tests.contract.test_rpc import ENGINE, at, calling, serving

EXEC = f"/{ENGINE}/ExecWorkload"
CALLS = 40


async def refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Read the first request, and end the call while the next ones are on their way."""
    await anext(requests)
    raise NotFound("no such workload", reason="WORKLOAD_NOT_FOUND")
    yield b""


async def many() -> AsyncIterator[bytes]:
    """More than the server will read, with time for its end to arrive between any two."""
    for number in range(200):
        yield b"x" * 200
        if number % 3:
            await asyncio.sleep(0)


@pytest.mark.parametrize("style", ["iterator", "write"])
async def test_who_is_refused_while_sending_hears_why(tmp_path: Path, style: str) -> None:
    """The server's status arrives whenever it ends the call, not an error of the send that failed for it."""
    heard = set()
    async with serving(at(tmp_path), methods={EXEC: grpc.stream_stream_rpc_method_handler(refuse)}):
        channel = calling(at(tmp_path))
        for _ in range(CALLS):
            method = channel.stream_stream(EXEC)
            call = heard_out(method(many() if style == "iterator" else None, timeout=10))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (drain(call) if style == "iterator" else send(call))
            heard.add(caught.value.code())
            assert await call.code() is grpc.StatusCode.NOT_FOUND
        await channel.close()
    assert heard == {grpc.StatusCode.NOT_FOUND}


async def drain(call: Any) -> None:
    """Read to the end."""
    async for _ in call:
        pass


async def send(call: Any) -> None:
    """Write one by one, then read to the end."""
    async for data in many():
        if call.done():
            break
        await call.write(data)
    await call.read()
