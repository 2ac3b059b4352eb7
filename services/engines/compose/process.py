"""Runs a program bounded in time and in output; nothing of it outlives the call, or this process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.bound import bound
from services.errors import DeadlineExceeded, Internal

_KILL_SECONDS = 2.0
"""After TERM, before KILL."""
_LINE_BYTES = 256 << 10
_KEPT_LINES = 200
_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended."""

    code: int
    """Negative: the signal that ended it."""
    out: bytes
    err: tuple[str, ...]
    """The last lines that it wrote on stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run, and within which bounds."""

    argv: Sequence[str]
    """The program's path, then its arguments."""
    env: Mapping[str, str]
    """All of its environment."""
    workdir: Path
    stdin: bytes = b""
    timeout: float
    """Seconds."""
    max_out: int = 32 << 20
    """Bytes that it may write on stdout."""


async def run(command: Command, on_line: Callable[[str], None] = lambda _: None) -> Finished:
    """Run it to its end; `on_line` hears each line of stderr as it comes.

    It leads a process group of its own, which is ended with it, also when the caller is cancelled or this process is
    killed. Raises DeadlineExceeded(BACKEND_TIMEOUT), Internal(BACKEND_ERROR) for too much output, and OSError when it
    cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *bound(*command.argv),
        env=dict(command.env),
        cwd=command.workdir,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(command.timeout):
            return await _communicate(process, command, on_line)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{_name(command)} did not end within {command.timeout:g} s", reason="BACKEND_TIMEOUT"
        ) from error
    finally:
        await _end(process)


async def _communicate(
    process: asyncio.subprocess.Process, command: Command, on_line: Callable[[str], None]
) -> Finished:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    async with asyncio.TaskGroup() as group:
        group.create_task(_feed(process.stdin, command.stdin))
        out = group.create_task(_whole(process.stdout, command))
        err = group.create_task(_lines(process.stderr, on_line))
    if len(out.result()) > command.max_out:
        raise Internal(f"{_name(command)} wrote more than {command.max_out} bytes", reason="BACKEND_ERROR")
    return Finished(code=await process.wait(), out=out.result(), err=err.result())


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    """It may end without having read all."""
    with suppress(ConnectionError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()
    with suppress(ConnectionError):
        await stdin.wait_closed()


async def _whole(stdout: asyncio.StreamReader, command: Command) -> bytes:
    """All of it, or one byte more than the bound; the rest is read and dropped, so that the program ends."""
    out = bytearray()
    while chunk := await stdout.read(_CHUNK):
        out += chunk[: command.max_out + 1 - len(out)]
    return bytes(out)


async def _lines(stderr: asyncio.StreamReader, on_line: Callable[[str], None]) -> tuple[str, ...]:
    kept: deque[str] = deque(maxlen=_KEPT_LINES)
    rest = b""
    while chunk := await stderr.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_LINE_BYTES:]
        for line in lines:
            text = line.decode(errors="replace")[:_LINE_BYTES]
            kept.append(text)
            on_line(text)
    if rest:
        kept.append(rest.decode(errors="replace"))
        on_line(kept[-1])
    return tuple(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """TERM, then KILL, to the whole group; done only when the program is gone, whoever cancels meanwhile."""
    ending = asyncio.ensure_future(_end_group(process))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait([ending])
        raise


async def _end_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                await process.wait()
    _signal(process.pid, signal.SIGKILL)  # also what it has left behind in its group
    await process.wait()


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _name(command: Command) -> str:
    return Path(command.argv[0]).name
