"""Following logs over what breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from beemesh.engine.v1.workload_pb2 import Component, Workload
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli.following import PATIENCE
from services.cli.live import logs, watch
from services.errors import BeemeshError, NotFound, Unavailable

AWAY = Unavailable("restarting", reason="ENGINE_UNREACHABLE")


def lines(*texts: str, dropped: int = 0) -> pb2.StreamDeploymentLogsResponse:
    """One message with these lines; a line's cursor is itself."""
    message = pb2.StreamDeploymentLogsResponse()
    for text in texts:
        message.entries.add(component_id="1", text=text, cursor=text, dropped_lines=dropped)
    return message


class FakeSession:
    """Plays one script a stream; a script ends with an error, or with the stream."""

    def __init__(self, *scripts: Sequence[Any]) -> None:
        self.orchestrator = SimpleNamespace(GetDeployment="", StreamDeploymentLogs="", WatchDeployments="")
        self.asked: list[Any] = []
        self.waited: list[float] = []
        self._scripts = list(scripts)

    async def call(self, _method: Any, _request: Any, *, wait: float = 0.0) -> pb2.GetDeploymentResponse:
        workload = Workload(components=[Component(component_id="1", display_name="web")])
        return pb2.GetDeploymentResponse(deployment=pb2.Deployment(instances=[pb2.Instance(workload=workload)]))

    async def stream(self, _method: Any, request: Any) -> AsyncIterator[Any]:
        self.asked.append(request)
        for step in self._scripts.pop(0):
            if isinstance(step, BeemeshError):
                raise step
            yield step

    async def pause(self, seconds: float) -> None:
        """No time passes."""
        self.waited.append(seconds)

    def run(self, *, follow: bool = True, tail: int | None = None) -> None:
        """`beectl logs`, here."""
        session: Any = self
        asyncio.run(logs(session, "a", component="", follow=follow, tail=tail, pause=self.pause))


def test_following_goes_on_after_the_last_line_that_came(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream that breaks is taken up behind the last line: no gap, no repeat; that it broke is said once."""
    session = FakeSession([lines("1", "2"), AWAY], [AWAY], [lines("3")])
    session.run(tail=5)
    assert capsys.readouterr() == ("1\n2\n3\n", "waiting for the node: ENGINE_UNREACHABLE: restarting\n")
    assert [request.resume_cursor for request in session.asked] == ["", "2", "2"]
    assert [request.HasField("tail_lines") for request in session.asked] == [True, False, False]


def test_patience_has_an_end() -> None:
    """After so many tries without a line the error is the answer."""
    session = FakeSession(*([AWAY] for _ in range(PATIENCE + 1)))
    with pytest.raises(Unavailable):
        session.run()
    assert len(session.waited) == PATIENCE


@pytest.mark.parametrize(("error", "follow"), [(AWAY, False), (NotFound("gone", reason="DEPLOYMENT_NOT_FOUND"), True)])
def test_what_will_not_come_back_is_not_waited_for(error: BeemeshError, follow: bool) -> None:
    """Neither a deployment that is gone, nor anything for who does not follow."""
    session = FakeSession([error])
    with pytest.raises(type(error)):
        session.run(follow=follow)
    assert session.waited == []


def test_lost_lines_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Where lines are lost before one, that is said in their place."""
    FakeSession([lines("9", dropped=4)]).run()
    assert capsys.readouterr().out == "… 4 lines or more are lost here …\n9\n"


def test_a_watch_goes_on_when_the_node_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Opened anew it begins with a snapshot: what is as it was is not said twice."""
    item = pb2.Deployment(deployment_id="a", state=pb2.DEPLOYMENT_STATE_ACTIVE)
    gone = pb2.Deployment(deployment_id="a", state=pb2.DEPLOYMENT_STATE_DELETED)
    first, again, last = (pb2.WatchDeploymentsResponse(deployment=each) for each in (item, item, gone))
    fake = FakeSession([first, AWAY], [again, last])
    session: Any = fake
    asyncio.run(watch(session, "", output="table", pause=fake.pause))
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["STATE", "ACTIVE", "DELETED"]
