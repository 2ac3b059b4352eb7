"""Reads and follows the logs of a workload's containers, through restarts, without holding anything when nobody reads.

Never asks podman for `tail`: before 4.7 each such call leaks a file descriptor in the service until it can serve no
more. The log is read from where it matters and cut here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from services.engines.engine import Component, LogLine, LogQuery
from services.engines.podman.api import Podman
from services.engines.podman.background import background
from services.engines.podman.frames import Frames, Line, Position, known_position, read_cursor, write_cursor
from services.engines.podman.http import Refusal
from services.engines.streams import closed_after

_BATCH_LINES = 256
_QUEUED_BATCHES = 16
_REOPEN_SECONDS = 0.5
"""Between a stream's end and the look whether its container is coming back."""

_NEVER_RESTARTED = ("", "no", "never")

Batch = Sequence[LogLine]


class Logs:
    """One reader's view of the logs of `components`."""

    def __init__(
        self, *, podman: Podman, components: Sequence[Component], query: LogQuery, clock: Callable[[], float]
    ) -> None:
        self._podman = podman
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
        query, resumed = self._query, container in self._resumed
        wanted = None if resumed else query.tail_lines
        if wanted == 0:
            if query.follow:
                await self._skip_to_now(container)
            return
        since = 0.0 if resumed else query.since_time or 0.0
        start = self._resumed.get(container, Position(int(since), 0))
        kept: deque[LogLine] = deque(maxlen=wanted)
        async with closed_after(self._lines(container, start, follow=False)) as lines:
            async for line in lines:
                if self._wanted(line, since):
                    kept.append(self._stamped(container, line))
                if wanted is None and len(kept) >= _BATCH_LINES:
                    yield tuple(kept)
                    kept.clear()
        for batch in _cut(kept):
            yield batch

    async def _skip_to_now(self, container: str) -> None:
        """Stand behind all lines there are, without reading more than this second's."""
        async with closed_after(self._lines(container, Position(int(self._clock()), 0), follow=False)) as lines:
            async for _ in lines:
                pass

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
                    if self._wanted(line, 0.0):
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
                if await self._is_over(container):
                    return
            except Refusal as refusal:
                if refusal.status == 404:  # it was removed meanwhile
                    return
                raise

    async def _is_over(self, container: str) -> bool:
        """Whether the container has ended and is not coming back."""
        found = await self._podman.inspect(container)
        if found["State"].get("Status") in ("running", "paused", "stopping"):
            return False
        policy = (found.get("HostConfig", {}).get("RestartPolicy") or {}).get("Name", "")
        if policy in _NEVER_RESTARTED:
            return True
        await asyncio.sleep(_REOPEN_SECONDS)
        later = await self._podman.inspect(container)
        same = all(later["State"].get(key) == found["State"].get(key) for key in ("Status", "StartedAt"))
        return same and later.get("RestartCount") == found.get("RestartCount")

    async def _lines(self, container: str, start: Position, *, follow: bool) -> AsyncIterator[Line]:
        """The lines behind `start`, keeping the container's position up to date."""
        query = {"follow": "true"} if follow else {}
        if start.second:
            query["since"] = str(start.second)
        frames, to_skip, position = Frames(), start.count, Position(start.second, 0)
        async with closed_after(self._podman.logs(container, query)) as chunks:
            async for chunk in chunks:
                for line in frames.feed(chunk):
                    position = position.after(line)
                    if to_skip and position.second == start.second:
                        to_skip -= 1
                        continue
                    self._positions[container] = position
                    yield line
        self._positions.setdefault(container, start)

    def _wanted(self, line: Line, since: float) -> bool:
        """`since` is honoured to the second: podman 4 writes no finer times."""
        old = line.time is not None and line.time < int(since)
        return not old and (not self._query.sources or line.source in self._query.sources)

    def _stamped(self, container: str, line: Line) -> LogLine:
        return LogLine(
            component_id=container,
            source=line.source,
            time=line.time,
            text=line.text,
            partial=line.partial,
            cursor=write_cursor(self._positions),
        )


def select(components: Iterable[Component], wanted: str) -> list[Component]:
    """The components with this id or display name; all of them for an empty one."""
    return [component for component in components if wanted in ("", component.component_id, component.display_name)]


def _cut(lines: deque[LogLine]) -> Iterable[Batch]:
    while lines:
        yield tuple(lines.popleft() for _ in range(min(_BATCH_LINES, len(lines))))
