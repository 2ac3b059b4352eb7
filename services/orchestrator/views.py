"""Deployments as clients see them: the record, what its engine shows of it, and whether it is announced."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from services.orchestrator.book import Book
from services.orchestrator.model import Deployment, Observed, State, Step
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Engines
from services.orchestrator.steps import DEGRADED, STARTING, STOPPED, UNKNOWN
from services.rpc.watch import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One deployment at one moment."""

    record: Deployment
    state: State
    """What is recorded, unless its engine cannot say or says less."""
    message: str
    announced: bool
    seen: Observed | None
    """Its workload as last told; None when there is none."""


class Views:
    """Makes views, and keeps the feed that watchers follow; `touch*` is told of everything that may change one."""

    def __init__(self, *, book: Book, engines: Engines, outbox: Outbox, epoch: str) -> None:
        self._book = book
        self._engines = engines
        self._outbox = outbox
        self.feed: Feed[View] = Feed(epoch=epoch)

    def of(self, record: Deployment) -> View:
        """The record as clients see it now."""
        seen = None
        if record.engine_id in record.touched:
            seen = self._engines.observed(record.engine_id, record.workload_id)
        state, message = _effective(record, seen)
        announced = self._outbox.announced(record.deployment_id)
        return View(record=record, state=state, message=message, announced=announced, seen=seen)

    async def heard(self, deployment_id: str, timeout: float, *, but: State) -> None:
        """Wait until its engine tells of another state than this; not longer than `timeout` seconds."""
        feed = self.feed.watch(key=deployment_id)
        with contextlib.suppress(TimeoutError):
            async with contextlib.aclosing(feed), asyncio.timeout(timeout):
                async for event in feed:
                    if event.item is not None and self.of(event.item.record).state is not but:
                        return

    def touch(self, deployment_id: str) -> None:
        """This deployment's record or announcement may have changed."""
        record = self._book.last(deployment_id)
        if record is None or record.step is Step.GONE:
            self.feed.remove(deployment_id, last=None if record is None else self.of(record))
        else:
            self.feed.put(deployment_id, self.of(record))

    def touch_workload(self, workload_id: str) -> None:
        """This workload may have changed; "" (an engine has) changes no view by itself."""
        record = self._book.of_workload(workload_id)
        if record is not None:
            self.feed.put(record.deployment_id, self.of(record))


def _effective(record: Deployment, seen: Observed | None) -> tuple[State, str]:
    if record.step is not Step.REST or record.engine_id not in record.touched or seen is None:
        return record.state, record.message
    if seen.state == UNKNOWN:
        return State.UNKNOWN, seen.message
    if record.state is State.ACTIVE and seen.state == STOPPED and not record.wish.scaled_to_zero:
        return State.STOPPED, seen.message
    if record.state is State.ACTIVE and seen.state in (STARTING, DEGRADED):
        return State.DEGRADED, seen.message
    return record.state, record.message
