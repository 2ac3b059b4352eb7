"""What changes workloads: deploy and remove, durable before the backend is touched, and healed when they were cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.engines.admission import Admitted, DeployOrder, admit, check_workload_id
from services.engines.backend import Backend, not_found
from services.engines.engine import ChangeAction, Engine, Issue, Observation, Spec
from services.engines.operations import Operation, Operations, Verb, in_progress
from services.engines.planner import Planned, Planner, check_etag
from services.engines.records import Phase, Record, Records, Removal
from services.engines.view import View, Workload, assemble, removed
from services.errors import BeemeshError, DeadlineExceeded, Unavailable
from services.identity import hash_label
from services.manifests.reader import Reader
from services.telemetry import Log

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The answer to a deploy."""

    workload: Workload
    action: ChangeAction
    issues: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveOrder:
    """One call of remove, as it was asked."""

    workload_id: str
    removal: Removal = field(default_factory=Removal)
    allow_missing: bool = False
    etag: str = ""


class Deployer:
    """The operations that change workloads."""

    def __init__(
        self,
        *,
        engine: Engine,
        backend: Backend,
        records: Records,
        operations: Operations,
        view: View,
        planner: Planner,
        reader: Reader,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._records = records
        self._operations = operations
        self._view = view
        self._clock = clock
        self._planner = planner
        self._reader = reader

    async def deploy(self, order: DeployOrder) -> Deployed:
        """Make it run: create, replace where allowed, or nothing when it already is so.

        Raises InvalidArgument, FailedPrecondition (UNSUPPORTED_*, or the engine's reasons), AlreadyExists, Aborted
        (STALE_ETAG, OPERATION_IN_PROGRESS), Unavailable, ResourceExhausted, DataLoss. Metadata `leftovers`: "true" says
        that something of a failed attempt may still be there.
        """
        admitted = await self._reader.read(order.text, lambda: admit(order, self._engine))
        while running := self._operations.current(order.workload_id):
            if running.verb is not Verb.FORGET:
                return await _join(running, admitted)
            await running.settled()
        if order.validate_only:
            await self._engine.examine(admitted.manifest, order.config)
            return await self._foresee(admitted)
        operation = self._operations.start(
            Verb.DEPLOY,
            order.workload_id,
            lambda: self._deploy(admitted),
            manifest_id=order.manifest_id,
            digest=admitted.digest,
        )
        deployed: Deployed = await operation.join()
        return deployed

    async def remove(self, order: RemoveOrder) -> Workload | None:
        """Stop and delete it; returns its last state, or None when it was not there and `allow_missing` is set.

        A removal that was recorded is carried out, if need be when the backend is back or after a restart (then the
        error's metadata has `removal`: "accepted"). Raises NotFound, Aborted (STALE_ETAG), Unavailable and
        DeadlineExceeded.
        """
        check_workload_id(order.workload_id)
        while running := self._operations.current(order.workload_id):
            await running.settled()
        operation = self._operations.start(Verb.REMOVE, order.workload_id, lambda: self._remove(order))
        workload: Workload | None = await operation.join()
        return workload

    def resume_removals(self) -> None:
        """Go on with what was accepted and is not done yet."""
        for record in self._records.all():
            if record.phase is Phase.REMOVING and not self._operations.current(record.workload_id):
                self._operations.start(Verb.REMOVE, record.workload_id, lambda r=record: self._finish_removal(r))  # type: ignore[misc]  # mypy cannot infer a lambda's default

    async def forget(self, workload_id: str) -> None:
        """Drop the record of a workload that is gone, if the backend says so once more; raises Unavailable."""
        if self._operations.current(workload_id) is None:
            await self._operations.start(Verb.FORGET, workload_id, lambda: self._forget(workload_id)).join()

    async def _forget(self, workload_id: str) -> None:
        observation = await self._backend.observe_one(workload_id)
        if observation is not None:
            self._view.publish(workload_id, observation, busy=False)
            return
        await self._records.drop(workload_id)
        self._view.remove(workload_id, reason="GONE")
        log.warning("workload_gone", workload_id=workload_id)

    # Deploy

    async def _foresee(self, admitted: Admitted) -> Deployed:
        planned = await self._planner.decide(admitted)
        known, action = planned.record, planned.decision.action
        if action is ChangeAction.NONE:
            record = known or replace(self._record(admitted, None), phase=Phase.DEPLOYED)
            workload = assemble(record, planned.observation, busy=False, now=self._clock())
        else:
            workload = assemble(self._record(admitted, known), None, busy=True, now=self._clock())
        return Deployed(workload=workload, action=action, issues=admitted.issues)

    async def _deploy(self, admitted: Admitted) -> Deployed:
        workload_id = admitted.order.workload_id
        planned = await self._planner.decide(admitted)
        action = planned.decision.action
        if planned.decision.adopt:
            await self._records.write(replace(self._record(admitted, None), phase=Phase.DEPLOYED))
        if action is ChangeAction.NONE:
            workload = self._view.publish(workload_id, planned.observation, busy=False)
        else:
            record = self._record(admitted, planned.record)
            wanted = Spec(ownership=record.ownership, manifest=admitted.manifest, config=record.config)
            await (self._update if planned.decision.update else self._make)(record, wanted, planned)
            workload = await self._look_again(workload_id, action.name)
        log.info("workload_deployed", workload_id=workload_id, action=action.name)
        return Deployed(workload=workload, action=action, issues=admitted.issues)

    async def _update(self, record: Record, wanted: Spec, planned: Planned) -> None:
        """Change in place; what was there before counts again where a failure has left nothing of the attempt."""
        before, old = planned.record, planned.old
        if before is None or old is None:
            raise ValueError(f"{record.workload_id} cannot be updated: nothing is recorded of it")
        hashes = (*before.earlier_hashes, hash_label(before.canonical_digest))
        record = replace(record, phase=Phase.UPDATING, earlier_hashes=tuple(dict.fromkeys(hashes)))
        await self._records.write(record)
        self._view.publish(record.workload_id, planned.observation, busy=True)
        try:
            await self._backend.update(old, wanted, planned.changes)
        except Exception as error:  # whatever it was, what runs on must be told truthfully
            await self._take_back(before, error)
            raise
        await self._done(record)

    async def _take_back(self, before: Record, cause: Exception) -> None:
        workload_id = before.workload_id
        log.warning("update_failed", workload_id=workload_id, why=cause)
        try:
            if _took_back(cause) and before.phase is Phase.DEPLOYED:
                await self._records.write(before)
            elif isinstance(cause, BeemeshError):
                cause.metadata |= {"leftovers": "true", "workload_id": workload_id}
        except BeemeshError as error:  # the first error is the one to tell; the record says that it was cut
            log.error("taking_back_failed", exc_info=error, workload_id=workload_id)
        await self._look_again(workload_id, "UPDATE_FAILED")

    async def _make(self, record: Record, wanted: Spec, planned: Planned) -> None:
        if planned.decision.action is ChangeAction.REPLACE:  # a missing image must not cost what runs
            await self._backend.prepare(wanted)
        await self._records.write(record)
        self._view.publish(record.workload_id, planned.observation, busy=True)
        if planned.decision.destroy:
            await self._clear_the_way(record)
        try:
            await self._backend.create(wanted)
        except Exception as error:  # whatever it was, nothing of the attempt may stay
            await self._undo(record, error)
            raise
        await self._done(record)

    async def _done(self, record: Record) -> None:
        """The backend has it. Where that cannot be noted it runs on, as one whose deploy was cut: it is asked again."""
        try:
            await self._records.write(replace(record, phase=Phase.DEPLOYED))
        except BeemeshError as error:
            error.metadata |= {"leftovers": "true", "workload_id": record.workload_id}
            await self._look_again(record.workload_id, "NOT_RECORDED")
            raise

    async def _clear_the_way(self, record: Record) -> None:
        """Destroy what is there; when that fails the record stays, and the next deploy or removal goes on from it."""
        try:
            await self._backend.destroy(record.workload_id, Removal())
        except BeemeshError as error:
            error.metadata |= {"leftovers": "true", "workload_id": record.workload_id}
            raise

    async def _undo(self, record: Record, cause: Exception) -> None:
        """The fence after a failed create: only when the backend confirms that nothing is left does the record go."""
        workload_id = record.workload_id
        log.warning("create_failed", workload_id=workload_id, why=cause)
        try:
            await self._backend.destroy(workload_id, Removal(force=True))
            await self._records.drop(workload_id)
        except Exception as error:  # the first error is the one to tell
            log.error("clean_up_failed", exc_info=error, workload_id=workload_id)
            if isinstance(cause, BeemeshError):
                cause.metadata |= {"leftovers": "true", "workload_id": workload_id}
            self._view.publish(workload_id, None, busy=False, reason="CREATE_FAILED")
        else:
            if isinstance(cause, BeemeshError):
                cause.metadata.pop("leftovers", None)
            self._view.remove(workload_id, reason="CREATE_FAILED")

    async def _look_again(self, workload_id: str, reason: str) -> Workload:
        """How it is now; a backend that falls silent right after it created does not make the deploy fail."""
        try:
            observation = await self._backend.observe_one(workload_id)
        except (Unavailable, DeadlineExceeded) as error:
            return self._view.mark_one_unknown(workload_id, error.message)
        return self._view.publish(workload_id, observation, busy=False, reason=reason)

    def _record(self, admitted: Admitted, previous: Record | None) -> Record:
        order, now = admitted.order, self._clock()
        return Record(
            node_id=self._engine.node_id,
            workload_id=order.workload_id,
            manifest_id=order.manifest_id,
            manifest=order.text,
            format=admitted.manifest.format,
            content_digest=admitted.manifest.content_digest,
            manifest_digest=admitted.manifest.canonical_digest,
            config=order.config,
            canonical_digest=admitted.digest,
            generation=_generation(previous, admitted.digest),
            create_time=previous.create_time if previous else now,
            update_time=now,
            request_id=order.request_id,
            scaled_to_zero=admitted.scaled_to_zero,
            components=tuple(self._engine.components(admitted.manifest, order.config)),
        )

    # Remove

    async def _remove(self, order: RemoveOrder) -> Workload | None:
        workload_id = order.workload_id
        record = self._records.peek(workload_id)
        if record is None:
            observation = await self._backend.observe_one(workload_id)
            if observation is None:
                if order.removal.remove_volumes:  # what an earlier removal has kept
                    await self._backend.destroy(workload_id, order.removal)
                self._view.remove(workload_id, reason="GONE")
                if order.allow_missing:
                    return None
                raise not_found(workload_id)
            record = self._orphan(observation)
        if order.etag:
            check_etag(self._records.peek(workload_id), workload_id, order.etag)
        record = replace(record, phase=Phase.REMOVING, removal=order.removal, update_time=self._clock())
        if workload_id not in self._records.unreadable:
            await self._records.write(record)
        return await self._finish_removal(record)

    async def _finish_removal(self, record: Record) -> Workload:
        leaving = self._view.mark_leaving(record)
        try:
            await self._backend.destroy(record.workload_id, record.removal or Removal())
        except Exception as error:  # whatever it was, the removal stays recorded and is tried again
            log.warning("removal_waits", workload_id=record.workload_id, why=error)
            if isinstance(error, BeemeshError):
                error.metadata |= {"removal": "accepted", "workload_id": record.workload_id}
            raise
        await self._records.drop(record.workload_id)
        self._view.remove(record.workload_id, reason="REMOVED")
        log.info("workload_removed", workload_id=record.workload_id)
        return removed(leaving, now=self._clock())

    def _orphan(self, observation: Observation) -> Record:
        """The record of a removal of objects that nothing was recorded of."""
        now, ownership = self._clock(), observation.ownership
        return Record(
            node_id=ownership.node_id,
            workload_id=ownership.workload_id,
            manifest_id=ownership.deployment_id,
            manifest=None,
            canonical_digest=ownership.manifest_hash,
            create_time=observation.create_time or now,
            update_time=now,
        )


async def _join(running: Operation, admitted: Admitted) -> Deployed:
    """Who asks for what is being done shares its outcome; who asks for something else comes too late."""
    if running.verb is not Verb.DEPLOY or running.digest != admitted.digest:
        raise in_progress(running)
    deployed: Deployed = await running.join()
    return replace(deployed, action=ChangeAction.NONE, issues=admitted.issues)


def _took_back(cause: Exception) -> bool:
    """Whether a failed update has left what was there before: who fell silent cannot say so."""
    known = isinstance(cause, BeemeshError) and not isinstance(cause, Unavailable | DeadlineExceeded)
    return known and "leftovers" not in getattr(cause, "metadata", {})


def _generation(previous: Record | None, digest: str) -> int:
    """Counts the contents that this workload had."""
    if previous is None:
        return 1
    return previous.generation + (previous.canonical_digest != digest)
