"""Runs commands in containers. podman's exec ends with nothing but itself: who leaves has to kill what runs.

A closed connection leaves the process running, and the API has no call that ends it. Each command leads a session of
its own, so its whole family is found among the container's processes and killed, through the host where that is
visible, else by a `kill` inside the container.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from services.engines.engine import ExecOrder, ExecOutput, ExecSession, ExitStatus, LogSource
from services.engines.inside import not_running
from services.engines.podman.containers import Containers
from services.engines.podman.http import Duplex, Refusal
from services.engines.unix_http import shorten
from services.errors import BeemeshError, FailedPrecondition, Internal, NotFound, Unavailable
from services.telemetry import Log

_HEADER = 8
_SOURCES = {1: LogSource.STDOUT, 2: LogSource.STDERR}
_POLL_SECONDS = 0.02
_POLL_MAX = 0.5
_EXIT_SECONDS = 5.0
"""How long a command whose output has ended may take to end; the stream of one that merely closes it stays open."""
_KILL_SECONDS = 10.0
_BEGIN_SECONDS = 5.0
"""How long a command that was asked for, and left before it began, is waited for."""

_NOT_STARTED = re.compile(
    rb"Error: .*(attempted to invoke a command that was not found|OCI permission denied)", re.DOTALL
)
"""What podman itself writes on stderr, with exit code 127 or 126, for a command that it cannot start."""
_SAID_MAX = 4096
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126

T = TypeVar("T")

log = Log(__name__)


class Demultiplexer:
    """Cuts podman's stream into pieces of stdout and stderr, as they come; a frame is never held back for its rest."""

    def __init__(self, *, tty: bool) -> None:
        """`tty`: the stream has no frames."""
        self._tty = tty
        self._head = b""
        self._left = 0
        self._source = LogSource.STDOUT

    def feed(self, data: bytes) -> Iterator[ExecOutput]:
        """What these bytes hold. Raises Internal when they are no frames."""
        if self._tty:
            yield ExecOutput(LogSource.STDOUT, data)
            return
        while data:
            if not self._left:
                data = self._take_head(data)
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            yield ExecOutput(self._source, piece)

    def _take_head(self, data: bytes) -> bytes:
        missing = _HEADER - len(self._head)
        self._head, rest = self._head + data[:missing], data[missing:]
        if len(self._head) == _HEADER:
            source = _SOURCES.get(self._head[0])
            if source is None:
                raise Internal("podman's exec stream is not framed as expected", reason="BACKEND_ERROR")
            self._source, self._left, self._head = source, int.from_bytes(self._head[4:], "big"), b""
        return rest


class Session(ExecSession):
    """One command that runs."""

    def __init__(self, *, containers: Containers, name: str, stream: Duplex, order: ExecOrder) -> None:
        self._containers = containers
        self._name = name
        self._stream = stream
        self._order = order
        self._is_deaf = False

    async def write(self, data: bytes) -> None:
        """Waits while the command does not read; a command that has ended reads no more."""
        if self._is_deaf or not data:
            return
        try:
            await self._stream.write(data)
        except Unavailable:  # its end is told where its output is read
            self._is_deaf = True

    async def close_stdin(self) -> None:
        """Half of the connection ends."""
        if not self._is_deaf:
            self._is_deaf = True
            with suppress(Unavailable):
                self._stream.end()

    async def resize(self, rows: int, columns: int) -> None:
        """It may have ended meanwhile."""
        try:
            await self._containers.resize_exec(self._name, rows=rows, columns=columns)
        except Refusal as refusal:
            log.debug("resize_refused", why=refusal)

    async def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        """Until the stream ends; then the exit code, once podman knows it."""
        pieces, said = Demultiplexer(tty=self._order.tty), b""
        held: list[ExecOutput] = []
        while data := await self._stream.read():
            for piece in pieces.feed(data):
                said += piece.data if len(said) < _SAID_MAX else b""
                held.append(piece)
                if not _NOT_STARTED.match(said) or len(said) >= _SAID_MAX:
                    for each in held:
                        yield each
                    held.clear()
        code = await self._exit_code()
        if held and code in (_NOT_FOUND, _NOT_EXECUTABLE):
            raise _not_started(self._order.command[0], code, said)
        for each in held:
            yield each
        yield ExitStatus(exit_code=code)

    async def _exit_code(self) -> int:
        loop, wait = asyncio.get_running_loop(), _POLL_SECONDS
        end = loop.time() + _EXIT_SECONDS
        while (found := await self._containers.inspect_exec(self._name))["Running"]:
            if loop.time() > end:
                raise Unavailable(
                    "podman has ended the stream of a command that still runs",
                    reason="BACKEND_UNREACHABLE",
                    retry_after=1.0,
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _POLL_MAX)
        return int(found["ExitCode"])


@asynccontextmanager
async def running(
    containers: Containers, workload_id: str, container: str, order: ExecOrder
) -> AsyncIterator[ExecSession]:
    """Run a command until the block is left; raises NotFound, FailedPrecondition(WORKLOAD_NOT_RUNNING).

    The stream is closed last: podman forgets a command whose stream breaks while it begins, and lets it run.
    """
    try:
        name = await containers.create_exec(container, order.command, tty=order.tty)
    except Refusal as refusal:
        raise _refused(refusal, workload_id, container) from refusal
    killing = Killing(containers, container, name)
    async with AsyncExitStack() as stack:
        try:
            stream = await _uncut(lambda: stack.enter_async_context(containers.start_exec(name, tty=order.tty)))
            yield Session(containers=containers, name=name, stream=stream, order=order)
        except Refusal as refusal:
            raise _refused(refusal, workload_id, container) from refusal
        finally:
            await _uncut(killing.run)


async def _uncut(work: Callable[[], Awaitable[T]]) -> T:
    """Do it to its end, also when cancelled meanwhile; then the cancellation goes on."""
    task = asyncio.ensure_future(work())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_KILL_SECONDS)
        task.cancel()
        await asyncio.wait([task])
        raise


class Killing:
    """The end of a command and of all that it has started."""

    def __init__(self, containers: Containers, container: str, session: str) -> None:
        self._containers = containers
        self._container = container
        self._session = session
        self._groups: set[int] = set()
        """Its process groups, as the container numbers them."""

    async def run(self, leader: int = 0) -> None:
        """Until nothing of it is there; what cannot be done is logged, not raised.

        `leader`: the command's process, where that is known; of a health check podman does not tell it.
        """
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                leader = leader or await self._leader()
                while leader and await self._kill(leader):  # noqa: ASYNC110 - processes tell nobody
                    await asyncio.sleep(_POLL_SECONDS)  # what was just being started is seen at the next look
        except (Refusal, BeemeshError, TimeoutError) as error:
            log.warning("command_left_behind", container=self._container[:12], session=self._session[:12], why=error)

    async def _leader(self) -> int:
        """The command's process; one that was just asked for may yet begin."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _BEGIN_SECONDS
        while True:
            found = await self._containers.inspect_exec(self._session)
            if found["Running"] or found["CanRemove"] or loop.time() > end:
                return int(found["Pid"]) if found["Running"] else 0
            await asyncio.sleep(_POLL_SECONDS)

    async def _kill(self, leader: int) -> bool:
        """Kill all of its family that is there; whether there was any."""
        processes = await self._containers.processes(self._container)
        sessions = {host: _session_of(host, self._container) for host, _, _ in processes}
        family = [host for host, session in sessions.items() if session == leader]
        killed = [_kill_one(host, self._container) for host in family]
        if any(sessions.values()) and all(killed):
            return bool(family)
        return await self._kill_inside(leader, processes)

    async def _kill_inside(self, leader: int, processes: Sequence[tuple[int, int, int]]) -> bool:
        """Where the host's processes are not ours to see or to kill: the container's own `kill`, if it has one."""
        self._groups |= {group for host, _, group in processes if host == leader}
        family = [str(own) for _, own, group in processes if group in self._groups]
        if not family:
            return False
        name = await self._containers.create_exec(self._container, ["kill", "-KILL", *family], tty=False)
        async with self._containers.start_exec(name, tty=False) as stream:
            while await stream.read():
                pass
        return True


def _session_of(pid: int, container: str) -> int:
    """The session that a process of this container belongs to; 0 where the host's processes are not seen."""
    try:
        if container not in Path(f"/proc/{pid}/cgroup").read_text():
            return 0
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return 0


def _kill_one(pid: int, container: str) -> bool:
    """Kill exactly this process, though its pid may be another's by now; False where that is not allowed."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return True  # it is gone
    try:
        if _session_of(pid, container):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
    return True


def _refused(refusal: Refusal, workload_id: str, container: str) -> BeemeshError:
    if refusal.status == 404:
        return NotFound(
            f"workload {workload_id} has no component {container[:12]} any more",
            reason="COMPONENT_NOT_FOUND",
            metadata={"workload_id": workload_id, "component_id": container},
        )
    if "state improper" in refusal.text:
        return not_running(workload_id, container[:12])
    return Internal(f"podman could not run the command: {shorten(refusal.text)}", reason="BACKEND_ERROR")


def _not_started(program: str, code: int, said: bytes) -> FailedPrecondition:
    reason = "COMMAND_NOT_FOUND" if code == _NOT_FOUND else "COMMAND_NOT_EXECUTABLE"
    return FailedPrecondition(
        f"the command cannot be started: {shorten(said.decode(errors='replace'))}",
        reason=reason,
        metadata={"command": program[:80]},
    )
