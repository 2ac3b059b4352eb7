"""`beectl exec`, over a node that only notes what it is sent, and a terminal that is a pipe or a pseudo terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from beemesh.engine.v1.engine_service_pb2 import ExecWorkloadRequest, ExecWorkloadResponse
from beemesh.engine.v1.workload_pb2 import Component, ExitStatus, Workload
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli.execute import Command, execute
from services.cli.report import Failure
from services.cli.terminal import Terminal
from services.errors import BeemeshError, FailedPrecondition, InvalidArgument, NotFound

Script = Callable[["FakeSession"], AsyncIterator[ExecWorkloadResponse]]


class FakeSession:
    """Runs `script` as the node's side of the stream; `sent` is what came, `until` waits for it."""

    def __init__(self, script: Script) -> None:
        self.orchestrator = SimpleNamespace(GetDeployment="GetDeployment", ExecDeployment="ExecDeployment")
        self.sent: list[ExecWorkloadRequest] = []
        self.names: list[str] = []
        self._script = script
        self._requests: AsyncIterator[pb2.ExecDeploymentRequest]

    async def call(self, _method: Any, _request: Any, *, wait: float = 0.0) -> pb2.GetDeploymentResponse:
        parts = [Component(component_id=f"id{replica}", display_name="web", replica=replica) for replica in range(2)]
        item = pb2.Deployment(instances=[pb2.Instance(workload=Workload(components=parts))])
        return pb2.GetDeploymentResponse(deployment=item)

    async def stream(self, _method: Any, requests: Any) -> AsyncIterator[pb2.ExecDeploymentResponse]:
        self._requests = requests
        await self.until("start")
        async for answer in self._script(self):
            yield pb2.ExecDeploymentResponse(exec=answer)

    async def until(self, kind: str) -> ExecWorkloadRequest:
        """Read what is sent until a message of this kind."""
        async for request in self._requests:
            self.names.append(request.name)
            self.sent.append(request.exec)
            if request.exec.WhichOneof("input") == kind:
                return request.exec
        raise AssertionError(f"no {kind} was sent")


async def exits(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
    """A command that ends at once with 3."""
    yield ExecWorkloadResponse(exit_status=ExitStatus(exit_code=3))


def failing(error: BeemeshError) -> Script:
    """A node that refuses."""

    async def refuses(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        raise error
        yield

    return refuses


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTerminal(Terminal):
    """Notes what is shown."""

    shown: list[tuple[bytes, bool]] = field(default_factory=list)

    def write(self, data: bytes, *, error: bool = False) -> None:
        self.shown.append((data, error))


@contextmanager
def piped(data: bytes = b"", *, end: bool = True) -> Iterator[FakeTerminal]:
    """Standard input is a pipe with this in it; `end`: and no more."""
    reading, writing = os.pipe()
    os.write(writing, data)
    if end:
        os.close(writing)
    try:
        yield FakeTerminal(stdin=reading, stdout=reading)
    finally:
        os.close(reading)
        if not end:
            os.close(writing)


@contextmanager
def typing() -> Iterator[tuple[FakeTerminal, int]]:
    """Standard input is a terminal of 40 rows and 100 columns; with the end that somebody types at."""
    keyboard, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, 100))
    try:
        yield FakeTerminal(stdin=terminal, stdout=terminal), keyboard
    finally:
        os.close(terminal)
        os.close(keyboard)


def command(*, component: str = "", stdin: bool = False, tty: bool = False) -> Command:
    """Some command."""
    return Command(deployment="a", component=component, words=("sh", "-c", "x"), stdin=stdin, tty=tty)


def run(session: FakeSession, asked: Command, terminal: Terminal) -> int:
    """The exit code."""
    found: Any = session
    return asyncio.run(execute(found, asked, terminal))


def test_what_a_command_writes_and_its_exit_code_are_passed_on() -> None:
    """Stdout and stderr stay apart, and the command's exit code is ours; without -i its stdin is at its end."""

    async def writes(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        await session.until("close_stdin")
        yield ExecWorkloadResponse(stdout=b"out\xff")
        yield ExecWorkloadResponse(stderr=b"err")
        yield ExecWorkloadResponse(exit_status=ExitStatus(exit_code=3))

    session = FakeSession(writes)
    with piped(b"not for it") as terminal:
        assert run(session, command(component="1/web"), terminal) == 3
    assert terminal.shown == [(b"out\xff", False), (b"err", True)]
    start = session.sent[0].start
    assert (start.component_id, [*start.command], start.tty) == ("id1", ["sh", "-c", "x"], False)
    assert session.names == ["a", ""]
    assert not any(request.stdin for request in session.sent)


def test_stdin_is_passed_on_to_its_end() -> None:
    """What is piped in arrives whole, then its end."""

    async def reads(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        await session.until("close_stdin")
        yield ExecWorkloadResponse(exit_status=ExitStatus())

    data = os.urandom(50_000)
    session = FakeSession(reads)
    with piped(data) as terminal:
        assert run(session, command(stdin=True), terminal) == 0
    assert b"".join(request.stdin for request in session.sent) == data


def test_stdin_may_be_a_file(tmp_path: Any) -> None:
    """A file is no pipe, and is read all the same."""

    async def reads(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        await session.until("close_stdin")
        yield ExecWorkloadResponse(exit_status=ExitStatus())

    session = FakeSession(reads)
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as opened:
        run(session, command(stdin=True), FakeTerminal(stdin=opened.fileno(), stdout=opened.fileno()))
    assert b"".join(request.stdin for request in session.sent) == b"from a file"


def test_a_command_may_end_while_stdin_is_open() -> None:
    """An end of the command is the end, though nobody has closed its stdin."""
    with piped(end=False) as terminal:
        assert run(FakeSession(exits), command(stdin=True), terminal) == 3


def test_a_terminal_is_raw_meanwhile_and_as_it_was_afterwards() -> None:
    """Keys are passed on one by one and Ctrl-C as a key; the size goes first; afterwards the terminal is as before."""

    async def looks(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        size = (await session.until("resize")).resize
        assert (size.rows, size.columns) == (40, 100)
        os.write(keyboard, b"\x03")
        assert (await session.until("stdin")).stdin == b"\x03"
        assert not termios.tcgetattr(terminal.stdin)[3] & termios.ICANON
        yield ExecWorkloadResponse(exit_status=ExitStatus(exit_code=130))

    with typing() as (terminal, keyboard):
        before = termios.tcgetattr(terminal.stdin)
        assert run(FakeSession(looks), command(stdin=True, tty=True), terminal) == 130
        assert termios.tcgetattr(terminal.stdin) == before


def test_what_was_typed_ahead_is_for_the_command() -> None:
    """Keys that were pressed before the command began are not lost."""

    async def looks(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        data = (await session.until("stdin")).stdin
        yield ExecWorkloadResponse(exit_status=ExitStatus(exit_code=0 if data == b"ls\n" else 1))

    with typing() as (terminal, keyboard):
        os.write(keyboard, b"ls\n")  # \r would become \n or not, as the terminal is raw or not yet
        assert run(FakeSession(looks), command(stdin=True, tty=True), terminal) == 0


def test_a_new_size_is_passed_on() -> None:
    """When the window changes, the command's terminal does."""

    async def looks(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        await session.until("resize")
        termios.tcsetwinsize(terminal.stdin, (20, 50))
        signal.raise_signal(signal.SIGWINCH)
        size = (await session.until("resize")).resize
        yield ExecWorkloadResponse(exit_status=ExitStatus(exit_code=size.rows))

    with typing() as (terminal, _):
        assert run(FakeSession(looks), command(tty=True, stdin=True), terminal) == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    """TERM and HUP end beectl with 128 + n, and the terminal is set back."""

    async def waits(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        await session.until("resize")
        signal.raise_signal(number)
        await asyncio.Event().wait()
        yield ExecWorkloadResponse()

    with typing() as (terminal, _):
        before = termios.tcgetattr(terminal.stdin)
        with pytest.raises(SystemExit) as caught:
            run(FakeSession(waits), command(tty=True, stdin=True), terminal)
        assert caught.value.code == 128 + number
        assert termios.tcgetattr(terminal.stdin) == before


@pytest.mark.parametrize(("reason", "code"), [("COMMAND_NOT_FOUND", 127), ("COMMAND_NOT_EXECUTABLE", 126)])
def test_what_cannot_be_started_ends_as_in_a_shell(reason: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """127 for a program that is not there, 126 for one that cannot be run, and why on stderr."""
    with piped() as terminal:
        assert run(FakeSession(failing(FailedPrecondition("no", reason=reason))), command(), terminal) == code
    assert reason in capsys.readouterr().err


def test_where_there_are_several_the_choices_are_said() -> None:
    """Who names no component where there are several is told which there are, and how to choose."""
    several = InvalidArgument("component_id is required", reason="COMPONENT_REQUIRED")
    with piped() as terminal, pytest.raises(Failure, match="choose one with -c: 0/web, 1/web"):
        run(FakeSession(failing(several)), command(), terminal)


def test_an_error_of_the_node_is_raised_as_it_is() -> None:
    """What the node refuses is no exit code of the command."""
    with piped() as terminal, pytest.raises(NotFound):
        run(FakeSession(failing(NotFound("none", reason="DEPLOYMENT_NOT_FOUND"))), command(stdin=True), terminal)


def test_a_stream_that_ends_without_an_exit_code_is_a_failure() -> None:
    """It is not taken for success."""

    async def nothing(session: FakeSession) -> AsyncIterator[ExecWorkloadResponse]:
        return
        yield

    with piped() as terminal, pytest.raises(Failure, match="without an exit code"):
        run(FakeSession(nothing), command(), terminal)
