"""Reading a log from where somebody has been, over a docker that has ten lines a few hundred nanoseconds apart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from services.engines.docker_api.api import Docker
from services.engines.docker_api.logs import Logs
from services.engines.engine import Component, LogLine, LogQuery, LogSource

SECOND = 1_795_457_710
STEP = 300
LINES = [(SECOND * 10**9 + 123_456_789 + STEP * (number // 2), f"line {number}") for number in range(10)]
"""Two lines of each time; the odd ones are on stderr."""
ID = "c" * 64


class Written:
    """A docker with one container, which has ended."""

    async def inspect(self, container: str) -> dict[str, Any]:
        """It has no terminal."""
        return {"Config": {"Tty": False}, "State": {"Status": "exited"}}

    async def logs(self, container: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines since a time, that one included, and of these the last."""
        whole, _, fraction = query.get("since", "0.0").partition(".")
        since = int(whole) * 10**9 + int(fraction)
        there = [(number, *line) for number, line in enumerate(LINES)]
        if "tail" in query:
            there = there[len(there) - int(query["tail"]) :]
        for number, time, text in there:
            if time >= since:
                payload = f"{_stamp(time)} {text}\n".encode()
                yield bytes([1 + number % 2, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def _stamp(nanoseconds: int) -> str:
    return f"2026-11-23T18:15:10.{nanoseconds % 10**9:09d}Z"


async def read(**query: Any) -> list[LogLine]:
    """The lines that are asked for."""
    reader = Logs(
        docker=cast(Docker, Written()),
        components=[Component(component_id=ID, display_name="web")],
        query=LogQuery(**query),
        clock=lambda: float(SECOND + 10),
    )
    return [line async for batch in reader.batches() for line in batch]


async def test_a_line_is_found_again_by_its_time() -> None:
    """Though seconds since 1970 cannot tell it to the nanosecond; lines of earlier times are left out."""
    everything = await read()
    assert [line.text for line in everything] == [text for _, text in LINES]
    for number, line in enumerate(everything):
        found = await read(since_time=line.time)
        assert line.text in [each.text for each in found]
        assert all((each.time or 0) >= (line.time or 0) for each in found), number


@pytest.mark.parametrize("number", range(10))
async def test_a_cursor_goes_on_behind_its_line(number: int) -> None:
    """Also between two lines of one time."""
    everything = await read()
    assert await read(resume_cursor=everything[number].cursor) == everything[number + 1 :]


async def test_the_tail_is_of_what_was_chosen() -> None:
    """The last lines, of one stream where one is asked for; none for 0."""
    assert [line.text for line in await read(tail_lines=3)] == ["line 7", "line 8", "line 9"]
    errors = await read(tail_lines=2, sources=frozenset({LogSource.STDERR}))
    assert [line.text for line in errors] == ["line 7", "line 9"]
    assert await read(tail_lines=0) == []


async def test_following_what_has_ended_ends() -> None:
    """With every line told once."""
    assert [line.text for line in await read(follow=True)] == [text for _, text in LINES]
