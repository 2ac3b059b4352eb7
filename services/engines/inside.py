"""What goes on inside a workload: what it wrote, what it uses, a command in it, and itself as a manifest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services import manifests
from services.engines.admission import check_workload_id
from services.engines.backend import Backend, not_found
from services.engines.engine import (
    Capability,
    Component,
    ComponentStats,
    Engine,
    ExecOrder,
    ExecSession,
    ExitStatus,
    Export,
    Invocation,
    Invoked,
    LogLine,
    LogQuery,
    Role,
    Spec,
    WorkloadState,
)
from services.engines.operations import Operations, Verb
from services.engines.records import Record, Records
from services.engines.streams import closed_after
from services.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from services.manifests import Format
from services.manifests.reader import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """The last word of a log stream."""

    reason: str
    """EOF, WORKLOAD_EXITED or REMOVED."""
    exit_status: ExitStatus | None = None


class Inside:
    """Reads one engine's workloads; all raise NotFound, Unavailable, and Unimplemented for what the engine lacks."""

    def __init__(
        self, *, engine: Engine, backend: Backend, records: Records, operations: Operations, reader: Reader
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._backend = backend
        self._records = records
        self._operations = operations

    async def record(self, workload_id: str) -> Record:
        """What was asked for, manifest and config; raises NotFound (WORKLOAD_…, MANIFEST_NOT_KEPT), DataLoss."""
        check_workload_id(workload_id)
        record = self._records.get(workload_id)
        if record is None and await self._backend.observe_one(workload_id) is None:
            raise not_found(workload_id)
        if record is None or record.manifest is None:
            raise NotFound(
                f"workload {workload_id} runs, but how it was deployed is not recorded here",
                reason="MANIFEST_NOT_KEPT",
                metadata={"workload_id": workload_id},
            )
        return record

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """One sample of each component that runs."""
        self._admit(workload_id, "GetWorkloadStats", Capability.STATS)
        return await self._backend.stats(workload_id)

    async def invoke(self, workload_id: str, invocation: Invocation) -> Invoked:
        """See `Engine.invoke`."""
        self._admit(workload_id, "InvokeFunction", Capability.INVOKE)
        return await self._engine.invoke(workload_id, invocation)

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        """See `Engine.exec`."""
        self._admit(workload_id, "ExecWorkload", Capability.EXEC)
        self._backend.check_reachable()
        async with self._engine.exec(workload_id, order) as session:
            yield session

    async def export(self, workload_id: str, wanted: Format | None) -> tuple[Record, Export]:
        """The running state as a manifest; raises NotFound(MANIFEST_NOT_KEPT), InvalidArgument(UNSUPPORTED_FORMAT)."""
        self._admit(workload_id, "ExportManifest", Capability.EXPORT)
        record = await self.record(workload_id)
        if wanted is not None and wanted is not record.format:
            raise _other_format(record, wanted)
        observation = await self._backend.observe_one(workload_id)
        if observation is None and record.should_be_there:
            raise not_found(workload_id)
        text = record.manifest or ""
        manifest = await self._reader.read(text, lambda: manifests.parse(text))
        spec = Spec(ownership=record.ownership, manifest=manifest, config=record.config)
        return record, await self._backend.export(spec, observation)

    async def logs(
        self, workload_id: str, query: LogQuery, *, wait_start: bool = False
    ) -> AsyncIterator[Sequence[LogLine] | LogEnd]:
        """Batches of lines, then a LogEnd. Raises NotFound, Unavailable, FailedPrecondition(WORKLOAD_PENDING)."""
        self._admit(workload_id, "StreamWorkloadLogs", Capability.LOGS_FOLLOW if query.follow else Capability.LOGS)
        self._backend.check_reachable()
        running = self._operations.current(workload_id)
        if running and wait_start:
            await running.settled()
        try:
            async with closed_after(self._engine.logs(workload_id, query)) as lines:
                async for batch in lines:
                    yield batch
        except NotFound as error:
            if running and running.verb is Verb.DEPLOY and self._operations.current(workload_id) is running:
                raise _pending(workload_id) from error
            raise
        yield await self._log_end(workload_id) if query.follow else LogEnd(reason="EOF")

    async def _log_end(self, workload_id: str) -> LogEnd:
        running = self._operations.current(workload_id)
        if running and running.verb is Verb.REMOVE:
            return LogEnd(reason="REMOVED")
        observation = await self._backend.observe_one(workload_id)
        if observation is None:
            return LogEnd(reason="REMOVED")
        return LogEnd(reason="WORKLOAD_EXITED", exit_status=_last_exit(observation.components))

    def _admit(self, workload_id: str, verb: str, needed: Capability) -> None:
        check_workload_id(workload_id)
        if needed not in self._engine.info.capabilities:
            raise self._engine.lacks(verb)


def select(components: Iterable[Component], wanted: str) -> list[Component]:
    """The components with this id or display name; all of them for an empty one."""
    return [component for component in components if wanted in ("", component.component_id, component.display_name)]


def pick(workload_id: str, components: Sequence[Component], wanted: str) -> Component:
    """The component with this id or display name (of several replicas one that runs); empty: the only main one.

    Raises NotFound(COMPONENT_NOT_FOUND), InvalidArgument(COMPONENT_REQUIRED).
    """
    if wanted:
        found = [c for c in components if wanted in (c.component_id, c.display_name)]
    else:
        found = [c for c in components if c.role is Role.MAIN]
    names = sorted({c.display_name for c in (found if not wanted else components)})
    if wanted and not found:
        raise NotFound(
            f"workload {workload_id} has no component {wanted[:80]!r}; it has {', '.join(names)}",
            reason="COMPONENT_NOT_FOUND",
            metadata={"workload_id": workload_id, "component_id": wanted[:80]},
        )
    if not wanted and len(names) > 1:
        message = f"is required: the workload has {', '.join(names)}"
        raise InvalidArgument(
            f"component_id {message}",
            reason="COMPONENT_REQUIRED",
            violations=[FieldViolation(field_path="start.component_id", message=message)],
        )
    running = [c for c in found if c.state in _RUNS]
    if not running:
        raise not_running(workload_id, found[0].display_name if found else "")
    return running[0]


_RUNS = frozenset({WorkloadState.RUNNING, WorkloadState.STARTING, WorkloadState.DEGRADED})
"""With a process inside: one that is STARTING may only not be ready yet, one that is DEGRADED may be paused."""


def not_running(workload_id: str, component: str) -> FailedPrecondition:
    """There is no process to run a command beside."""
    what = f"component {component} of workload {workload_id}" if component else f"workload {workload_id}"
    return FailedPrecondition(
        f"{what} does not run; start it first",
        reason="WORKLOAD_NOT_RUNNING",
        metadata={"workload_id": workload_id, "component": component},
    )


def _other_format(record: Record, wanted: Format) -> InvalidArgument:
    known = record.format.name if record.format else "another format"
    message = f"workload {record.workload_id} was deployed as {known}; it cannot be written as {wanted.name}"
    return InvalidArgument(
        message, reason="UNSUPPORTED_FORMAT", violations=[FieldViolation(field_path="format", message=message)]
    )


def _pending(workload_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"workload {workload_id} has not started yet; set wait_start to wait for it",
        reason="WORKLOAD_PENDING",
        metadata={"workload_id": workload_id},
    )


def _last_exit(components: Sequence[Component]) -> ExitStatus | None:
    exits = [c.exit_status for c in components if c.role is Role.MAIN and c.exit_status is not None]
    return max(exits, key=lambda status: status.finish_time or 0.0, default=None)
