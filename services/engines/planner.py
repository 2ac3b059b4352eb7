"""What a deploy would do, and why: the one decision that plan and deploy share. It touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services import manifests
from services.engines.admission import Admitted
from services.engines.backend import Backend
from services.engines.decision import Decision, decide
from services.engines.diff import created, diff
from services.engines.engine import Capability, Change, ChangeAction, Engine, Issue, Observation, Spec
from services.engines.records import Phase, Record, Records
from services.engines.view import etag
from services.errors import Aborted, BeemeshError
from services.manifests import Manifest
from services.manifests.reader import Reader

REPLACES = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A decision, and what it was made from."""

    decision: Decision
    record: Record | None
    observation: Observation | None
    old: Spec | None
    """What was asked for before, where that matters; None also where nothing is recorded of it."""
    changes: tuple[Change, ...]
    """From the old content to the wanted one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a deploy would do."""

    action: ChangeAction
    changes: tuple[Change, ...]
    issues: tuple[Issue, ...]
    etag: str
    """Of the workload as it was looked at; empty where there is none."""


class Planner:
    """Looks at the record and the backend."""

    def __init__(self, *, engine: Engine, backend: Backend, records: Records, reader: Reader) -> None:
        self._engine = engine
        self._reader = reader
        self._backend = backend
        self._records = records

    async def plan(self, admitted: Admitted) -> Plan:
        """What a deploy that may replace would do; raises Unavailable, DataLoss."""
        planned = await self.decide(replace(admitted, order=replace(admitted.order, allow_replace=True)))
        return Plan(
            action=planned.decision.action,
            changes=self._named(admitted, planned),
            issues=admitted.issues,
            etag=etag(planned.record) if planned.record else "",
        )

    async def decide(self, admitted: Admitted) -> Planned:
        """The decision; raises AlreadyExists, Aborted(STALE_ETAG), Unavailable, DataLoss."""
        order = admitted.order
        record = self._records.get(order.workload_id)
        observation = await self._backend.observe_one(order.workload_id)
        is_retry = bool(record and order.request_id and record.request_id == order.request_id)
        if order.etag and not is_retry:
            check_etag(record, order.workload_id, order.etag)
        is_new = record is not None and record.canonical_digest != admitted.digest
        old, changes = None, tuple[Change, ...]()
        lost_some = bool(record and observation and record.missing(observation))
        if record and (is_new or lost_some or record.phase is Phase.UPDATING):
            text = max(record.manifest or "", order.text, key=len)
            old, changes = await self._reader.read(text, lambda: self._compared(record, admitted, is_new=is_new))
        decision = decide(
            workload_id=order.workload_id,
            record=record,
            observation=observation,
            digest=admitted.digest,
            scaled_to_zero=admitted.scaled_to_zero,
            allow_replace=order.allow_replace,
            in_place=old is not None and self._in_place(changes),
        )
        if decision.update and old is None:  # what was there cannot be read any more
            decision = replace(decision, action=ChangeAction.REPLACE, update=False, destroy=True)
        return Planned(decision=decision, record=record, observation=observation, old=old, changes=changes)

    def _compared(self, record: Record, admitted: Admitted, *, is_new: bool) -> tuple[Spec | None, tuple[Change, ...]]:
        old = _spec(record)
        return old, self._changes(old, admitted) if is_new else ()

    def _changes(self, old: Spec | None, admitted: Admitted) -> tuple[Change, ...]:
        if old is None:
            return ()
        found = diff(old.manifest, old.config, admitted.manifest, admitted.order.config)
        return tuple(self._judged(change, admitted.manifest) for change in found)

    def _judged(self, change: Change, manifest: Manifest) -> Change:
        forces = self._engine.effect(change, manifest) if self._can_update else REPLACES
        is_whole = change.action is not ChangeAction.UPDATE_IN_PLACE
        action = change.action if is_whole or forces != REPLACES else ChangeAction.REPLACE
        return replace(change, forces=forces, action=action)

    @property
    def _can_update(self) -> bool:
        return Capability.UPDATE_IN_PLACE in self._engine.info.capabilities

    def _in_place(self, changes: Sequence[Change]) -> bool:
        return self._can_update and all(change.forces != REPLACES for change in changes)

    def _named(self, admitted: Admitted, planned: Planned) -> tuple[Change, ...]:
        """The changes as a plan tells them."""
        action = planned.decision.action
        if action is ChangeAction.NONE:
            return ()
        if action is ChangeAction.CREATE:
            return tuple(created(admitted.manifest))
        if planned.changes:
            return planned.changes
        # Nothing is recorded of what runs, or an update of this very content was cut: nothing to compare.
        forces = "" if planned.decision.update else REPLACES
        return (Change(action=action, target=f"workload/{admitted.order.workload_id}", forces=forces),)


def check_etag(record: Record | None, workload_id: str, given: str) -> None:
    """Raise Aborted(STALE_ETAG) unless the record is still as it was read."""
    if record is None or etag(record) != given:
        raise Aborted(
            f"workload {workload_id} changed since etag {given[:40]!r} was read; read it again",
            reason="STALE_ETAG",
            metadata={"workload_id": workload_id},
        )


def _spec(record: Record) -> Spec | None:
    """What was asked for; None where its text is not kept, or is none by the rules of now."""
    if record.manifest is None:
        return None
    try:
        manifest = manifests.parse(record.manifest)
    except BeemeshError:
        return None
    return Spec(ownership=record.ownership, manifest=manifest, config=record.config)
