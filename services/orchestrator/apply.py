"""Accepting what clients want: checked, refused with a reason, or durable and then carried out by `operations`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakValueDictionary

from services import identity, manifests
from services.errors import Aborted, FailedPrecondition, FieldViolation, InvalidArgument, NotFound, Unavailable
from services.manifests.reader import Reader
from services.orchestrator import flow, selection
from services.orchestrator import store as db
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.history import History
from services.orchestrator.ledger import Ledger
from services.orchestrator.model import Action, Change, Decision, Deployment, Failure, Plan, State, Step, Wish
from services.orchestrator.operations import Operations
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Engines
from services.orchestrator.requests import Accepted, ApplyRequest, name_of, read
from services.orchestrator.steps import choose

ABSENT = "absent"
"""The etag of what is not there."""

_SUPERSEDE_SECONDS = 10.0
"""An operation that has waited this long for its workload to settle gives way to a different apply."""


_ON_WHAT_RUNS = (Outcome.RESTART, Outcome.REPAIR)
_WELL = (State.ACTIVE, State.SUCCEEDED, State.ROLLED_BACK)


class Applier:
    """Accepts applies and deletions, one at a time for each deployment."""

    def __init__(
        self,
        *,
        book: Book,
        engines: Engines,
        outbox: Outbox,
        operations: Operations,
        ledger: Ledger,
        store: db.Store,
        history: History,
        reader: Reader,
        node_id: str,
        clock: Callable[[], float],
    ) -> None:
        """`clock`: seconds since 1970."""
        self._book = book
        self._engines = engines
        self._outbox = outbox
        self._operations = operations
        self._ledger = ledger
        self._store = store
        self._history = history
        self._reader = reader
        self._node_id = node_id
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def decide(self, request: ApplyRequest) -> Decision:
        """Which engine would be used and why, every eligible one asked. Touches nothing."""
        _, wish = await self._reader.read(request.manifest, lambda: read(request))
        return await choose(self._engines, wish, ask_all=True)

    async def apply(self, request: ApplyRequest) -> Accepted:
        """Accept: from here on the intent is durable and will be carried out, whatever becomes of the caller."""
        manifest, wish = await self._read(request)
        deployment_id = name_of(request, manifest)
        async with self._lock(deployment_id):
            repeated = self._repeated(request.request_id, deployment_id, wish.canonical_digest)
            if repeated is not None:
                return repeated
            existing = self._book.find(deployment_id)
            if request.etag and request.etag != _etag(existing):
                raise Aborted(
                    f"deployment {deployment_id!r} has changed since etag {request.etag!r} was read",
                    reason="STALE_ETAG",
                    metadata={"deployment_id": deployment_id},
                )
            if existing is not None:
                same = self._unchanged(existing, wish)
                if same is not None:
                    return same
                if (
                    existing.state is State.STOPPED
                    and _asks_the_same(existing.wish, wish)
                    and not request.validate_only
                ):
                    with self._ledger.promised(deployment_id, wish):
                        started = await self._record_control(existing, Outcome.START, None)
                    return Accepted(deployment=started, action=started.action)
            return await self._accept(request, deployment_id, wish, existing)

    async def _read(self, request: ApplyRequest) -> tuple[manifests.Manifest, Wish]:
        return await self._reader.read(request.manifest, lambda: read(request, name_required=True))

    async def roll_back(self, deployment_id: str, revision: int, *, request_id: str = "") -> Accepted:
        """Accept an earlier revision's wish as a new one; 0: the last one before this that was well.

        Raises NotFound (no such deployment or revision) and what `apply` raises.
        """
        async with self._lock(deployment_id):
            existing = self._book.get(deployment_id)
            repeated = self._repeated(request_id, deployment_id)
            if repeated is not None:
                return repeated
            wish = await asyncio.to_thread(self._earlier, existing, revision)
            request = ApplyRequest(manifest=wish.manifest, deployment_id=deployment_id, request_id=request_id)
            same = self._unchanged(existing, wish)
            return same if same is not None else await self._accept(request, deployment_id, wish, existing)

    def _earlier(self, existing: Deployment, revision: int) -> Wish:
        kept = self._store.revisions(existing.deployment_id)
        for item in kept:
            if item.revision == revision or (
                not revision and item.revision < existing.revision and item.outcome in _WELL
            ):
                return item.wish
        wanted = str(revision) if revision else "that was well before this one"
        raise NotFound(
            f"deployment {existing.deployment_id!r} has no revision {wanted}; kept: "
            + ", ".join(str(item.revision) for item in kept),
            reason="REVISION_NOT_FOUND",
            metadata={"deployment_id": existing.deployment_id},
        )

    async def plan(self, request: ApplyRequest) -> Plan:
        """What an apply of this would do; shares its checks and its choice, and touches nothing."""
        manifest, wish = await self._read(request)
        deployment_id = name_of(request, manifest)
        existing = self._book.find(deployment_id)
        if existing is not None and _is_so(existing, wish):
            return Plan(action=Action.NONE, decision=existing.decision, etag=existing.etag)
        with self._ledger.promised(deployment_id, wish):
            decision = await choose(self._engines, wish, current=_current(existing, wish), ask_all=True)
        selected = decision.selected
        if selected is None:
            raise selection.refusal(decision, wish)
        self._check_fence(existing, selected.engine_id)
        workload_id = identity.workload_id(node=self._node_id, deployment=deployment_id)
        made = await self._engines.plan(selected.engine_id, workload_id, wish)
        if existing is not None and set(existing.touched) - {selected.engine_id}:
            moved = Change(
                action=Action.REPLACE,
                target="engine",
                old_value=existing.engine_id,
                new_value=selected.engine_id,
                forces="replace",
            )
            made = replace(made, action=Action.REPLACE, changes=(moved, *made.changes))
        return replace(made, decision=decision, etag=_etag(existing), issues=selected.issues or made.issues)

    def _repeated(self, request_id: str, deployment_id: str, digest: str = "") -> Accepted | None:
        """The deployment that a request was accepted for, as it is now, if this one repeats it; `digest` "": of any.

        Raises InvalidArgument (the id was used for something else), Aborted (SUPERSEDED: another request came after).
        """
        used = self._book.request(request_id)
        if used is None:
            return None
        if used.deployment_id != deployment_id or digest not in ("", used.digest):
            raise InvalidArgument(
                f"request_id {request_id!r} was used for another apply, of deployment {used.deployment_id!r}",
                reason="REQUEST_ID_REUSED",
                violations=[FieldViolation(field_path="request_id", message="was used for another apply")],
            )
        existing = self._book.find(deployment_id)
        if existing is None or existing.request_id != request_id:
            raise Aborted(
                f"request {request_id!r} on deployment {deployment_id!r} was accepted, and another one came after it",
                reason="SUPERSEDED",
                metadata={"deployment_id": deployment_id},
            )
        self._operations.nudge(deployment_id)
        return Accepted(deployment=existing, action=Action.NONE)

    def _unchanged(self, existing: Deployment, wish: Wish) -> Accepted | None:
        """NONE, when this is what is (being) made of it already; raises Aborted when something else is under way."""
        same = _asks_the_same(existing.wish, wish)
        if existing.in_flight:
            if same and existing.step is not Step.REMOVE:
                self._operations.nudge(existing.deployment_id)
                return Accepted(deployment=existing, action=Action.NONE)
            if not self._may_supersede(existing):
                raise self._busy(existing)
            return None
        if _is_so(existing, wish):
            return Accepted(deployment=existing, action=Action.NONE)
        return None

    @staticmethod
    def _busy(record: Deployment) -> Aborted:
        return Aborted(
            f"another operation on deployment {record.deployment_id!r} is under way ({record.step.value}); wait for "
            "it, then retry",
            reason="OPERATION_IN_PROGRESS",
            metadata={"deployment_id": record.deployment_id, "step": record.step.value},
        )

    def _may_supersede(self, existing: Deployment) -> bool:
        if existing.step is Step.REMOVE:
            return False
        waited = self._clock() - existing.update_time
        long = not 0 <= waited <= _SUPERSEDE_SECONDS  # less than nothing: the wall clock was set back meanwhile
        return existing.retries > 0 or (existing.step is Step.SETTLE and long)

    async def _accept(
        self, request: ApplyRequest, deployment_id: str, wish: Wish, existing: Deployment | None
    ) -> Accepted:
        with self._ledger.promised(deployment_id, wish):
            decision = await choose(self._engines, wish, current=_current(existing, wish))
            if decision.selected is None:
                raise selection.refusal(decision, wish)
            self._check_fence(existing, decision.selected.engine_id)
            if request.validate_only:
                fresh = self._new_record(request, deployment_id, wish, existing)
                record = self._operations.chosen(fresh, decision).record
            else:
                record = await self._record_accepted(request, deployment_id, wish, decision)
            return Accepted(deployment=record, action=record.action, issues=decision.selected.issues)

    def _check_fence(self, existing: Deployment | None, chosen: str) -> None:
        """Moving needs the old engine's word that it holds nothing; if it cannot give it now, do not begin."""
        views = self._engines.views()
        for engine_id in existing.touched if existing is not None else ():
            view = views.get(engine_id)
            if engine_id != chosen and (view is None or not view.available):
                raise Unavailable(
                    f"engine {engine_id} holds this deployment and cannot be reached: it stays where it is; retry when "
                    f"{engine_id} is back",
                    reason="ENGINE_UNREACHABLE",
                    metadata={"engine": engine_id},
                    retry_after=5.0,
                )

    async def _record_accepted(
        self, request: ApplyRequest, deployment_id: str, wish: Wish, decision: Decision
    ) -> Deployment:
        await self._operations.interrupt(deployment_id)
        existing = self._book.find(deployment_id)  # as the interrupted operation left it
        used = db.Request(
            request_id=request.request_id, deployment_id=deployment_id, digest=wish.canonical_digest, time=self._clock()
        )
        try:
            result = self._operations.chosen(self._new_record(request, deployment_id, wish, existing), decision)
            record = flow.advance(result.record, result.outcome, now=self._clock())
            event = self._history.event(
                deployment_id,
                "APPLY_ACCEPTED",
                f"generation {record.generation}: {record.action.name} on {record.engine_id}",
                {"engine": record.engine_id, "action": record.action.name},
            )
            return await self._book.save(
                record, *db.put_revision(record), event=event, request=used if request.request_id else None
            )
        finally:
            self._operations.start(deployment_id)  # the new operation or, had it not been saved, the old one

    def _new_record(
        self, request: ApplyRequest, deployment_id: str, wish: Wish, existing: Deployment | None
    ) -> Deployment:
        now = self._clock()
        last = self._book.last(deployment_id)
        changed = last is None or last.wish.canonical_digest != wish.canonical_digest
        return Deployment(
            deployment_id=deployment_id,
            workload_id=identity.workload_id(node=self._node_id, deployment=deployment_id),
            wish=wish,
            state=State.PENDING,
            step=Step.SELECT,
            generation=(last.generation + 1) if last else 1,
            observed_generation=last.observed_generation if last else 0,
            revision=(last.revision + int(changed)) if last else 1,
            action=Action.REPLACE if existing is not None and existing.touched and changed else Action.CREATE,
            touched=existing.touched if existing is not None else (),
            volumes_on=last.volumes_on if last else (),
            rollback_to=_good(existing) if request.rollback_on_failure else None,
            request_id=request.request_id,
            owner=request.owner or (existing.owner if existing is not None else ""),
            create_time=existing.create_time if existing is not None else now,
            update_time=now,
        )

    async def control(self, deployment_id: str, outcome: Outcome, *, grace_seconds: float | None = None) -> Deployment:
        """Accept a stop, start, restart or repair (the outcome of that name): durable, then carried out.

        A stop of what is stopped and a start of what runs are done already. Raises NotFound, Aborted (another
        operation is under way), FailedPrecondition (nothing is deployed, or it is stopped), ResourceExhausted.
        """
        async with self._lock(deployment_id):
            record = self._book.get(deployment_id)
            if record.in_flight:
                raise self._busy(record)
            if _is_done(record, outcome):
                return record
            if not record.touched or (outcome in _ON_WHAT_RUNS and record.state is State.STOPPED):
                raise FailedPrecondition(
                    f"deployment {deployment_id!r} is {record.state.name}: there is nothing to {outcome.value.lower()}",
                    reason="NOT_RUNNING",
                    metadata={"deployment_id": deployment_id, "state": record.state.name},
                )
            with self._ledger.promised(deployment_id, record.wish):
                return await self._record_control(record, outcome, grace_seconds)

    async def _record_control(self, record: Deployment, outcome: Outcome, grace_seconds: float | None) -> Deployment:
        event = self._history.event(record.deployment_id, flow.TABLE[record.step, outcome].event)
        moved = flow.advance(record, outcome, now=self._clock())
        moved = replace(moved, generation=record.generation + 1, grace_seconds=grace_seconds)
        await self._book.save(moved, event=event)
        self._operations.start(record.deployment_id)
        return moved

    async def drift(self, deployment_id: str) -> tuple[Change, ...]:
        """What a repair would change: nothing when it runs as it should. Raises NotFound, Unavailable."""
        record = self._book.get(deployment_id)
        if record.engine_id not in record.touched or record.state is State.STOPPED:
            return ()
        seen = await self._engines.fetch(record.engine_id, record.workload_id)
        if seen is None:
            return (Change(action=Action.CREATE, target="workload", new_value=record.workload_id),)
        made = await self._engines.plan(record.engine_id, record.workload_id, record.wish)
        return () if made.action is Action.NONE else made.changes

    async def repair(self, deployment_id: str) -> Deployment:
        """Make it as it should be, when it is not; see `control`."""
        if not await self.drift(deployment_id):
            return self._book.get(deployment_id)
        return await self.control(deployment_id, Outcome.REPAIR)

    async def delete(
        self, deployment_id: str, *, etag: str = "", force: bool = False, remove_volumes: bool = False
    ) -> Deployment:
        """Accept a deletion: durable, and carried out whatever becomes of the caller. Raises NotFound, Aborted."""
        async with self._lock(deployment_id):
            record = self._book.get(deployment_id)
            if etag and etag != record.etag:
                raise Aborted(
                    f"deployment {deployment_id!r} has changed since etag {etag!r} was read", reason="STALE_ETAG"
                )
            if record.step is Step.REMOVE and record.force >= force and record.remove_volumes >= remove_volumes:
                self._operations.nudge(deployment_id)
                return record
            await self._operations.interrupt(deployment_id)
            try:
                return await self._record_deletion(deployment_id, force=force, remove_volumes=remove_volumes)
            finally:
                self._operations.start(deployment_id)  # the removal or, had it not been saved, what it was at

    async def _record_deletion(self, deployment_id: str, *, force: bool, remove_volumes: bool) -> Deployment:
        record = self._book.get(deployment_id)  # as the interrupted operation left it
        if record.step is not Step.REMOVE:
            record = flow.advance(record, Outcome.DELETE, now=self._clock())
        record = replace(record, force=force, remove_volumes=remove_volumes, action=Action.REMOVE, retries=0)
        event = self._history.event(deployment_id, flow.TABLE[Step.REST, Outcome.DELETE].event)
        await self._book.save(record, self._outbox.want(deployment_id, False), event=event)
        self._outbox.wanted_now(deployment_id, False)
        return record

    async def observe(self, deployment_id: str, outcome: Outcome, failure: Failure | None, message: str) -> None:
        """A workload was seen in another state; a deployment at rest follows it. Raises what the store does."""
        async with self._lock(deployment_id):
            record = self._book.find(deployment_id)
            if record is not None and record.step is Step.REST:
                await self._operations.follow(record, outcome, failure, message)

    def _lock(self, deployment_id: str) -> asyncio.Lock:
        """One accept at a time; a lock lives as long as somebody holds or awaits it."""
        return self._locks.setdefault(deployment_id, asyncio.Lock())


def _good(existing: Deployment | None) -> Wish | None:
    """What ran well until now."""
    return existing.wish if existing is not None and existing.state in _WELL else None


def _etag(existing: Deployment | None) -> str:
    """The etag that a plan carries: also "there is none" is something that an apply can rely on."""
    return existing.etag if existing is not None else ABSENT


def _is_done(record: Deployment, outcome: Outcome) -> bool:
    if outcome is Outcome.STOP:
        return record.state is State.STOPPED
    return outcome is Outcome.START and record.state in _WELL


def _is_so(existing: Deployment, wish: Wish) -> bool:
    """Whether the deployment is already as wished."""
    return existing.state in (State.ACTIVE, State.SUCCEEDED) and _asks_the_same(existing.wish, wish)


def _asks_the_same(one: Wish, other: Wish) -> bool:
    def asked(wish: Wish) -> tuple[object, ...]:
        return wish.canonical_digest, wish.engine_id, wish.policy, wish.warn

    return asked(one) == asked(other)


def _current(existing: Deployment | None, wish: Wish) -> str:
    """The engine that the choice sticks to: where it runs, unless the client now names an engine otherwise."""
    if existing is None or not existing.touched:
        return ""
    named = (wish.engine_id, wish.annotations.get(selection.ANNOTATION_ENGINE, ""))
    before = (existing.wish.engine_id, existing.wish.annotations.get(selection.ANNOTATION_ENGINE, ""))
    return existing.engine_id if named == before else ""
