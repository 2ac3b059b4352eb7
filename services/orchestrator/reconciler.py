"""Keeps records true to what engines report: deployments at rest follow their workloads, what vanished is made anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from services.errors import BeemeshError
from services.identity import hash_label
from services.orchestrator.apply import Applier
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.history import History
from services.orchestrator.model import Deployment, Observed, State, Step
from services.orchestrator.ports import Engines
from services.orchestrator.steps import UNKNOWN, broken, outcome_of
from services.telemetry import Log

ANNOTATION_DRIFT = "beemesh.io/drift-policy"
"""`repair` (the default): what vanished is made anew; `report`: it is told, and nothing else."""

_SWEEP_SECONDS = 30.0
_AT_ONCE = 64
_REPAIRS_MAX, _REPAIR_WINDOW, _REPAIRS_KEPT = 3, 600.0, 10_000
_RESTARTS_KEPT = 20_000

log = Log(__name__)


class Reconciler:
    """`touch` is told of a workload that may have changed; `run` looks, and at everything now and then."""

    def __init__(
        self, *, book: Book, engines: Engines, applier: Applier, history: History, clock: Callable[[], float]
    ) -> None:
        """`clock`: seconds since 1970."""
        self._history = history
        self._clock = clock
        self._repairs: dict[str, tuple[float, ...]] = {}
        self._restarts: dict[str, Mapping[str, int]] = {}
        """By workload: how often each component was restarted when it was last looked at."""
        self._book = book
        self._engines = engines
        self._applier = applier
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        book.subscribe(self._recorded)

    def _recorded(self, deployment_id: str) -> None:
        """What has come to rest is looked at once, so that its first restart is seen as one."""
        record = self._book.find(deployment_id)
        if record is not None and record.step is Step.REST and record.workload_id not in self._restarts:
            self.touch(record.workload_id)

    def touch(self, workload_id: str) -> None:
        """This workload may have changed; "" means any."""
        self._dirty.update([workload_id] if workload_id else self._book.workloads())
        self._wake.set()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._wake.wait()
                dirty, self._dirty = self._dirty, set()
            except TimeoutError:
                dirty = set(self._book.workloads())
            self._wake.clear()
            for count, workload_id in enumerate(dirty, 1):
                record = self._book.of_workload(workload_id)
                if record is not None:
                    await self._look(record)
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # there may be thousands with nothing new, and callers wait

    async def _look(self, record: Deployment) -> None:
        if record.engine_id not in record.touched:
            return
        seen = self._engines.observed(record.engine_id, record.workload_id)
        await self._tell_restarts(record, seen)
        if record.step is not Step.REST or record.state is State.STOPPED:
            return
        if seen is not None and hash_label(seen.digest) != record.deployed:
            return  # an earlier revision runs on, because this one was refused: it does not speak for this record
        outcome = await self._outcome(record, seen)
        if outcome is None:
            return
        message = seen.message if seen is not None else f"engine {record.engine_id} says that it is gone"
        failure = None
        if outcome in (Outcome.BROKEN, Outcome.VANISHED):
            failure = broken(record, message, gone=outcome is Outcome.VANISHED)
        try:
            await self._applier.observe(record.deployment_id, outcome, failure, message)
        except BeemeshError as error:  # a full disk: the next sweep sees it again
            log.error("observation_not_saved", deployment_id=record.deployment_id, error=repr(error))
            return
        if outcome is Outcome.VANISHED and self._may_repair(record):
            with contextlib.suppress(BeemeshError):  # then somebody else is at it
                await self._applier.control(record.deployment_id, Outcome.REPAIR)

    async def _outcome(self, record: Deployment, seen: Observed | None) -> Outcome | None:
        """What was seen means for the record; that something is gone counts if the engine, asked now, says so too.

        What is seen may be older than the deploy that is just done.
        """
        outcome = Outcome.VANISHED if seen is not None and seen.incomplete else outcome_of(record, seen)
        if outcome is not Outcome.VANISHED:
            return outcome
        done = record.state is State.SUCCEEDED  # what has done its work may be cleaned away
        return outcome if not done and await self._is_drifted(record.deployment_id) else None

    async def _is_drifted(self, deployment_id: str) -> bool:
        try:
            return bool(await self._applier.drift(deployment_id))
        except BeemeshError as error:  # the next sweep asks again
            log.warning("drift_not_known", deployment_id=deployment_id, error=repr(error))
            return False

    async def _tell_restarts(self, record: Deployment, seen: Observed | None) -> None:
        """An engine that starts again what ended repairs by itself: it is told, as far as this process has seen it."""
        if seen is None or seen.state == UNKNOWN:
            return
        known = self._restarts.pop(record.workload_id, None)
        self._restarts[record.workload_id] = seen.restarts
        if len(self._restarts) > _RESTARTS_KEPT:
            self._restarts.pop(next(iter(self._restarts)))
        if known is None or record.step is not Step.REST:
            return
        for place, count in seen.restarts.items():
            if count > known.get(place, 0):
                with contextlib.suppress(BeemeshError):  # a full disk: the history has a gap
                    how = f" with {seen.endings[place]}" if seen is not None and place in seen.endings else ""
                    message = f"{place} had ended{how}; restarts so far: {count}"
                    await self._history.tell(record.deployment_id, "COMPONENT_RESTARTED", message)

    def _may_repair(self, record: Deployment) -> bool:
        """Unless the manifest says otherwise, and not again and again: who removes it each time means it."""
        if record.wish.annotations.get(ANNOTATION_DRIFT, "repair").strip().lower() != "repair":
            return False
        now = self._clock()
        recent = [at for at in self._repairs.get(record.deployment_id, ()) if 0 <= now - at < _REPAIR_WINDOW]
        if len(recent) >= _REPAIRS_MAX:
            log.warning("repair_given_up", deployment_id=record.deployment_id, repairs=len(recent))
            return False
        self._repairs[record.deployment_id] = (*recent, now)
        if len(self._repairs) > _REPAIRS_KEPT:
            self._repairs.pop(next(iter(self._repairs)))
        return True
