"""Reads and follows the logs of a workload's containers, through restarts, without holding anything when nobody reads.

The log is read from the file that podman's monitor writes, where that can be read (docs/adr/0013-podman-logs.md says
why), else through the API. There podman is never asked for `tail`: before 4.7 each such call leaks a file descriptor in
the service until it can serve no more. The log is read from where it matters and cut here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.engines.background import background
from services.engines.engine import Component, LogLine, LogQuery
from services.engines.podman.api import Podman
from services.engines.podman.frames import Frames, Line, Position, known_position, read_cursor, write_cursor
from services.engines.podman.http import Refusal
from services.engines.podman.logfile import LogFile
from services.engines.streams import closed_after

_BATCH_LINES = 256
_QUEUED_BATCHES = 16
_REOPEN_SECONDS = 0.5
"""Between a stream's end and the look whether its container is coming back."""

_LOOK_SECONDS = 0.1
"""Between two looks into a file for more."""

_NEVER_RESTARTED = ("", "no", "never")
_FILES = ("k8s-file", "json-file")
"""To podman these are one."""

Batch = Sequence[LogLine]


class Logs:
    """One reader's view of the logs of `components`."""

    def __init__(
        self,
        *,
        podman: Podman,
        components: Sequence[Component],
        query: LogQuery,
        clock: Callable[[], float],
        local: bool = True,
        inspected: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`local`: log files may be read where they are; `inspected`: inspections that are known, by container."""
        self._podman = podman
        self._components = components
        self._query = query
        self._clock = clock
        self._local = local
        self._files: dict[str, LogFile] = {}
        self._inspected = dict(inspected or {})
        resumed = read_cursor(query.resume_cursor) if query.resume_cursor else {}
        self._resumed = {
            component.component_id: at
            for component in components
            if (at := known_position(resumed, component.component_id)) is not None
        }
        self._positions: dict[str, Position] = dict(self._resumed)
        self.comes_back: Callable[[str], bool] = lambda _: False
        """Whether a container that does not run is going to be started again."""

    async def batches(self) -> AsyncIterator[Batch]:
        """All that is there; then, if asked to follow, all that comes."""
        try:
            for component in self._components:
                async with closed_after(self._past(component.component_id)) as past:
                    async for batch in past:
                        yield batch
            if self._query.follow:
                async with closed_after(self._merged()) as merged:
                    async for batch in merged:
                        yield batch
        finally:
            for file in self._files.values():
                file.close()

    async def _past(self, container: str) -> AsyncIterator[Batch]:
        """What is in the log now, cut to what was asked for."""
        query, resumed = self._query, container in self._resumed
        wanted = None if resumed else query.tail_lines
        file = await self._open(container)
        if wanted == 0:
            if file is not None:
                file.go_to_tail(0)
            elif query.follow:
                await self._skip_to_now(container)
            return
        since = 0.0 if resumed else query.since_time or 0.0
        start = self._resumed.get(container, Position(int(since), 0))
        kept: deque[LogLine] = deque(maxlen=wanted)
        if file is not None:
            self._place(file, start if resumed else None, wanted)
        there = self._lines(container, start, follow=False) if file is None else self._written(container, file)
        async with closed_after(there) as lines:
            async for line in lines:
                if self._wanted(line, since):
                    kept.append(self._stamped(container, line))
                if wanted is None and len(kept) >= _BATCH_LINES:
                    yield tuple(kept)
                    kept.clear()
        for batch in _cut(kept):
            yield batch

    async def _open(self, container: str) -> LogFile | None:
        """The container's log as a file, or None where it must be asked for."""
        resumed = self._resumed.get(container)
        if not self._local or (resumed is not None and not resumed.generation):
            return None
        found = await self._inspection(container)
        path = log_path(found)
        if path is None:
            return None
        try:
            self._files[container] = LogFile(path, clock=time.monotonic, monitor=monitor_of(found))
        except OSError:  # podman runs elsewhere, as somebody else, or has not started it yet
            return None
        return self._files[container]

    async def _inspection(self, container: str) -> Mapping[str, Any]:
        """What is known of it; podman is asked once, as each inspection leaves it a descriptor for a while."""
        if container not in self._inspected:
            self._inspected[container] = await self._podman.inspect(container)
        return self._inspected[container]

    def _place(self, file: LogFile, resumed: Position | None, tail: int | None) -> None:
        if resumed is not None:
            file.resume(resumed)
        elif tail is not None and not self._query.sources:
            file.go_to_tail(tail)

    async def _written(self, container: str, file: LogFile) -> AsyncIterator[Line]:
        """What the file holds from here on, keeping the container's position up to date."""
        while records := file.read():
            for record in records:
                self._positions[container] = record.behind
                yield record.line
            await asyncio.sleep(0)  # a long file is not all that there is to do

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
        file = self._files.get(container)
        while True:
            start = self._positions.get(container, Position())
            run = self._lines(container, start, follow=True) if file is None else self._run(container, file)
            try:
                async with closed_after(run) as lines:
                    async for line in lines:
                        yield line
                if await self._is_over(container):
                    return
            except Refusal as refusal:
                if refusal.status != 404:
                    raise
                if file is not None:  # it was removed meanwhile; what it wrote last may not have been read yet
                    async with closed_after(self._written(container, file)) as last:
                        async for line in last:
                            yield line
                return

    async def _run(self, container: str, file: LogFile) -> AsyncIterator[Line]:
        """What one run of the container writes: to the end of its monitor, who writes it."""
        file.monitor = monitor_of(await self._inspection(container))
        runs = True
        while runs:
            runs = _alive(file.monitor)  # asked before the file is read for the last time
            async with closed_after(self._written(container, file)) as lines:
                async for line in lines:
                    yield line
            await asyncio.sleep(_LOOK_SECONDS)

    async def _is_over(self, container: str) -> bool:
        """Whether the container has ended and is not coming back."""
        found = self._inspected[container] = await self._podman.inspect(container)
        if found["State"].get("Status") in ("running", "paused", "stopping"):
            return False
        if self.comes_back(container):
            await asyncio.sleep(_REOPEN_SECONDS)
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
        """`since` is honoured to the second where the time is in whole ones: podman 4's API tells no finer."""
        old = line.time is not None and line.time < (int(since) if line.time.is_integer() else since)
        return not old and (not self._query.sources or line.source in self._query.sources)

    def _stamped(self, container: str, line: Line) -> LogLine:
        return LogLine(
            component_id=container,
            source=line.source,
            time=line.time,
            text=line.text,
            partial=line.partial,
            lossy=line.lossy,
            dropped_lines=int(line.after_loss),
            cursor=write_cursor(self._positions),
        )


def kept(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """What of an inspection, beside its State, must be at hand to read a log."""
    return {"HostConfig": {"LogConfig": (inspection.get("HostConfig") or {}).get("LogConfig") or {}}}


def log_path(found: Mapping[str, Any]) -> Path | None:
    """Where a container's monitor writes its log; None where it writes none that we can read."""
    config = (found.get("HostConfig") or {}).get("LogConfig") or {}
    return Path(config["Path"]) if config.get("Type") in _FILES and config.get("Path") else None


def monitor_of(found: Mapping[str, Any]) -> int:
    """The process that writes its log; 0 when there is none."""
    return int((found.get("State") or {}).get("ConmonPid") or 0)


def written(inspections: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Path, int]]:
    """The logs that are being written, each with the process that does it."""
    for found in inspections:
        path, monitor = log_path(found), monitor_of(found)
        if path is not None and monitor and (found.get("State") or {}).get("Status") == "running":
            yield path, monitor


def _alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def _cut(lines: deque[LogLine]) -> Iterable[Batch]:
    while lines:
        yield tuple(lines.popleft() for _ in range(min(_BATCH_LINES, len(lines))))
