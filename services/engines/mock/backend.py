"""What the mock engine has instead of containers: workloads in one state file, which outlive its process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec

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
from services.engines.records import write_atomically
from services.errors import NotFound
from services.identity import Ownership, hash_label

LOG_LINES_MAX = 10_000
"""Kept per workload; older ones go."""

_FIRST_LINES = 10
_BATCH = 500
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


@dataclass(slots=True, kw_only=True)
class _State:
    """The content of the state file."""

    serial: int = 0
    """Counts creations, so that a component made anew has a new id."""
    workloads: dict[str, MockWorkload] = field(default_factory=dict)


class MockBackend:
    """All workloads of all nodes that share the state file; `async with` reads it and ends its writer.

    A change is in the file when the method that makes it returns; changes made at the same time share one write.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._state = _State()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mock-backend")
        self._dirty = 0
        self._written = 0
        self._saving = asyncio.Lock()
        self._moved = asyncio.Condition()
        self._scripted = asyncio.Condition()

    async def __aenter__(self) -> Self:
        if self._path.exists():
            self._state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.shutdown()

    def of_node(self, node_id: str) -> Mapping[str, Observation]:
        """What this node has, by workload id."""
        return {
            workload_id: workload.observation()
            for workload_id, workload in self._state.workloads.items()
            if workload.ownership.node_id == node_id
        }

    def find(self, node_id: str, workload_id: str) -> MockWorkload | None:
        """One workload, if it is this node's."""
        workload = self._state.workloads.get(workload_id)
        return workload if workload is not None and workload.ownership.node_id == node_id else None

    async def create(self, ownership: Ownership, parts: Sequence[Part], ports: Sequence[PortMapping]) -> None:
        """Start components, each with its first lines of output."""
        now = self._clock()
        self._state.serial += 1
        components = [_start(ownership.workload_id, self._state.serial, part, now) for part in parts]
        workload = MockWorkload(
            ownership=Ownership(
                node_id=ownership.node_id,
                deployment_id=ownership.deployment_id,
                workload_id=ownership.workload_id,
                manifest_hash=hash_label(ownership.manifest_hash),
            ),
            components=components,
            ports=tuple(ports),
            create_time=now,
        )
        for component in components:
            name = f"{component.display_name}-{component.replica}"
            workload.write(component.component_id, [f"{name} line {n}" for n in range(1, _FIRST_LINES + 1)], now)
        self._state.workloads[ownership.workload_id] = workload
        await self._save()

    async def destroy(self, node_id: str, workload_id: str) -> None:
        """Delete it; a repeat is harmless."""
        if self.find(node_id, workload_id) is not None:
            del self._state.workloads[workload_id]
            await self._save()

    async def clear(self, node_id: str) -> None:
        """Delete everything of this node."""
        for workload_id in self.of_node(node_id):
            del self._state.workloads[workload_id]
        await self._save()

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
            del self._state.workloads[workload_id]
        else:
            _set_state(workload, state, exit_status)
            mains = [component for component in workload.components if component.role is Role.MAIN]
            if mains:
                workload.write(mains[0].component_id, lines, self._clock())
        await self._save()
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
        while query.follow and not self._is_over(workload):
            await self._news(workload, seen)
            fresh = [line for line in workload.lines if line.number > seen and wanted(line)]
            seen = workload.last_line
            for batch in _batches(fresh):
                yield batch

    async def _news(self, workload: MockWorkload, seen: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: workload.last_line > seen or self._is_over(workload))

    def _is_over(self, workload: MockWorkload) -> bool:
        """Whether no more output can come: all ended, or removed."""
        return not workload.alive or self._state.workloads.get(workload.ownership.workload_id) is not workload

    async def changes(self) -> AsyncIterator[None]:
        """Yield after every scripted change; what the engine itself changes it knows."""
        while True:
            async with self._scripted:
                await self._scripted.wait()
            yield

    async def _save(self) -> None:
        self._dirty += 1
        mine = self._dirty
        async with self._saving:
            if self._written < mine:
                covered, data = self._dirty, msgspec.json.encode(self._state)
                await asyncio.get_running_loop().run_in_executor(self._writer, write_atomically, self._path, data)
                self._written = covered
        async with self._moved:
            self._moved.notify_all()


def absent(workload_id: str) -> NotFound:
    """The backend has no such workload of this node."""
    return NotFound(
        f"workload {workload_id} is not on this engine",
        reason="WORKLOAD_NOT_FOUND",
        metadata={"workload_id": workload_id},
    )


def _start(workload_id: str, serial: int, part: Part, now: float) -> Component:
    origin = f"{workload_id}/{serial}/{part.name}/{part.replica}/{part.role.name}"
    done = part.role is Role.INIT
    return Component(
        component_id=hashlib.sha256(origin.encode()).hexdigest(),
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
    after = int(query.resume_cursor) if query.resume_cursor.isdecimal() else 0
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


def _batches(lines: Sequence[Line]) -> list[list[LogLine]]:
    converted = [
        LogLine(
            component_id=line.component_id,
            source=LogSource.STDOUT,
            time=line.time,
            text=line.text,
            cursor=str(line.number),
        )
        for line in lines
    ]
    return [converted[start : start + _BATCH] for start in range(0, len(converted), _BATCH)]
