"""Stops, starts and restarts workloads on request: durable before the backend is touched, and finished when cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from services.engines.admission import check_workload_id
from services.engines.backend import Backend, not_found
from services.engines.engine import Capability, Engine, Observation, WorkloadState
from services.engines.operations import Operations, Verb, in_progress
from services.engines.records import Halt, Phase, Record, Records
from services.engines.view import View, Workload
from services.errors import Aborted, BeemeshError, DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from services.telemetry import Log

_RUNS = frozenset({WorkloadState.PENDING, WorkloadState.STARTING, WorkloadState.RUNNING})

log = Log(__name__)


class Power:
    """The operations that end and begin a workload's processes and keep everything else of it.

    All raise NotFound (WORKLOAD_NOT_FOUND; MANIFEST_NOT_KEPT: nothing is recorded of it, so a stop could not be kept),
    FailedPrecondition(DEPLOY_INTERRUPTED), Aborted(OPERATION_IN_PROGRESS), Unavailable, Unimplemented.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        backend: Backend,
        records: Records,
        operations: Operations,
        view: View,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._records = records
        self._operations = operations
        self._view = view
        self._clock = clock

    async def stop(self, workload_id: str, halt: Halt) -> Workload:
        """Stop and keep it; one that is stopped is left alone."""
        self._check("StopWorkload", Capability.STOP_START)
        return await self._operate(Verb.STOP, workload_id, lambda: self._stop(workload_id, halt))

    async def start(self, workload_id: str) -> Workload:
        """Start what is stopped, or has ended; one that runs is left alone."""
        self._check("StartWorkload", Capability.STOP_START)
        return await self._operate(Verb.START, workload_id, lambda: self._start(workload_id))

    async def restart(self, workload_id: str, *, grace_seconds: float | None) -> Workload:
        """Stop and start it, also when it was stopped."""
        self._check("RestartWorkload", Capability.RESTART)
        return await self._operate(Verb.RESTART, workload_id, lambda: self._restart(workload_id, grace_seconds))

    def resume(self) -> None:
        """Go on with stops and starts that were accepted and are not done yet."""
        for record in self._records.all():
            if self._operations.current(record.workload_id):
                continue
            if record.phase is Phase.STOPPING:
                self._operations.start(Verb.STOP, record.workload_id, lambda r=record: self._finish_stop(r))  # type: ignore[misc]  # mypy cannot infer a lambda's default
            elif record.phase is Phase.STARTING:
                self._operations.start(Verb.START, record.workload_id, lambda r=record: self._finish_start(r))  # type: ignore[misc]  # the same

    async def _operate(self, verb: Verb, workload_id: str, work: Callable[[], Awaitable[Workload]]) -> Workload:
        """Begin, or share the outcome of the same that is under way (a restart is each caller's own)."""
        check_workload_id(workload_id)
        while running := self._operations.current(workload_id):
            if running.verb is Verb.FORGET:
                await running.settled()
            elif running.verb is verb and verb is not Verb.RESTART:
                shared: Workload = await running.join()
                return shared
            else:
                raise in_progress(running)
        workload: Workload = await self._operations.start(verb, workload_id, work).join()
        return workload

    async def _stop(self, workload_id: str, halt: Halt) -> Workload:
        record, observation = await self._known(workload_id)
        workload = self._view.publish(workload_id, observation, busy=False)
        if record.phase is Phase.STOPPED and workload.state is WorkloadState.STOPPED:
            return workload
        record = await self._note(record, Phase.STOPPING, halt)
        self._view.publish(workload_id, observation, busy=True, reason="STOPPING")
        return await self._finish_stop(record)

    async def _finish_stop(self, record: Record) -> Workload:
        try:
            if not record.scaled_to_zero:
                await self._backend.stop(record.workload_id, record.halt or Halt())
        except Exception as error:  # whatever it was, the stop stays recorded and is tried again
            self._waits(record, error, "stop")
            raise
        await self._note(record, Phase.STOPPED)
        return await self._look_again(record.workload_id, "STOPPED")

    async def _start(self, workload_id: str) -> Workload:
        record, observation = await self._known(workload_id)
        workload = self._view.publish(workload_id, observation, busy=False)
        if record.phase is Phase.DEPLOYED and (workload.state in _RUNS or record.scaled_to_zero):
            return workload
        record = await self._note(record, Phase.STARTING)
        self._view.publish(workload_id, observation, busy=True, reason="STARTING")
        return await self._finish_start(record)

    async def _restart(self, workload_id: str, grace_seconds: float | None) -> Workload:
        record, observation = await self._known(workload_id)
        record = await self._note(record, Phase.STARTING)
        self._view.publish(workload_id, observation, busy=True, reason="RESTARTING")
        return await self._finish_start(record, lambda: self._backend.restart(workload_id, grace_seconds))

    async def _finish_start(self, record: Record, work: Callable[[], Awaitable[None]] | None = None) -> Workload:
        workload_id = record.workload_id
        try:
            if not record.scaled_to_zero:
                await (self._backend.start(workload_id) if work is None else work())
        except (Unavailable, DeadlineExceeded) as error:  # it is not known how far it got: it is tried again
            self._waits(record, error, "start")
            raise
        except Exception:  # the backend has refused: trying again by itself would not help
            await self._note(record, Phase.DEPLOYED)
            await self._look_again(workload_id, "START_FAILED")
            raise
        await self._note(record, Phase.DEPLOYED)
        return await self._look_again(workload_id, "STARTED")

    def _waits(self, record: Record, error: Exception, what: str) -> None:
        log.warning(f"{what}_waits", workload_id=record.workload_id, why=error)
        if isinstance(error, BeemeshError):
            error.metadata |= {what: "accepted", "workload_id": record.workload_id}

    async def _note(self, record: Record, phase: Phase, halt: Halt | None = None) -> Record:
        record = replace(record, phase=phase, halt=halt or record.halt, update_time=self._clock())
        await self._records.write(record)
        return record

    async def _known(self, workload_id: str) -> tuple[Record, Observation | None]:
        """The record of a workload that can be stopped or started, and what the backend has of it."""
        record = self._records.get(workload_id)
        observation = await self._backend.observe_one(workload_id)
        if record is None or (observation is None and not record.scaled_to_zero):
            raise not_found(workload_id) if observation is None else _not_kept(workload_id)
        if record.phase in (Phase.DEPLOYING, Phase.UPDATING):
            raise FailedPrecondition(
                f"the last deploy of workload {workload_id} was interrupted; deploy it again, or remove it",
                reason="DEPLOY_INTERRUPTED",
                metadata={"workload_id": workload_id},
            )
        if record.phase is Phase.REMOVING:
            raise Aborted(
                f"workload {workload_id} is being removed",
                reason="OPERATION_IN_PROGRESS",
                metadata={"workload_id": workload_id, "operation": Verb.REMOVE.value},
            )
        return record, observation

    async def _look_again(self, workload_id: str, reason: str) -> Workload:
        try:
            observation = await self._backend.observe_one(workload_id)
        except (Unavailable, DeadlineExceeded) as error:
            return self._view.mark_one_unknown(workload_id, error.message)
        return self._view.publish(workload_id, observation, busy=False, reason=reason)

    def _check(self, verb: str, needed: Capability) -> None:
        if needed not in self._engine.info.capabilities:
            raise self._engine.lacks(verb)


def _not_kept(workload_id: str) -> NotFound:
    return NotFound(
        f"workload {workload_id} runs, but nothing is recorded of it here: that it is stopped could not be kept",
        reason="MANIFEST_NOT_KEPT",
        metadata={"workload_id": workload_id},
    )
