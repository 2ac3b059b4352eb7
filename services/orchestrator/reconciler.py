"""Keeps records true to what engines report: a deployment at rest follows its workload."""

from __future__ import annotations

import asyncio

from services.identity import hash_label
from services.orchestrator.apply import Applier
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.model import Deployment, State, Step
from services.orchestrator.ports import Engines
from services.orchestrator.steps import broken, outcome_of

_SWEEP_SECONDS = 30.0


class Reconciler:
    """`touch` is told of a workload that may have changed; `run` looks, and at everything now and then."""

    def __init__(self, *, book: Book, engines: Engines, applier: Applier) -> None:
        self._book = book
        self._engines = engines
        self._applier = applier
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()

    def touch(self, workload_id: str) -> None:
        """This workload may have changed; "" means any."""
        if workload_id:
            self._dirty.add(workload_id)
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
            for workload_id in dirty:
                record = self._book.of_workload(workload_id)
                if record is not None:
                    await self._look(record)

    async def _look(self, record: Deployment) -> None:
        at_rest = record.step is Step.REST and record.state is not State.STOPPED
        if not at_rest or record.engine_id not in record.touched:
            return
        seen = self._engines.observed(record.engine_id, record.workload_id)
        if seen is not None and hash_label(seen.digest) != record.deployed:
            return  # an earlier revision runs on, because this one was refused: it does not speak for this record
        outcome = outcome_of(seen.state if seen is not None else None)
        if outcome is None:
            return
        message = seen.message if seen is not None else f"engine {record.engine_id} says that it is gone"
        failure = broken(record, message) if outcome is Outcome.BROKEN else None
        await self._applier.observe(record.deployment_id, outcome, failure, message)
