"""The kept view of all workloads, for list and watch: UNKNOWN when the backend cannot be read, never gone by guess."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from services.engines.backend import Backend
from services.engines.conditions import Condition, ConditionFacts, judge
from services.engines.engine import Component, Observation, PortMapping, Role, WorkloadState
from services.engines.operations import Operations
from services.engines.records import Phase, Record, Records
from services.engines.state import Facts, derive
from services.errors import BeemeshError
from services.identity import hash_label
from services.rpc.watch import Feed
from services.telemetry import Log

log = Log(__name__)

_AT_ONCE = 64
"""Workloads that are taken over before others have their turn on the event loop."""

_COMING = frozenset({WorkloadState.PENDING, WorkloadState.STARTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One workload as callers see it."""

    workload_id: str
    uid: str = ""
    manifest_id: str
    state: WorkloadState
    state_message: str = ""
    components: tuple[Component, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The ownership labels of its backend objects."""
    manifest_digest: str = ""
    """The canonical digest of what was asked for; empty where no record is kept."""
    runtime_digest: str = ""
    """The canonical digest of what runs; where that is not what was asked for, the label's 16 hex digits."""
    missing: tuple[str, ...] = ()
    """The places of components that were made and are gone."""
    generation: int = 0
    reconciling: bool = False
    create_time: float | None = None
    update_time: float | None = field(default=None, compare=False)
    """When something in here last changed."""
    observe_time: float | None = field(default=None, compare=False)
    """When the backend was last read."""
    details: Mapping[str, object] = field(default_factory=dict)
    etag: str = ""
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """What was read of a workload, and what the view has made of it."""

    observation: Observation
    record: Record | None
    workload: Workload


def etag(record: Record) -> str:
    """Changes with what was asked for, not with what happens."""
    return hashlib.sha256(f"{record.generation}/{record.canonical_digest}".encode()).hexdigest()[:16]


def assemble(record: Record | None, observation: Observation | None, *, busy: bool, now: float) -> Workload:
    """A workload from its record and what the backend has of it; one of them must be there."""
    ownership = record.ownership if record else observation.ownership if observation else None
    if ownership is None:
        raise ValueError("neither a record nor an observation")
    if record is not None and record.phase is Phase.STOPPED:
        observation = _at_rest(observation)
    facts = Facts(
        observation=observation,
        phase=record.phase if record else Phase.DEPLOYED,
        busy=busy,
        scaled_to_zero=bool(record and record.scaled_to_zero),
        missing=record.missing(observation) if record and not busy else (),
    )
    state, message = derive(facts)
    created = record.create_time if record else observation.create_time if observation else None
    return Workload(
        workload_id=ownership.workload_id,
        uid=hashlib.sha256(f"{ownership.workload_id}/{created}".encode()).hexdigest()[:32],
        manifest_id=ownership.deployment_id,
        state=state,
        state_message=message,
        components=observation.components if observation else (),
        ports=observation.ports if observation else (),
        metadata=ownership.labels(),
        manifest_digest=record.canonical_digest if record else "",
        runtime_digest=_runtime_digest(record, observation),
        missing=facts.missing,
        generation=record.generation if record else 0,
        reconciling=busy or (record is not None and not record.phase.is_settled),
        create_time=created,
        update_time=now,
        observe_time=now,
        details=observation.details if observation else {},
        etag=etag(record) if record else "",
    )


def _runtime_digest(record: Record | None, observation: Observation | None) -> str:
    if observation is None:
        return ""
    label = hash_label(observation.ownership.manifest_hash)
    return record.canonical_digest if record and record.made_of(label) else label


def _at_rest(observation: Observation | None) -> Observation | None:
    """What was stopped on request did not fail, whatever its processes said in the end."""
    if observation is None:
        return None
    rested = (
        replace(c, state=WorkloadState.STOPPED, reason="", message="")
        if c.role is Role.MAIN and c.state in (WorkloadState.SUCCEEDED, WorkloadState.FAILED)
        else c
        for c in observation.components
    )
    return replace(observation, components=tuple(rested))


class View:
    """All workloads of this node on this engine; `epoch` names this run in resume tokens."""

    def __init__(
        self,
        *,
        backend: Backend,
        records: Records,
        operations: Operations,
        clock: Callable[[], float],
        epoch: str,
    ) -> None:
        self._backend = backend
        self._records = records
        self._operations = operations
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._newer: set[str] = set()
        """What was published since the reading under way began: that reading is older and must not overwrite it."""
        self._taken: dict[str, _Taken] = {}
        """What the last whole reading came to."""
        self.feed: Feed[Workload] = Feed(epoch=epoch)
        self.observed_at: float | None = None
        """When the backend was last read as a whole."""

    def _take_one(self, workload_id: str, observation: Observation) -> None:
        """Publish what was read, unless it is what was read the last time and nothing has happened to it since."""
        busy = self._operations.current(workload_id) is not None
        record, last = self._records.peek(workload_id), self._taken.get(workload_id)
        if last is not None and not busy:
            stands = last.record is record and last.workload is self.feed.get(workload_id)
            if stands and last.observation == observation:
                return
        self.publish(workload_id, observation, busy=busy)
        if (workload := self.feed.get(workload_id)) is not None and not busy:
            self._taken[workload_id] = _Taken(observation=observation, record=record, workload=workload)

    def publish(
        self,
        workload_id: str,
        observation: Observation | None,
        *,
        busy: bool,
        reason: str = "",
        into_feed: bool = True,
    ) -> Workload:
        """Take over what the backend was just seen to have of one workload, which is recorded or observed.

        `into_feed` False: an operation ran meanwhile, what was seen may be older than what the view has.
        """
        workload = assemble(self._records.peek(workload_id), observation, busy=busy, now=self._clock())
        workload = self._judged(self._still_told(workload))
        if not into_feed:
            return workload
        self._newer.add(workload_id)
        self.feed.put(workload_id, workload, reason=reason)
        return replace(self.feed.get(workload_id) or workload, observe_time=workload.observe_time)

    def _still_told(self, workload: Workload) -> Workload:
        """With what was told of its creation, while that goes on."""
        last = self.feed.get(workload.workload_id)
        if last is None or not all(each.reconciling and each.state in _COMING for each in (last, workload)):
            return workload
        return replace(workload, state_message=workload.state_message or last.state_message)

    def remove(self, workload_id: str, *, reason: str) -> None:
        """It is gone: watchers see it once more, as REMOVED."""
        self._newer.add(workload_id)
        last = self.feed.get(workload_id)
        if last is not None:
            self.feed.remove(workload_id, last=removed(last, now=self._clock()), reason=reason)

    def unknown(self, workload_id: str, why: str) -> Workload | None:
        """As it was last known, in state UNKNOWN; None if it never was."""
        last, record = self.feed.get(workload_id), self._records.peek(workload_id)
        if last is None and record is not None:
            last = replace(assemble(record, None, busy=False, now=self._clock()), observe_time=None)
        if last is None:
            return None
        return self._judged(replace(last, state=WorkloadState.UNKNOWN, state_message=why), silent=True)

    def _judged(self, workload: Workload, *, silent: bool = False) -> Workload:
        """With its conditions; what still holds holds since it began to."""
        last = self.feed.get(workload.workload_id)
        since = {condition.type: condition for condition in last.conditions} if last else {}
        facts = ConditionFacts(
            state=workload.state,
            message=workload.state_message,
            wanted_digest=workload.manifest_digest,
            runtime_digest=workload.runtime_digest,
            missing=workload.missing,
            changing=workload.reconciling,
            silent=silent,
        )
        conditions = judge(facts, since=since, generation=workload.generation, now=self._clock())
        return replace(workload, conditions=conditions)

    def items(self) -> list[Workload]:
        """All of them, with the time when the backend was last read, by the clock of now: it may have been set back."""
        now = self._clock()
        return [
            replace(item, observe_time=min(max(item.observe_time or 0.0, self.observed_at or 0.0), now) or None)
            for item in self.feed.items().values()
        ]

    def mark_unknown(self, why: str) -> None:
        """The backend does not answer: nothing is true any more, and nothing is gone."""
        known = {record.workload_id for record in self._records.all()} | set(self.feed.items())
        for workload_id in known:
            item = None if self._operations.current(workload_id) else self.unknown(workload_id, why)
            if item is not None:
                self.feed.put(workload_id, replace(item, update_time=self._clock()), reason="BACKEND_UNREACHABLE")

    def mark_one_unknown(self, workload_id: str, why: str) -> Workload:
        """The backend fell silent while this recorded workload was worked on."""
        workload = self.unknown(workload_id, why)
        if workload is None:
            raise ValueError(f"{workload_id} was never known")
        self._newer.add(workload_id)
        self.feed.put(workload_id, workload, reason="BACKEND_UNREACHABLE")
        return workload

    def mark_leaving(self, record: Record) -> Workload:
        """Its removal is under way: as it was last known, in state STOPPING."""
        self._newer.add(record.workload_id)
        last = self.feed.get(record.workload_id) or assemble(record, None, busy=True, now=self._clock())
        leaving = self._judged(replace(last, state=WorkloadState.STOPPING, state_message="", reconciling=True))
        self.feed.put(record.workload_id, replace(leaving, update_time=self._clock()), reason="REMOVING")
        return leaving

    def tell(self, workload_id: str, progress: str) -> None:
        """What the creation that is under way takes its time for; empty: nothing any more."""
        last = self.feed.get(workload_id)
        if last is not None and last.state in _COMING and self._operations.current(workload_id):
            self.feed.put(
                workload_id, replace(last, state_message=progress, update_time=self._clock()), reason="PROGRESS"
            )

    async def refresh(self) -> list[str]:
        """Read the whole backend; returns the recorded workloads that it no longer has (they are still in the view)."""
        async with self._one_at_a_time:
            self._newer.clear()
            try:
                found = await self._backend.observe()
            except BeemeshError as error:
                self.mark_unknown(error.message)
            except Exception as error:  # a defect of the engine must not end the view
                log.error("observe_failed", exc_info=error)
                self.mark_unknown("the engine failed to read its backend; its log says why")
            else:
                self.observed_at = self._clock()
                return await self._take(found)
            return []

    async def _take(self, found: Mapping[str, Observation]) -> list[str]:
        for count, (workload_id, observation) in enumerate(found.items(), 1):
            if workload_id not in self._newer:
                self._take_one(workload_id, observation)
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)  # there may be thousands, and callers wait
        newer = set(self._newer)
        self._taken = {workload_id: taken for workload_id, taken in self._taken.items() if workload_id in found}
        recorded = {record.workload_id: record for record in self._records.all()}
        gone = []
        for workload_id in (recorded.keys() | self.feed.items().keys()) - found.keys() - newer:
            if self._operations.current(workload_id):
                continue
            record = recorded.get(workload_id)
            if record is None:
                self.remove(workload_id, reason="GONE")
            elif record.should_be_there:
                gone.append(workload_id)
            else:
                self.publish(workload_id, None, busy=False)
        return gone


def removed(workload: Workload, *, now: float) -> Workload:
    """Its last state."""
    return replace(
        workload,
        state=WorkloadState.REMOVED,
        state_message="",
        reconciling=False,
        components=tuple(replace(c, state=WorkloadState.REMOVED) for c in workload.components),
        update_time=now,
    )
