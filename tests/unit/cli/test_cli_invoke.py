"""beectl invoke: the event goes out as it was given, the result comes back as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1.engine_service_pb2 import LogEntry
from beemesh.engine.v1.function_service_pb2 import InvokeFunctionResponse
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from click.testing import CliRunner, Result
from google.protobuf.duration_pb2 import Duration

from services.cli import commands
from services.cli import session as sessions
from services.cli.group import cli
from services.cli.report import Failure, block
from services.errors import Aborted

commands.load()

RESULT = b'{"n":9007199254740993}'


class OneAnswer:
    """A node that answers one call."""

    def __init__(self) -> None:
        self.asked: list[tuple[pb.InvokeDeploymentRequest, float]] = []
        self.orchestrator = self
        self.InvokeDeployment = "InvokeDeployment"

    async def call(self, method: str, request: pb.InvokeDeploymentRequest, *, wait: float) -> Any:
        assert method == "InvokeDeployment"
        self.asked.append((request, wait))
        answer = InvokeFunctionResponse(
            result_json=RESULT,
            invocation_id="abc",
            cold_start=True,
            duration=Duration(nanos=1_500_000),
            logs=[LogEntry(text="hello")],
        )
        return pb.InvokeDeploymentResponse(invocation=answer)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> OneAnswer:
    """A node that beectl reaches instead of a real one."""
    fake = OneAnswer()

    def run(_access: object, body: Any) -> Any:
        import asyncio

        return asyncio.run(body(fake))

    monkeypatch.setattr(sessions, "run", run)
    return fake


def beectl(*arguments: str, stdin: bytes = b"") -> Result:
    """Run beectl in this process."""
    return CliRunner().invoke(cli, ["invoke", "f", *arguments], input=stdin)


def test_an_event_goes_out_to_the_byte(node: OneAnswer, tmp_path: Path) -> None:
    """From -d, from a file, from stdin; without one it is an empty mapping."""
    text = b'{"x" : 9007199254740993}'
    (tmp_path / "event.json").write_bytes(text)
    for arguments in (["-d", text.decode()], ["-f", str(tmp_path / "event.json")], ["-f", "-"]):
        result = beectl(*arguments, stdin=text)
        assert (result.exit_code, result.stdout) == (0, RESULT.decode() + "\n")
    beectl()
    events = [request.event_json for request, _ in node.asked]
    assert events == [text, text, text, b"{}"]
    assert {request.name for request, _ in node.asked} == {"f"}


def test_time_and_logs_are_as_asked(node: OneAnswer) -> None:
    """The time goes with the call, which waits no longer; what it wrote is on stderr, the result alone on stdout."""
    result = beectl("--within", "2s", "--logs")
    assert result.stdout == RESULT.decode() + "\n"
    assert result.stderr == "hello\ninvocation abc: 1.5 ms, cold start\n"
    (request, wait) = node.asked[0]
    assert (request.timeout.ToSeconds(), wait) == (2, 2.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-d", "{x}"], "-d is no JSON"),
        (["-f", "/nowhere/x"], "/nowhere/x: No such file"),
        (["-f", "-"], "stdin is no"),
    ],
)
def test_what_is_no_event_is_not_sent(node: OneAnswer, arguments: list[str], words: str) -> None:
    """It says what is wrong with it."""
    result = beectl(*arguments, stdin=b"nonsense")
    assert isinstance(result.exception, Failure)
    assert words in str(result.exception)
    assert node.asked == []


@pytest.mark.parametrize("arguments", [["-d", "1", "-f", "-"], ["--within", "0"]])
def test_options_that_contradict_are_wrong_usage(node: OneAnswer, arguments: list[str]) -> None:
    """Two events, or no time."""
    assert beectl(*arguments).exit_code == 2
    assert node.asked == []


def test_an_error_shows_the_functions_own_traceback() -> None:
    """Line by line, below what happened."""
    error = Aborted("the handler raised KeyError: 'a'", reason="FUNCTION_ERROR")
    error.trace = 'Traceback\n  File "/app/main.py", line 2\n'
    assert block(error).splitlines()[2:] == ["  | Traceback", '  |   File "/app/main.py", line 2']
