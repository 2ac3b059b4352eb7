"""Follows a workload's logs over restarts of its engine, from the last line that came: the client's call goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from beemesh.engine.v1 import engine_service_pb2 as engine_pb

from services.errors import Unavailable
from services.telemetry import Log

PATIENCE = 60.0
"""Seconds without the engine before the client is told."""

_PAUSE_SECONDS = 0.3
_STEADY_SECONDS = 1.0
"""A call that ends sooner, and brought nothing, was refused."""

Request = engine_pb.StreamWorkloadLogsRequest
Response = engine_pb.StreamWorkloadLogsResponse
Ask = Callable[[Request], AsyncGenerator[Response, None]]

log = Log(__name__)


async def followed(
    ask: Ask,
    request: Request,
    *,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[Response, None]:
    """What `ask` answers to `request`; where that follows, it is asked again when the engine falls silent.

    Raises what `ask` raises; Unavailable only when the engine was away for `PATIENCE` seconds, or at the very first.
    """
    began = opened = clock()
    asked, lost = request, None
    while True:
        try:
            async with contextlib.aclosing(ask(asked)) as messages:
                async for message in messages:
                    lost = None
                    yield message
                    asked = _behind(message, asked, request, began)
            return
        except Unavailable as error:
            now = clock()
            refused = asked is request and now - began < _STEADY_SECONDS
            if lost is None or now - opened > PATIENCE:
                lost = now
            if not request.follow or refused or now - lost > PATIENCE:
                raise
            log.info("logs_wait_for_the_engine", workload_id=request.workload_id, why=error)
        if asked is request and _begins_at_the_end(request):
            asked = _without_tail(request, request, began)
        await pause(_PAUSE_SECONDS)
        opened = clock()


def _behind(message: Response, asked: Request, request: Request, began: float) -> Request:
    """What to ask for next, had the call ended after this message."""
    cursor = message.entries[-1].cursor if message.entries else ""
    if not cursor:
        return asked
    following = _without_tail(asked, request, began)
    following.resume_cursor = cursor
    return following


def _without_tail(asked: Request, request: Request, began: float) -> Request:
    """Components that have not written anything yet go on with their first line since the client asked."""
    following = Request()
    following.CopyFrom(asked)
    following.ClearField("tail_lines")
    if _begins_at_the_end(request):
        following.since_time.FromMicroseconds(round(began * 1e6))
    return following


def _begins_at_the_end(request: Request) -> bool:
    return request.HasField("tail_lines") and not request.tail_lines
