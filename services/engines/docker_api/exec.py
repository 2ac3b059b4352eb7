"""Runs commands in containers. docker's exec ends with nothing but itself: who leaves has to kill what runs.

A closed connection leaves the process running, and the API has no call that ends it. Each command leads a session of
its own, so its whole family is found among the container's processes, and killed through the host.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from services.engines.docker_api.api import Docker
from services.engines.docker_api.frames import Demultiplexer
from services.engines.engine import ExecOrder, ExecOutput, ExecSession, ExitStatus
from services.engines.inside import not_running
from services.engines.unix_http import Duplex, Refusal, shorten
from services.errors import BeemeshError, FailedPrecondition, Internal, NotFound, Unavailable
from services.telemetry import Log

_POLL_SECONDS = 0.02
_POLL_MAX = 0.5
_EXIT_SECONDS = 5.0
"""How long a command whose output has ended may take to end."""
_KILL_SECONDS = 5.0
_BEGIN_SECONDS = 1.0
"""How long a command that was asked for, and left before it began, is waited for."""
_NOT_STARTED = re.compile(rb"(OCI runtime exec failed|exec failed|unable to start container process)", re.DOTALL)
"""What docker itself writes, with exit code 126 or 127, for a command that it cannot start."""
_NO_SUCH = re.compile(rb"executable file not found|no such file or directory", re.IGNORECASE)
_CANNOT_START = (126, 127)
_SAID_MAX = 4096
_END_OF_TRANSMISSION = b"\x04"

T = TypeVar("T")

log = Log(__name__)


class Session(ExecSession):
    """One command that runs."""

    def __init__(self, *, docker: Docker, name: str, stream: Duplex, order: ExecOrder) -> None:
        self._docker = docker
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
        """Half of the connection ends; of a terminal that would end the output too, so it is told as one types it."""
        if self._is_deaf:
            return
        if self._order.tty:
            await self.write(_END_OF_TRANSMISSION)
        else:
            with suppress(Unavailable):
                self._stream.end()
        self._is_deaf = True

    async def resize(self, rows: int, columns: int) -> None:
        """It may have ended meanwhile."""
        try:
            await self._docker.resize_exec(self._name, rows=rows, columns=columns)
        except Refusal as refusal:
            log.debug("resize_refused", why=refusal)

    async def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        """Until the stream ends; then the exit code, once docker knows it."""
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
        if held and code in _CANNOT_START:
            raise _not_started(self._order.command[0], said)
        for each in held:
            yield each
        yield ExitStatus(exit_code=code)

    async def _exit_code(self) -> int:
        loop, wait = asyncio.get_running_loop(), _POLL_SECONDS
        end = loop.time() + _EXIT_SECONDS
        while (found := await self._docker.inspect_exec(self._name))["Running"] or found["ExitCode"] is None:
            if loop.time() > end:
                raise Unavailable(
                    f"{self._docker.backend} has ended the stream of a command that still runs",
                    reason="BACKEND_UNREACHABLE",
                    retry_after=1.0,
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _POLL_MAX)
        return int(found["ExitCode"])


@asynccontextmanager
async def running(docker: Docker, workload_id: str, container: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
    """Run a command until the block is left; raises NotFound, FailedPrecondition(WORKLOAD_NOT_RUNNING)."""
    try:
        name = await docker.create_exec(container, order.command, tty=order.tty)
    except Refusal as refusal:
        raise _refused(refusal, workload_id, container) from refusal
    killing = Killing(docker, container, name)
    async with AsyncExitStack() as stack:
        try:
            opening = docker.start_exec(name, tty=order.tty)
            stream = await _uncut(lambda: stack.enter_async_context(opening))
            yield Session(docker=docker, name=name, stream=stream, order=order)
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

    def __init__(self, docker: Docker, container: str, session: str) -> None:
        self._docker = docker
        self._container = container
        self._session = session

    async def run(self) -> None:
        """Until nothing of it is there; what cannot be done is logged, not raised."""
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                leader = await self._leader()
                while leader and await self._kill(leader):  # noqa: ASYNC110 - processes tell nobody
                    await asyncio.sleep(_POLL_SECONDS)  # what was just being started is seen at the next look
        except (Refusal, BeemeshError, TimeoutError) as error:
            log.warning("command_left_behind", container=self._container[:12], session=self._session[:12], why=error)

    async def _leader(self) -> int:
        """The command's process; one that was just asked for may yet begin.

        Docker says that it runs, and passes on what it writes, a moment before it knows its pid.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _BEGIN_SECONDS
        while True:
            found = await self._docker.inspect_exec(self._session)
            has_ended = not found["Running"] and found["ExitCode"] is not None
            if has_ended or (found["Running"] and found["Pid"]) or loop.time() > end:
                return int(found["Pid"]) if found["Running"] else 0
            await asyncio.sleep(_POLL_SECONDS)

    async def _kill(self, leader: int) -> bool:
        """Kill all of its family that is there; whether there was any."""
        sessions = {pid: _session_of(pid, self._container) for pid in await self._docker.processes(self._container)}
        if sessions and not any(sessions.values()):
            raise FailedPrecondition("the host's processes are not seen from here", reason="HOST_NOT_SEEN")
        family = [pid for pid, session in sessions.items() if session == leader]
        for pid in family:
            _kill_one(pid, self._container)
        return bool(family)


def _session_of(pid: int, container: str) -> int:
    """The session that a process of this container belongs to; 0 where the host's processes are not seen."""
    try:
        if container not in Path(f"/proc/{pid}/cgroup").read_text():
            return 0
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return 0


def _kill_one(pid: int, container: str) -> None:
    """Kill exactly this process, though its pid may be another's by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return  # it is gone
    try:
        if _session_of(pid, container):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except PermissionError as error:
        raise FailedPrecondition("the host's processes may not be ended from here", reason="HOST_NOT_SEEN") from error
    finally:
        os.close(descriptor)


def _refused(refusal: Refusal, workload_id: str, container: str) -> BeemeshError:
    if refusal.status == 404:
        return NotFound(
            f"workload {workload_id} has no component {container[:12]} any more",
            reason="COMPONENT_NOT_FOUND",
            metadata={"workload_id": workload_id, "component_id": container},
        )
    if refusal.status == 409:
        return not_running(workload_id, container[:12])
    return Internal(f"the command could not be run: {shorten(refusal.text)}", reason="BACKEND_ERROR")


def _not_started(program: str, said: bytes) -> FailedPrecondition:
    reason = "COMMAND_NOT_FOUND" if _NO_SUCH.search(said) else "COMMAND_NOT_EXECUTABLE"
    return FailedPrecondition(
        f"the command cannot be started: {shorten(said.decode(errors='replace'))}",
        reason=reason,
        metadata={"command": program[:80]},
    )
