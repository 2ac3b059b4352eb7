"""Accepting what clients want, and carrying operations through the flow's table, over crashes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from services import identity, manifests
from services.errors import Aborted, BeemeshError, FieldViolation, InvalidArgument, NotFound, Unavailable
from services.manifests.resources import requested
from services.orchestrator import flow, ledger, selection
from services.orchestrator import store as db
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.model import (
    Action,
    Config,
    Decision,
    Deployment,
    Failure,
    Issue,
    Policy,
    State,
    Step,
    Wish,
)
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Engines
from services.orchestrator.steps import Steps, choose
from services.telemetry import Log

log = Log(__name__)

_STORE_RETRY_SECONDS = 1.0
_DEFECT_RETRY_SECONDS = 10.0
_SUPERSEDE_SECONDS = 10.0
"""An operation that has waited this long for its workload to settle gives way to a different apply."""

_FORMATS = {"KUBERNETES": 1, "COMPOSE": 2, "VIRTUAL_MACHINE": 3, "FUNCTION": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyRequest:
    """What a client asks for."""

    manifest: str
    deployment_id: str = ""
    config: Config = field(default_factory=Config)
    engine_id: str = ""
    policy: Policy | None = None
    warn: bool = False
    validate_only: bool = False
    etag: str = ""
    request_id: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The record once the request is durable (or, with validate_only, as it would be)."""

    deployment: Deployment
    action: Action
    issues: tuple[Issue, ...] = ()


def read(request: ApplyRequest) -> tuple[manifests.Manifest, Wish]:
    """The documents and the wish that a request states; raises InvalidArgument with paths and lines."""
    manifest = manifests.parse(request.manifest)
    asked = requested(manifest, replicas=request.config.replicas)
    config = request.config
    wish = Wish(
        manifest=request.manifest,
        format=_FORMATS[manifest.format.name],
        kinds=tuple(manifest.kinds),
        canonical_digest=identity.canonical_digest(manifest.canonical_digest, counted(config)),
        config=config,
        annotations=dict(manifest.annotations),
        engine_id=request.engine_id,
        policy=selection.policy_of(
            request.policy, engine_named=bool(request.engine_id), annotations=manifest.annotations
        ),
        warn=request.warn,
        cpu_cores=asked.cpu_cores if config.cpu_cores is None else config.cpu_cores,
        memory_bytes=asked.memory_bytes if config.memory_bytes is None else config.memory_bytes,
    )
    return manifest, wish


def name_of(request: ApplyRequest, manifest: manifests.Manifest) -> str:
    """The deployment id that a request means: its own, or the one its manifest stands for."""
    return (
        identity.check_deployment_id(request.deployment_id)
        if request.deployment_id
        else (
            identity.default_deployment_id(kind=manifest.primary.kind, namespace=manifest.namespace, name=manifest.name)
        )
    )


def counted(config: Config) -> dict[str, object]:
    """The part of a config that decides whether anything changed, JSON-shaped."""
    return {
        "replicas": config.replicas,
        "cpu_cores": config.cpu_cores,
        "memory_bytes": config.memory_bytes,
        "storage_bytes": config.storage_bytes,
        "env": dict(config.env),
        "engine_options": dict(config.engine_options),
        "labels": dict(config.labels),
    }


class Applier:
    """Owns every running operation; `async with` it inside the process's task group."""

    def __init__(
        self,
        *,
        book: Book,
        engines: Engines,
        outbox: Outbox,
        node_id: str,
        capacity: ledger.Room,
        clock: Callable[[], float],
        tasks: asyncio.TaskGroup,
    ) -> None:
        """`capacity`: the node's allocatable room; `clock`: seconds since 1970; `tasks` outlives every operation."""
        self._book = book
        self._engines = engines
        self._outbox = outbox
        self._node_id = node_id
        self._capacity = capacity
        self._clock = clock
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._accepting: dict[str, Wish] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._steps = Steps(engines=engines, book=book, outbox=outbox, keep=self._keep, clock=clock)

    def resume(self) -> None:
        """Go on with every operation that a crash or a stop interrupted."""
        for record in self._book.all():
            if record.in_flight:
                self._start(record.deployment_id)

    async def decide(self, wish: Wish) -> Decision:
        """Which engine would be used and why, every eligible one asked. Touches nothing."""
        return await choose(self._engines, wish, ask_all=True)

    async def apply(self, request: ApplyRequest) -> Accepted:
        """Accept: from here on the intent is durable and will be carried out, whatever becomes of the caller."""
        manifest, wish = read(request)
        deployment_id = name_of(request, manifest)
        async with self._lock(deployment_id):
            self._check_request_id(request, deployment_id, wish)
            existing = self._book.find(deployment_id)
            if request.etag and request.etag != (existing.etag if existing else ""):
                raise Aborted(
                    f"deployment {deployment_id!r} has changed since etag {request.etag!r} was read",
                    reason="STALE_ETAG",
                    metadata={"deployment_id": deployment_id},
                )
            if existing is not None:
                same = self._unchanged(existing, wish)
                if same is not None:
                    return same
            return await self._accept(request, deployment_id, wish, existing)

    def _check_request_id(self, request: ApplyRequest, deployment_id: str, wish: Wish) -> None:
        used = self._book.request(request.request_id)
        if used is not None and (used.deployment_id, used.digest) != (deployment_id, wish.canonical_digest):
            raise InvalidArgument(
                f"request_id {request.request_id!r} was used for another apply, of deployment {used.deployment_id!r}",
                reason="REQUEST_ID_REUSED",
                violations=[FieldViolation(field_path="request_id", message="was used for another apply")],
            )

    def _unchanged(self, existing: Deployment, wish: Wish) -> Accepted | None:
        """NONE, when this is what is (being) made of it already; raises Aborted when something else is under way."""
        same = existing.wish.canonical_digest == wish.canonical_digest and _asks_the_same(existing.wish, wish)
        if existing.in_flight:
            if same and existing.step is not Step.REMOVE:
                self._nudge(existing.deployment_id)
                return Accepted(deployment=existing, action=Action.NONE)
            if not self._may_supersede(existing):
                raise Aborted(
                    f"another operation on deployment {existing.deployment_id!r} is under way ({existing.step.value}); "
                    "wait for it, then retry",
                    reason="OPERATION_IN_PROGRESS",
                    metadata={"deployment_id": existing.deployment_id, "step": existing.step.value},
                )
            return None
        if same and existing.state in (State.ACTIVE, State.SUCCEEDED):
            return Accepted(deployment=existing, action=Action.NONE)
        return None

    def _may_supersede(self, existing: Deployment) -> bool:
        if existing.step is Step.REMOVE:
            return False
        waited = self._clock() - existing.update_time
        return existing.retries > 0 or (existing.step is Step.SETTLE and waited > _SUPERSEDE_SECONDS)

    async def _accept(
        self, request: ApplyRequest, deployment_id: str, wish: Wish, existing: Deployment | None
    ) -> Accepted:
        self._check_room(deployment_id, wish)
        self._accepting[deployment_id] = wish
        try:
            decision = await choose(self._engines, wish, current=_current(existing, wish))
            if decision.selected is None:
                raise selection.refusal(decision, wish)
            self._check_fence(existing, decision.selected.engine_id)
            if request.validate_only:
                record = self._steps.chosen(self._new_record(request, deployment_id, wish, existing), decision).record
            else:
                record = await self._record_accepted(request, deployment_id, wish, decision)
            return Accepted(deployment=record, action=record.action, issues=decision.selected.issues)
        finally:
            del self._accepting[deployment_id]

    def _check_room(self, deployment_id: str, wish: Wish) -> None:
        """What others hold counts, and what others were promised a moment ago; from here it is held for this one."""
        held = [r.wish for r in self._book.all() if r.deployment_id != deployment_id and ledger.counts(r)]
        left = ledger.free(self._capacity, [*held, *self._accepting.values()])
        ledger.check(ledger.Room(cpu_cores=wish.cpu_cores, memory_bytes=wish.memory_bytes), left)

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
        await self._interrupt(deployment_id)
        existing = self._book.find(deployment_id)  # as the interrupted operation left it
        used = db.Request(
            request_id=request.request_id, deployment_id=deployment_id, digest=wish.canonical_digest, time=self._clock()
        )
        try:
            result = self._steps.chosen(self._new_record(request, deployment_id, wish, existing), decision)
            record = flow.advance(result.record, result.outcome, now=self._clock())
            return await self._book.save(record, request=used if request.request_id else None)
        finally:
            self._start(deployment_id)  # the new operation or, had it not been saved, the old one

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
            request_id=request.request_id,
            owner=request.owner or (existing.owner if existing is not None else ""),
            create_time=existing.create_time if existing is not None else now,
            update_time=now,
        )

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
                self._nudge(deployment_id)
                return record
            await self._interrupt(deployment_id)
            record = self._book.get(deployment_id)  # the interrupted operation may have moved it
            if record.step is not Step.REMOVE:
                record = flow.advance(record, Outcome.DELETE, now=self._clock())
            record = replace(record, force=force, remove_volumes=remove_volumes, action=Action.REMOVE, retries=0)
            await self._book.save(record, self._outbox.want(deployment_id, False))
            self._outbox.wanted_now(deployment_id, False)
            self._start(deployment_id)
            return record

    async def settled(self, deployment_id: str, generation: int, timeout: float) -> Deployment:
        """The record once its operation rests, is gone or waits for a backend, or as it is after `timeout` seconds.

        Raises NotFound when there is no such deployment; a superseded generation counts as over.
        """

        def over(record: Deployment | None) -> bool:
            return record is None or record.generation != generation or not record.in_flight or record.retries > 0

        feed = self._book.feed.watch(match=lambda item: item.deployment_id == deployment_id)
        with contextlib.suppress(TimeoutError):
            async with contextlib.aclosing(feed), asyncio.timeout(timeout):
                if not over(self._book.last(deployment_id)):
                    async for event in feed:
                        if event.item is not None and over(event.item):
                            break
        record = self._book.last(deployment_id)
        if record is None:
            raise NotFound(f"there is no deployment {deployment_id!r} on this node", reason="DEPLOYMENT_NOT_FOUND")
        return record

    def interrupt_all(self) -> None:
        """Stop driving operations; the next start resumes each from its step."""
        for task in self._running.values():
            task.cancel()

    def _start(self, deployment_id: str) -> None:
        self._nudges[deployment_id] = asyncio.Event()
        self._running[deployment_id] = self._tasks.create_task(self._operate(deployment_id), name=f"op:{deployment_id}")

    def _nudge(self, deployment_id: str) -> None:
        """Do not wait for the back-off's end."""
        if (event := self._nudges.get(deployment_id)) is not None:
            event.set()

    async def _interrupt(self, deployment_id: str) -> None:
        """Stop driving the operation; what its engine has begun there it finishes, and `touched` remembers it."""
        task = self._running.pop(deployment_id, None)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _operate(self, deployment_id: str) -> None:
        """Step by step to rest; each step's outcome is durable before the next begins."""
        try:
            while (record := self._book.find(deployment_id)) is not None and record.in_flight:
                await self._pause(record)
                try:
                    result = await self._steps.perform(record)
                except Exception as error:  # a defect must not take every other operation down with it
                    log.error("step_broke", exc_info=error, deployment_id=deployment_id, step=record.step.value)
                    await asyncio.sleep(_DEFECT_RETRY_SECONDS)
                    continue
                record = flow.advance(result.record, result.outcome, now=self._clock(), failure=result.failure)
                await self._keep_with_announcement(record)
                log.info(
                    "step",
                    deployment_id=deployment_id,
                    outcome=result.outcome.value,
                    step=record.step.value,
                    state=record.state.name,
                    engine=record.engine_id or "-",
                )
        finally:
            if self._running.get(deployment_id) is asyncio.current_task():
                self._running.pop(deployment_id, None)
                self._nudges.pop(deployment_id, None)

    async def _pause(self, record: Deployment) -> None:
        if not record.retries:
            return
        nudge = self._nudges.setdefault(record.deployment_id, asyncio.Event())
        nudge.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(flow.backoff(record.retries)):
                await nudge.wait()

    async def _keep_with_announcement(self, record: Deployment) -> None:
        """A record at rest carries its announcement with it, in one transaction."""
        wanted = record.state is State.ACTIVE
        if record.step is not Step.REST or wanted == self._outbox.wants(record.deployment_id):
            await self._keep(record)
            if record.step is Step.REST:
                self._outbox.refresh()
            return
        await self._keep(record, self._outbox.want(record.deployment_id, wanted))
        self._outbox.wanted_now(record.deployment_id, wanted)

    async def _keep(self, record: Deployment, *more: db.Statement) -> Deployment:
        """Save; a full disk is waited out, for the step has been taken and must not be forgotten."""
        while True:
            try:
                return await self._book.save(record, *more)
            except BeemeshError as error:
                log.error("record_not_saved", deployment_id=record.deployment_id, error=repr(error))
                await asyncio.sleep(_STORE_RETRY_SECONDS)

    async def observe(self, deployment_id: str, outcome: Outcome, failure: Failure | None, message: str) -> None:
        """A deployment at rest was seen otherwise than recorded: the record follows, and its announcement with it."""
        async with self._lock(deployment_id):
            record = self._book.find(deployment_id)
            if record is None or record.step is not Step.REST or (record.step, outcome) not in flow.TABLE:
                return
            moved = flow.advance(record, outcome, now=self._clock(), failure=failure)
            if moved.state is not record.state:
                await self._keep_with_announcement(replace(moved, message=message))

    def _lock(self, deployment_id: str) -> asyncio.Lock:
        """One accept at a time; a lock lives as long as somebody holds or awaits it."""
        return self._locks.setdefault(deployment_id, asyncio.Lock())


def _asks_the_same(one: Wish, other: Wish) -> bool:
    return (one.engine_id, one.policy, one.warn) == (other.engine_id, other.policy, other.warn)


def _current(existing: Deployment | None, wish: Wish) -> str:
    """The engine that the choice sticks to: where it runs, unless the client now names an engine otherwise."""
    if existing is None or not existing.touched:
        return ""
    named = (wish.engine_id, wish.annotations.get(selection.ANNOTATION_ENGINE, ""))
    before = (existing.wish.engine_id, existing.wish.annotations.get(selection.ANNOTATION_ENGINE, ""))
    return existing.engine_id if named == before else ""
