"""Carrying operations through the flow's table, over crashes: each outcome is durable before the next step."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import replace

from services.errors import BeemeshError, NotFound
from services.orchestrator import flow
from services.orchestrator import store as db
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.history import DeploymentEvent, History
from services.orchestrator.model import Decision, Deployment, Failure, State, Step
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Engines
from services.orchestrator.steps import Result, Steps
from services.telemetry import Log

log = Log(__name__)

_STORE_RETRY_SECONDS = 1.0
_DEFECT_RETRY_SECONDS = 10.0


class Operations:
    """One task for each deployment that is not at rest."""

    def __init__(
        self,
        *,
        book: Book,
        engines: Engines,
        outbox: Outbox,
        history: History,
        clock: Callable[[], float],
        tasks: asyncio.TaskGroup,
    ) -> None:
        """`clock`: seconds since 1970; `tasks` outlives every operation."""
        self._book = book
        self._outbox = outbox
        self._history = history
        self._clock = clock
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._steps = Steps(engines=engines, book=book, outbox=outbox, keep=self._keep, clock=clock)

    def chosen(self, record: Deployment, decision: Decision) -> Result:
        """See `Steps.chosen`."""
        return self._steps.chosen(record, decision)

    def resume(self) -> None:
        """Go on with every operation that a crash or a stop interrupted."""
        for record in self._book.all():
            if record.in_flight:
                self.start(record.deployment_id)

    async def settled(self, deployment_id: str, generation: int, timeout: float) -> Deployment:
        """The record once its operation rests, is gone or waits for a backend, or as it is after `timeout` seconds.

        Raises NotFound when there is no such deployment; a superseded generation counts as over.
        """

        def over(record: Deployment | None) -> bool:
            return record is None or record.generation != generation or not record.in_flight or record.retries > 0

        feed = self._book.feed.watch(key=deployment_id)
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

    async def follow(self, record: Deployment, outcome: Outcome, failure: Failure | None, message: str) -> None:
        """A deployment at rest was seen otherwise than recorded: the record follows, and its announcement with it.

        Raises what the store does; it is not waited for, since what was seen can be seen again.
        """
        moved = flow.advance(record, outcome, now=self._clock(), failure=failure)
        if moved.state is not record.state:
            event = self._history.event(record.deployment_id, flow.TABLE[record.step, outcome].event, message)
            await self._with_announcement(self._book.save, replace(moved, message=message), event)

    def start(self, deployment_id: str) -> None:
        """Drive the operation that the record is at, in a context of its own: the request's deadline is not its."""
        self._nudges[deployment_id] = asyncio.Event()
        self._running[deployment_id] = self._tasks.create_task(
            self._operate(deployment_id), name=f"op:{deployment_id}", context=contextvars.Context()
        )

    def nudge(self, deployment_id: str) -> None:
        """Do not wait for the back-off's end."""
        if (event := self._nudges.get(deployment_id)) is not None:
            event.set()

    async def interrupt(self, deployment_id: str) -> None:
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
                result = self._rolled_back(result)
                event = self._event(result, record)
                record = flow.advance(result.record, result.outcome, now=self._clock(), failure=result.failure)
                await self._with_announcement(self._keep, record, event)
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

    def _rolled_back(self, result: Result) -> Result:
        """A failed wish gives way to the last good one, where the client asked for that."""
        if result.outcome not in flow.FAILED_OUTCOMES or result.record.rollback_to is None:
            return result
        return replace(result, record=flow.roll_back(result.record), outcome=Outcome.ROLL_BACK)

    def _event(self, result: Result, before: Deployment) -> DeploymentEvent | None:
        """What to tell of an outcome; a step that is tried again and again is told of once."""
        row = flow.TABLE[before.step, result.outcome]
        if row.later and before.retries:
            return None
        message = result.failure.message if result.failure is not None else result.record.message
        engine = result.record.engine_id or before.engine_id
        return self._history.event(before.deployment_id, row.event, message, {"engine": engine} if engine else {})

    async def _with_announcement(
        self, keep: Callable[..., Awaitable[Deployment]], record: Deployment, event: DeploymentEvent | None
    ) -> None:
        """A record at rest carries its announcement with it, in one transaction."""
        if record.step is not Step.REST:
            await keep(record, event=event)
            return
        wanted = record.state in (State.ACTIVE, State.ROLLED_BACK)
        statements = [db.end_revision(record)]
        if wanted == self._outbox.wants(record.deployment_id):
            await keep(record, *statements, event=event)
            self._outbox.refresh(record.deployment_id)
            return
        await keep(record, *statements, self._outbox.want(record.deployment_id, wanted), event=event)
        self._outbox.wanted_now(record.deployment_id, wanted)

    async def _keep(self, record: Deployment, *more: db.Statement, event: DeploymentEvent | None = None) -> Deployment:
        """Save; a full disk is waited out, for the step has been taken and must not be forgotten. Who waits is told."""
        while True:
            try:
                return await self._book.save(record, *more, event=event)
            except BeemeshError as error:
                log.error("record_not_saved", deployment_id=record.deployment_id, error=repr(error))
                self._book.held_up(record.deployment_id, Failure.of(error))
                await asyncio.sleep(_STORE_RETRY_SECONDS)
