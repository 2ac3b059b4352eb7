"""Reads and follows the logs of a workload's containers, through restarts, and holds nothing when nobody reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from services.engines.background import background
from services.engines.docker_api.api import Docker
from services.engines.docker_api.frames import Line, Lines, Position, known_position, read_cursor, write_cursor
from services.engines.engine import Component, LogLine, LogQuery
from services.engines.streams import closed_after
from services.engines.unix_http import Refusal
from services.errors import FailedPrecondition

_BATCH_LINES = 256
_QUEUED_BATCHES = 16
_LOOK_SECONDS = 0.2
"""Between a stream's end and the look whether its container goes on."""
_GOES_ON = frozenset({"created", "running", "paused", "restarting"})
_NANO = 10**9
_INEXACT = 1000
"""Nanoseconds that are lost at most where a time is told in seconds since 1970."""

Batch = Sequence[LogLine]


class Logs:
    """One reader's view of the logs of `components`."""

    def __init__(
        self, *, docker: Docker, components: Sequence[Component], query: LogQuery, clock: Callable[[], float]
    ) -> None:
        self._docker = docker
        self._components = components
        self._query = query
        self._clock = clock
        resumed = read_cursor(query.resume_cursor) if query.resume_cursor else {}
        self._resumed = {
            component.component_id: at
            for component in components
            if (at := known_position(resumed, component.component_id)) is not None
        }
        self._positions: dict[str, Position] = dict(self._resumed)
        self.comes_back: Callable[[str], bool] = lambda _: False
        """Whether a container that has ended is going to be started by somebody other than docker."""

    async def batches(self) -> AsyncIterator[Batch]:
        """All that is there; then, if asked to follow, all that comes."""
        for component in self._components:
            async with closed_after(self._past(component.component_id)) as past:
                async for batch in past:
                    yield batch
        if self._query.follow:
            async with closed_after(self._merged()) as merged:
                async for batch in merged:
                    yield batch

    async def _past(self, container: str) -> AsyncIterator[Batch]:
        """What is in the log now, cut to what was asked for."""
        query, resumed = self._query, self._resumed.get(container)
        wanted = None if resumed else query.tail_lines
        if wanted == 0:
            self._positions[container] = Position(int(self._clock() * _NANO))
            return
        # A time as seconds is not exact to the nanosecond: ask for a little more, and choose by the time we tell.
        start = resumed or Position(max(0, int((query.since_time or 0.0) * _NANO) - _INEXACT))
        tail = wanted if wanted and not query.sources else None  # docker counts before it chooses
        kept: deque[LogLine] = deque(maxlen=wanted)
        async with closed_after(self._lines(container, start, follow=False, tail=tail)) as lines:
            async for line in lines:
                if self._wanted(line) and (resumed or not self._is_before(line)):
                    kept.append(self._stamped(container, line))
                if wanted is None and len(kept) >= _BATCH_LINES:
                    yield tuple(kept)
                    kept.clear()
        for batch in _cut(kept):
            yield batch

    async def _merged(self) -> AsyncIterator[Batch]:
        """What all components write from here on, until all have ended."""
        queue: asyncio.Queue[Batch | Exception | None] = asyncio.Queue(_QUEUED_BATCHES)
        left = len(self._components)
        async with background() as start:
            for component in self._components:
                start(self._pump(component.component_id, queue))
            while left:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item

    async def _pump(self, container: str, queue: asyncio.Queue[Batch | Exception | None]) -> None:
        try:
            async with closed_after(self._future(container)) as lines:
                async for line in lines:
                    if self._wanted(line):
                        await queue.put((self._stamped(container, line),))
            await queue.put(None)
        except Exception as error:  # it is raised where the batches are read, not in this task
            await queue.put(error)

    async def _future(self, container: str) -> AsyncIterator[Line]:
        """Lines as they come; a stream ends with each run of the container, and is opened again."""
        while True:
            start = self._positions.get(container, Position())
            try:
                async with closed_after(self._lines(container, start, follow=True)) as lines:
                    async for line in lines:
                        yield line
                status = (await self._inspect(container)).get("State", {}).get("Status")
                if status not in _GOES_ON and not self.comes_back(container):
                    return
            except Refusal as refusal:
                if refusal.status == 404 or "marked for removal" in refusal.text:  # it was removed meanwhile
                    return
                raise
            await asyncio.sleep(_LOOK_SECONDS)

    async def _lines(
        self, container: str, start: Position, *, follow: bool, tail: int | None = None
    ) -> AsyncIterator[Line]:
        """The lines behind `start`, keeping the container's position up to date."""
        query = {"follow": "1"} if follow else {}
        if start.nanoseconds:
            query["since"] = start.since
        if tail is not None:
            query["tail"] = str(tail)
        tty = bool(((await self._inspect(container)).get("Config") or {}).get("Tty"))
        lines, to_skip, position = Lines(tty=tty), start.count, Position(start.nanoseconds, 0)
        try:
            async with closed_after(self._docker.logs(container, query)) as chunks:
                async for chunk in chunks:
                    for line in lines.feed(chunk):
                        position = position.after(line)
                        if to_skip and position.nanoseconds == start.nanoseconds:
                            to_skip -= 1
                            continue
                        self._positions[container] = position
                        yield line
        except Refusal as refusal:
            if "does not support reading" in refusal.text:
                raise FailedPrecondition(
                    f"container {container[:12]} keeps no log that docker can read: see its logging driver",
                    reason="LOGS_NOT_KEPT",
                ) from refusal
            raise
        self._positions.setdefault(container, start)

    async def _inspect(self, container: str) -> dict[str, Any]:
        return await self._docker.inspect(container)

    def _is_before(self, line: Line) -> bool:
        return line.nanoseconds > 0 and line.nanoseconds / _NANO < (self._query.since_time or 0.0)

    def _wanted(self, line: Line) -> bool:
        return not self._query.sources or line.source in self._query.sources

    def _stamped(self, container: str, line: Line) -> LogLine:
        return LogLine(
            component_id=container,
            source=line.source,
            time=line.nanoseconds / _NANO if line.nanoseconds else None,
            text=line.text,
            partial=line.partial,
            lossy=line.lossy,
            cursor=write_cursor(self._positions),
        )


def _cut(lines: deque[LogLine]) -> Iterable[Batch]:
    while lines:
        yield tuple(lines.popleft() for _ in range(min(_BATCH_LINES, len(lines))))
