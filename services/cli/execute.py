"""`beectl exec`: a command in a component, with this process's standard input, terminal, signals and exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

from beemesh.engine.v1.engine_service_pb2 import ExecStart, ExecWorkloadRequest, TerminalSize
from beemesh.engine.v1.workload_pb2 import Component
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli.components import components, labels, resolve
from services.cli.report import Failure, block
from services.cli.session import Session
from services.cli.terminal import Terminal
from services.errors import BeemeshError

_EXIT_CODES = {"COMMAND_NOT_FOUND": 127, "COMMAND_NOT_EXECUTABLE": 126}
"""As a shell says it."""
_WAITING_MAX = 4
"""Pieces of input that wait to be sent; beyond that nothing is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run, and where."""

    deployment: str
    component: str
    """See `components.resolve`; empty: the only one."""
    words: tuple[str, ...]
    stdin: bool
    """Pass standard input on."""
    tty: bool


async def execute(session: Session, command: Command, terminal: Terminal) -> int:
    """Run it to its end and return its exit code; the command is killed when this ends sooner."""
    component = await _component(session, command)
    outgoing: asyncio.Queue[ExecWorkloadRequest] = asyncio.Queue(_WAITING_MAX)
    start = ExecStart(component_id=component, command=command.words, tty=command.tty)
    await outgoing.put(ExecWorkloadRequest(start=start))
    work = [_send_stdin(terminal, outgoing) if command.stdin else _send_end(outgoing)]
    if command.tty:
        work.append(_send_sizes(terminal, outgoing))
    with _ended_by_signals(), terminal.raw() if command.tty and command.stdin else nullcontext():
        try:
            async with _alongside(*work):
                return await _shown(session, _requests(command.deployment, outgoing), terminal)
        except BeemeshError as error:
            if error.reason == "COMPONENT_REQUIRED":
                raise Failure(f"choose one with -c: {', '.join(await _choices(session, command))}") from error
            if error.reason not in _EXIT_CODES:
                raise
            sys.stderr.write(block(error) + "\n")
            return _EXIT_CODES[error.reason]


async def _component(session: Session, command: Command) -> str:
    return resolve(await _parts(session, command), command.component) if command.component else ""


async def _choices(session: Session, command: Command) -> list[str]:
    return sorted(
        labels([part for part in await _parts(session, command) if part.role != Component.ROLE_INIT]).values()
    )


async def _parts(session: Session, command: Command) -> list[Component]:
    request = pb2.GetDeploymentRequest(name=command.deployment)
    return components((await session.call(session.orchestrator.GetDeployment, request)).deployment)


async def _shown(session: Session, requests: AsyncIterator[pb2.ExecDeploymentRequest], terminal: Terminal) -> int:
    async for answer in session.stream(session.orchestrator.ExecDeployment, requests):
        match answer.exec.WhichOneof("output"):
            case "stdout":
                terminal.write(answer.exec.stdout)
            case "stderr":
                terminal.write(answer.exec.stderr, error=True)
            case "exit_status":
                return int(answer.exec.exit_status.exit_code)
    raise Failure("the command's stream ended without an exit code: whether it has ended is not known")


async def _requests(
    deployment: str, outgoing: asyncio.Queue[ExecWorkloadRequest]
) -> AsyncIterator[pb2.ExecDeploymentRequest]:
    """The first names the deployment; they go on until the call ends."""
    while True:
        request = await outgoing.get()
        yield pb2.ExecDeploymentRequest(name=deployment if request.HasField("start") else "", exec=request)


async def _send_stdin(terminal: Terminal, outgoing: asyncio.Queue[ExecWorkloadRequest]) -> None:
    async for data in terminal.typed():
        await outgoing.put(ExecWorkloadRequest(stdin=data))
    await _send_end(outgoing)


async def _send_end(outgoing: asyncio.Queue[ExecWorkloadRequest]) -> None:
    await outgoing.put(ExecWorkloadRequest(close_stdin=True))


async def _send_sizes(terminal: Terminal, outgoing: asyncio.Queue[ExecWorkloadRequest]) -> None:
    async for rows, columns in terminal.sizes():
        await outgoing.put(ExecWorkloadRequest(resize=TerminalSize(rows=rows, columns=columns)))


@asynccontextmanager
async def _alongside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do this while the block runs, not longer; the block's error is raised as it is."""
    failed: list[Exception] = []
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one) for one in work]
        try:
            yield
        except Exception as error:
            failed.append(error)
        for task in running:
            task.cancel()
    if failed:
        raise failed[0]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """TERM and HUP end this process in order: the terminal is set back, the command is killed."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _leave, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _leave(number: signal.Signals) -> NoReturn:
    sys.exit(128 + number)
