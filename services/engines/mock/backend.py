"""What the mock engine has instead of containers: workloads in files of their own, which outlive its process."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from services.data_dir.files import write_atomically
from services.engines.engine import (
    Component,
    ExitStatus,
    LogLine,
    LogQuery,
    LogSource,
    Observation,
    PortMapping,
    Role,
    WorkloadState,
)
from services.errors import DataLoss, InvalidArgument, NotFound
from services.identity import Ownership, hash_label

LOG_LINES_MAX = 10_000
"""Kept per workload; older ones go."""

_FIRST_LINES = 10
_BATCH = 500
_CURSOR = re.compile(r"[0-9]{1,18}")
_ALIVE = frozenset({WorkloadState.PENDING, WorkloadState.STARTING, WorkloadState.RUNNING, WorkloadState.STOPPING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One component that a manifest asks for."""

    name: str
    image: str
    replica: int = 0
    role: Role = Role.MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of output."""

    number: int
    """From 1, over all components of the workload; the cursor."""
    component_id: str
    time: float
    text: str


@dataclass(slots=True, kw_only=True)
class MockWorkload:
    """One workload as the backend has it."""

    ownership: Ownership
    components: list[Component]
    ports: tuple[PortMapping, ...] = ()
    create_time: float
    stopped_on_request: bool = False
    lines: list[Line] = field(default_factory=list)
    last_line: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Its node and its id."""
        return self.ownership.node_id, self.ownership.workload_id

    @property
    def alive(self) -> bool:
        """Whether more output may come."""
        return any(component.state in _ALIVE for component in self.components)

    def observation(self) -> Observation:
        """As an engine sees it."""
        return Observation(
            ownership=self.ownership,
            components=tuple(self.components),
            ports=self.ports,
            create_time=self.create_time,
            stopped_on_request=self.stopped_on_request,
            details={"log_lines": self.last_line},
        )

    def write(self, component_id: str, texts: Sequence[str], now: float) -> None:
        """Append output; each line a millisecond after the one before."""
        for offset, text in enumerate(texts):
            self.last_line += 1
            self.lines.append(
                Line(number=self.last_line, component_id=component_id, time=now + offset / 1000, text=text)
            )
        del self.lines[:-LOG_LINES_MAX]


class MockBackend:
    """All workloads of all nodes that share a directory, one file each.

    Like containers, they survive the end of this process, however it ends; unlike the engine's records they need not
    survive the machine's, so nothing waits for the disk.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._loaded = False
        self._workloads: dict[tuple[str, str], MockWorkload] = {}
        """By node id and workload id."""
        self.commands: list[tuple[str, tuple[str, ...]]] = []
        """The commands that run inside components: component id, words."""
        self._moved = asyncio.Condition()
        self._scripted = asyncio.Condition()

    def load(self) -> None:
        """Read what is there, once; raises DataLoss(STATE_UNREADABLE) naming a file that cannot be read."""
        if self._loaded:
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for path in self._directory.glob("*.json"):
            try:
                workload = msgspec.json.decode(path.read_bytes(), type=MockWorkload)
            except ValueError as error:
                raise DataLoss(f"{path} cannot be read: {error}", reason="STATE_UNREADABLE") from error
            self._workloads[workload.key] = workload
        self._loaded = True

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    @contextmanager
    def running(self, component_id: str, command: tuple[str, ...]) -> Iterator[None]:
        """A command runs inside a component until the block is left."""
        self.commands.append((component_id, command))
        try:
            yield
        finally:
            self.commands.remove((component_id, command))

    def of_node(self, node_id: str) -> Mapping[str, Observation]:
        """What this node has, by workload id."""
        return {
            workload_id: workload.observation()
            for (owner, workload_id), workload in self._workloads.items()
            if owner == node_id
        }

    def find(self, node_id: str, workload_id: str) -> MockWorkload | None:
        """One workload of this node."""
        return self._workloads.get((node_id, workload_id))

    async def create(self, ownership: Ownership, parts: Sequence[Part], ports: Sequence[PortMapping]) -> None:
        """Start components, each with its first lines of output."""
        now = self._clock()
        workload = MockWorkload(
            ownership=replace(ownership, manifest_hash=hash_label(ownership.manifest_hash)),
            components=[_start(part, now) for part in parts],
            ports=tuple(ports),
            create_time=now,
        )
        for component in workload.components:
            name = f"{component.display_name}-{component.replica}"
            workload.write(component.component_id, [f"{name} line {n}" for n in range(1, _FIRST_LINES + 1)], now)
        self._workloads[workload.key] = workload
        await self._save(workload)

    async def update(self, ownership: Ownership, parts: Sequence[Part], ports: Sequence[PortMapping]) -> None:
        """Keep the components that are wanted still, start what is missing, drop the rest; raises NotFound."""
        workload = self._workloads.get((ownership.node_id, ownership.workload_id))
        if workload is None:
            await self.create(ownership, parts, ports)
            return
        now, kept = self._clock(), {_place(component): component for component in workload.components}
        workload.ownership = replace(ownership, manifest_hash=hash_label(ownership.manifest_hash))
        workload.components = [kept.get((part.replica, part.role, part.name)) or _start(part, now) for part in parts]
        workload.ports = tuple(ports)
        await self._save(workload)

    async def stop(self, node_id: str, workload_id: str) -> None:
        """End all components; raises NotFound."""
        ended = ExitStatus(exit_code=0, signal="SIGTERM", finish_time=self._clock())
        await self._power(node_id, workload_id, WorkloadState.STOPPED, ended)

    async def start(self, node_id: str, workload_id: str) -> None:
        """Run the main components that do not run; raises NotFound."""
        await self._power(node_id, workload_id, WorkloadState.RUNNING, None)

    async def _power(self, node_id: str, workload_id: str, state: WorkloadState, ended: ExitStatus | None) -> None:
        workload = self.find(node_id, workload_id)
        if workload is None:
            raise absent(workload_id)
        workload.stopped_on_request = state is WorkloadState.STOPPED
        now = self._clock()
        workload.components = [
            (replace(c, state=state, exit_status=ended) if ended else replace(c, state=state, start_time=now))
            if c.role is Role.MAIN and (c.state in _ALIVE) is (ended is not None)
            else c
            for c in workload.components
        ]
        await self._save(workload)

    async def destroy(self, node_id: str, workload_id: str) -> None:
        """Delete it; a repeat is harmless."""
        workload = self._workloads.pop((node_id, workload_id), None)
        if workload is not None:
            await self._save(workload)

    async def script(
        self,
        node_id: str,
        workload_id: str,
        *,
        state: WorkloadState | None,
        exit_status: ExitStatus | None,
        lines: Sequence[str],
    ) -> None:
        """Set the state and exit of all main components and append lines to the first; REMOVED: they vanish.

        Raises NotFound.
        """
        workload = self.find(node_id, workload_id)
        if workload is None:
            raise absent(workload_id)
        if state is WorkloadState.REMOVED:
            del self._workloads[workload.key]
        else:
            _set_state(workload, state, exit_status)
            mains = [component for component in workload.components if component.role is Role.MAIN]
            if mains:
                workload.write(mains[0].component_id, lines, self._clock())
        await self._save(workload)
        async with self._scripted:
            self._scripted.notify_all()

    async def read_logs(self, node_id: str, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """Batches of lines; with `follow` until all components ended or are gone. Raises NotFound."""
        workload = self.find(node_id, workload_id)
        if workload is None:
            raise absent(workload_id)
        wanted, seen = _selector(workload, query), workload.last_line
        for batch in _batches(_select(workload.lines, wanted, query)):
            yield batch
        over = not query.follow
        while not over:
            await self._news(workload, seen)
            over = self._is_over(workload)
            fresh = [line for line in workload.lines if line.number > seen and wanted(line)]
            dropped = workload.lines[0].number - seen - 1 if workload.lines else 0
            seen = workload.last_line
            for batch in _batches(fresh, dropped=max(0, dropped)):
                yield batch

    async def _news(self, workload: MockWorkload, seen: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: workload.last_line > seen or self._is_over(workload))

    def _is_over(self, workload: MockWorkload) -> bool:
        """Whether no more output can come: all ended, or removed."""
        return not workload.alive or self._workloads.get(workload.key) is not workload

    async def changes(self) -> AsyncIterator[None]:
        """Yield after every scripted change; what the engine itself changes it knows."""
        while True:
            async with self._scripted:
                await self._scripted.wait()
            yield

    async def _save(self, workload: MockWorkload) -> None:
        self._store(workload)
        async with self._moved:
            self._moved.notify_all()

    def _store(self, workload: MockWorkload) -> None:
        path = self._directory / f"{'.'.join(workload.key)}.json"
        if workload.key in self._workloads:
            write_atomically(path, msgspec.json.encode(workload), durable=False)
        else:
            path.unlink(missing_ok=True)


def _place(component: Component) -> tuple[int, Role, str]:
    return component.replica, component.role, component.display_name


def absent(workload_id: str) -> NotFound:
    """The backend has no such workload of this node."""
    return NotFound(
        f"workload {workload_id} is not on this engine",
        reason="WORKLOAD_NOT_FOUND",
        metadata={"workload_id": workload_id},
    )


def _start(part: Part, now: float) -> Component:
    done = part.role is Role.INIT
    return Component(
        component_id=secrets.token_hex(32),
        display_name=part.name,
        image=part.image,
        state=WorkloadState.SUCCEEDED if done else WorkloadState.RUNNING,
        start_time=now,
        exit_status=ExitStatus(exit_code=0, finish_time=now) if done else None,
        replica=part.replica,
        role=part.role,
    )


def _set_state(workload: MockWorkload, state: WorkloadState | None, exit_status: ExitStatus | None) -> None:
    if state is None and exit_status is not None:
        state = WorkloadState.FAILED if exit_status.exit_code else WorkloadState.SUCCEEDED
    if state is None:
        return
    workload.stopped_on_request = state is WorkloadState.STOPPED
    workload.components = [
        component if component.role is Role.INIT else replace(component, state=state, exit_status=exit_status)
        for component in workload.components
    ]


def _selector(workload: MockWorkload, query: LogQuery) -> Callable[[Line], bool]:
    """Which lines a query is about; raises NotFound when it names a component that is not there."""
    named = {
        component.component_id
        for component in workload.components
        if query.component_id in ("", component.component_id, component.display_name)
    }
    if query.component_id and not named:
        raise NotFound(
            f"workload {workload.ownership.workload_id} has no component {query.component_id!r}",
            reason="COMPONENT_NOT_FOUND",
            metadata={"workload_id": workload.ownership.workload_id, "component_id": query.component_id},
        )
    silent = bool(query.sources) and LogSource.STDOUT not in query.sources
    since = query.since_time or 0.0
    return lambda line: not silent and line.component_id in named and line.time >= since


def _select(lines: Sequence[Line], wanted: Callable[[Line], bool], query: LogQuery) -> list[Line]:
    after = _after(query.resume_cursor)
    found = [line for line in lines if line.number > after and wanted(line)]
    if query.tail_lines is None:
        return found
    kept: dict[str, int] = {}
    tail = []
    for line in reversed(found):
        kept[line.component_id] = kept.get(line.component_id, 0) + 1
        if kept[line.component_id] <= query.tail_lines:
            tail.append(line)
    return tail[::-1]


def _after(cursor: str) -> int:
    """The number of the line that a cursor stands for, 0 for none; raises InvalidArgument."""
    if not cursor:
        return 0
    if not _CURSOR.fullmatch(cursor):
        raise InvalidArgument("resume_cursor is not a cursor of this engine", reason="BAD_CURSOR")
    return int(cursor)


def _batches(lines: Sequence[Line], *, dropped: int = 0) -> list[list[LogLine]]:
    """The lines in batches; `dropped`: so many before the first were not kept for a reader that was slow."""
    converted = [
        LogLine(
            component_id=line.component_id,
            source=LogSource.STDOUT,
            time=line.time,
            text=line.text,
            cursor=str(line.number),
            dropped_lines=0 if number else dropped,
        )
        for number, line in enumerate(lines)
    ]
    return [converted[start : start + _BATCH] for start in range(0, len(converted), _BATCH)]
