"""ExecWorkload's two streams: what the caller sends goes into the command, what the command writes goes to the caller.

Nothing is queued on the way: the caller is read as fast as the command reads, and the command as fast as the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from beemesh.engine.v1 import engine_service_pb2 as pb

from services.engines import convert
from services.engines.background import background
from services.engines.engine import ExecOrder, ExecOutput, ExecSession, ExitStatus, LogSource
from services.engines.inside import Inside
from services.engines.streams import closed_after
from services.errors import FieldViolation, InvalidArgument

_PIECE_BYTES = 64 << 10
"""Of stdin, written at a time."""
_SIDE_MAX = 10_000
"""Rows and columns."""


async def converse(
    inside: Inside, requests: AsyncIterator[pb.ExecWorkloadRequest]
) -> AsyncIterator[pb.ExecWorkloadResponse]:
    """The answers to a caller's requests, the first of which is `start`; raises as `Inside.exec`."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("input") != "start":
        raise _bad("start", "must be the first message, with what to run", reason="EXEC_START_REQUIRED")
    start = first.start
    workload_id = convert.require(start.workload_id, "start.workload_id")
    order = ExecOrder(component_id=start.component_id, command=_command(start), tty=start.tty)
    async with inside.exec(workload_id, order) as session, background() as begin:
        feeding = begin(_feed(session, requests, tty=order.tty))
        async with closed_after(session.output()) as output:
            async for piece in _unless_failed(output, feeding):
                yield _answer(piece)


async def _unless_failed(
    output: AsyncIterator[ExecOutput | ExitStatus], feeding: asyncio.Task[None]
) -> AsyncIterator[ExecOutput | ExitStatus]:
    """The output to its end; a mistake in the caller's messages ends it with its error."""
    while True:
        reading = asyncio.ensure_future(anext(output, None))
        try:
            waited = {reading} if feeding.done() else {reading, feeding}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and (error := feeding.exception()):
                raise error
            piece = await reading
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        if piece is None:
            return
        yield piece


async def _feed(session: ExecSession, requests: AsyncIterator[pb.ExecWorkloadRequest], *, tty: bool) -> None:
    """All that the caller sends; its half-close ends stdin."""
    async for request in requests:
        match request.WhichOneof("input"):
            case "stdin":
                for begin in range(0, len(request.stdin), _PIECE_BYTES):
                    await session.write(request.stdin[begin : begin + _PIECE_BYTES])
            case "close_stdin":
                if request.close_stdin:
                    await session.close_stdin()
            case "resize":
                await _resize(session, request.resize, tty=tty)
            case "start":
                raise _bad("start", "may only be the first message", reason="EXEC_START_REQUIRED")
    await session.close_stdin()


async def _resize(session: ExecSession, size: pb.TerminalSize, *, tty: bool) -> None:
    if not tty:
        raise _bad("resize", "needs a command that was started with tty", reason="BAD_FIELD")
    if not (0 < size.rows <= _SIDE_MAX and 0 < size.columns <= _SIDE_MAX):
        raise _bad("resize", f"must have rows and columns between 1 and {_SIDE_MAX}", reason="BAD_FIELD")
    await session.resize(size.rows, size.columns)


def _command(start: pb.ExecStart) -> tuple[str, ...]:
    command = tuple(start.command)
    if not command or not command[0]:
        raise _bad("start.command", "is required: a program and its arguments", reason="BAD_FIELD")
    if any("\0" in word for word in command):
        raise _bad("start.command", "has a NUL", reason="BAD_FIELD")
    return command


def _answer(piece: ExecOutput | ExitStatus) -> pb.ExecWorkloadResponse:
    if isinstance(piece, ExitStatus):
        return pb.ExecWorkloadResponse(exit_status=convert.exit_to(piece))
    if piece.source is LogSource.STDERR:
        return pb.ExecWorkloadResponse(stderr=piece.data)
    return pb.ExecWorkloadResponse(stdout=piece.data)


def _bad(path: str, message: str, *, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"{path} {message}", reason=reason, violations=[FieldViolation(field_path=path, message=message)]
    )
