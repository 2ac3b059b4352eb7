"""Logs that are followed over restarts of their engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb

from services.errors import NotFound, Unavailable
from services.orchestrator.following import PATIENCE, followed

Step = str | float | Exception
"""A line, seconds that pass, or how the call ends."""


class Engine:
    """Answers each call with the next of its scripts; when it has none left it is away."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self.scripts = list(scripts)
        self.asked: list[pb.StreamWorkloadLogsRequest] = []
        self.now = 1000.0

    async def logs(self, request: pb.StreamWorkloadLogsRequest) -> AsyncGenerator[pb.StreamWorkloadLogsResponse, None]:
        """One call."""
        self.asked.append(request)
        if not self.scripts:
            raise AWAY
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                self.now += step
            else:
                yield pb.StreamWorkloadLogsResponse(entries=[pb.LogEntry(text=step, cursor=f"behind {step}")])

    async def pause(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    async def follow(self, seen: list[str], *, follow: bool = True, tail_lines: int | None = None) -> list[str]:
        """What a client sees, beside what it has seen."""
        request = pb.StreamWorkloadLogsRequest(workload_id="w", follow=follow, tail_lines=tail_lines)
        async for message in followed(self.logs, request, clock=lambda: self.now, pause=self.pause):
            seen += [entry.text for entry in message.entries]
        return seen


AWAY = Unavailable("engine podman cannot be reached", reason="ENGINE_UNREACHABLE")


async def test_a_follower_goes_on_where_the_engine_was_lost() -> None:
    """The next call resumes behind the last line, and asks for no tail again."""
    engine = Engine(["1", "2", AWAY], [AWAY], ["3", AWAY], ["4"])
    assert await engine.follow([], tail_lines=5) == ["1", "2", "3", "4"]
    assert [call.resume_cursor for call in engine.asked] == ["", "behind 2", "behind 2", "behind 3"]
    assert [call.HasField("tail_lines") for call in engine.asked] == [True, False, False, False]


async def test_who_follows_from_the_end_misses_nothing_while_the_engine_is_away() -> None:
    """With tail 0 and nothing seen yet, it goes on from when the client asked."""
    engine = Engine([5.0, AWAY], ["1", AWAY], ["2"])
    assert await engine.follow([], tail_lines=0) == ["1", "2"]
    assert [call.since_time.ToSeconds() for call in engine.asked] == [0, 1000, 1000]
    assert [call.HasField("tail_lines") for call in engine.asked] == [True, False, False]


async def test_a_tail_that_was_never_begun_is_asked_for_again() -> None:
    """Nothing was seen, so the whole of it is wanted."""
    engine = Engine([5.0, AWAY], ["1"])
    assert await engine.follow([], tail_lines=7) == ["1"]
    assert [call.tail_lines for call in engine.asked] == [7, 7]


async def test_an_engine_that_is_away_at_the_very_first_is_told_at_once() -> None:
    """The client need not wait for what it never had."""
    engine = Engine()
    with pytest.raises(Unavailable):
        await engine.follow([])
    assert len(engine.asked) == 1


async def test_an_engine_that_stays_away_is_told_in_the_end() -> None:
    """Each outage is given its time, however long nothing was written before it."""
    engine = Engine(["1", 1000.0, AWAY], [1000.0, AWAY], ["2", AWAY])
    seen: list[str] = []
    with pytest.raises(Unavailable):
        await engine.follow(seen)
    assert seen == ["1", "2"]
    assert engine.now - 3000.0 == pytest.approx(PATIENCE, abs=1)


async def test_without_follow_nothing_is_asked_twice() -> None:
    """Who wants what there is can ask again."""
    engine = Engine(["1", AWAY])
    with pytest.raises(Unavailable):
        await engine.follow([], follow=False)
    assert len(engine.asked) == 1


async def test_what_is_gone_is_told() -> None:
    """A workload that was removed while the engine was away ends the stream with that."""
    engine = Engine(["1", AWAY], [NotFound("workload w is not on this engine", reason="WORKLOAD_NOT_FOUND")])
    with pytest.raises(NotFound):
        await engine.follow([])
