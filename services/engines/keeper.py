"""What every engine does alike, around an `Engine` that knows one backend: the keeper of its workloads.

A deploy or removal that has begun goes on when its caller leaves, and is finished or healed after a restart: what is
to be done is durable before the backend is touched. The backend's objects are the truth about what runs; the records
are the truth about what was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Self

from services.engines.admission import DeployOrder, Verdict, admit, check_workload_id, examined, validate
from services.engines.backend import Backend, Limits, not_found
from services.engines.deployer import Deployed, Deployer, RemoveOrder
from services.engines.engine import Capability, Config, Engine, WorkloadState
from services.engines.inside import Inside
from services.engines.listing import Listing, Page, matcher
from services.engines.operations import Operations, Verb
from services.engines.planner import Plan, Planner
from services.engines.power import Power
from services.engines.records import Records
from services.engines.streams import closed_after
from services.engines.view import View, Workload
from services.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from services.manifests import Format
from services.manifests.reader import Reader
from services.rpc.listing import paginate
from services.rpc.watch import Event
from services.telemetry import Log

log = Log(__name__)


class Keeper:
    """The workloads of one engine on one node; `async with` loads what is recorded and keeps the view fresh.

    `unreachable` says why the backend is known not to answer, or "" when it may; `epoch` names this run.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        records: Records,
        clock: Callable[[], float],
        epoch: str,
        unreachable: Callable[[], str] = lambda: "",
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._engine = engine
        self._records = records
        self._clock = clock
        self._backend = Backend(engine=engine, unreachable=unreachable, limits=self._limits)
        self._operations = Operations(drain_seconds=self._limits.drain)
        self._view = View(backend=self._backend, records=records, operations=self._operations, clock=clock, epoch=epoch)
        engine.listener = self._view.tell
        engine.may_run = records.may_run
        self._reader = Reader()
        self._planner = Planner(engine=engine, backend=self._backend, records=records, reader=self._reader)
        self._deployer = Deployer(
            engine=engine,
            backend=self._backend,
            records=records,
            operations=self._operations,
            view=self._view,
            planner=self._planner,
            reader=self._reader,
            clock=clock,
        )
        self.power = Power(
            engine=engine,
            backend=self._backend,
            records=records,
            operations=self._operations,
            view=self._view,
            clock=clock,
        )
        """Stops, starts and restarts."""
        self.inside = Inside(
            engine=engine,
            backend=self._backend,
            records=records,
            operations=self._operations,
            reader=self._reader,
        )
        """What goes on inside workloads."""
        self._draining = False
        self._hint = asyncio.Event()
        self._was_read = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._records.load()
        self._view.mark_unknown("the backend was not read yet")
        await self._operations.__aenter__()
        await self._group.__aenter__()
        self._loops.append(self._group.create_task(self._poll()))
        if Capability.EVENTS in self._engine.info.capabilities:
            self._loops.append(self._group.create_task(self._follow_changes()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.drain()
        for loop in self._loops:
            loop.cancel()
        await self._group.__aexit__(None, None, None)
        await self._operations.__aexit__()
        self._reader.__exit__()
        self._records.close()

    def drain(self) -> None:
        """Refuse deploys from now on; reads and removals go on."""
        self._draining = True

    @property
    def unreadable_records(self) -> Mapping[str, str]:
        """By workload id: the record file that cannot be read, and why."""
        return self._records.unreadable

    async def validate(
        self, text: str, expected: Format | None, *, lenient: bool, config: Config | None = None
    ) -> Verdict:
        """All findings about a manifest; touches nothing. Raises InvalidArgument when there is no text."""
        verdict = await self._reader.read(
            text, lambda: validate(text, expected, self._engine, lenient=lenient, config=config)
        )
        return await examined(verdict, self._engine, config)

    async def plan(self, order: DeployOrder) -> Plan:
        """What a deploy that may replace would do; touches nothing. Raises as `Deployer.deploy` refuses."""
        admitted = await self._reader.read(order.text, lambda: admit(order, self._engine))
        await self._engine.examine(admitted.manifest, order.config)
        return await self._planner.plan(admitted)

    async def deploy(self, order: DeployOrder) -> Deployed:
        """See `Deployer.deploy`; raises FailedPrecondition(ENGINE_DRAINING) while the engine stops."""
        if self._draining:
            raise FailedPrecondition("the engine is stopping and takes no new workload", reason="ENGINE_DRAINING")
        return await self._deployer.deploy(order)

    async def remove(self, order: RemoveOrder) -> Workload | None:
        """See `Deployer.remove`."""
        return await self._deployer.remove(order)

    # Reads

    async def get(self, workload_id: str) -> Workload:
        """One workload as it is now; UNKNOWN, as it was last known, when the backend does not answer.

        Raises NotFound only because the backend said so; Unavailable when nothing is known of it and nobody can say.
        """
        check_workload_id(workload_id)
        serial = self._operations.serial
        try:
            observation = await self._backend.observe_one(workload_id)
        except (Unavailable, DeadlineExceeded) as error:
            known = self._view.unknown(workload_id, error.message)
            if known is None:
                raise
            return known
        running = self._operations.current(workload_id)
        record = self._records.peek(workload_id)
        if observation is None and record is None:
            if running is not None and running.verb is Verb.DEPLOY:
                return _about_to_be(workload_id, running.manifest_id)
            raise not_found(workload_id)
        if observation is None and record is not None and running is None and record.should_be_there:
            return await self._missing(workload_id)
        fresh = not self._operations.moved_since(serial, workload_id)
        return self._view.publish(workload_id, observation, busy=running is not None, into_feed=fresh)

    async def _missing(self, workload_id: str) -> Workload:
        await self._deployer.forget(workload_id)
        found = self._view.feed.get(workload_id)
        if found is None:
            raise not_found(workload_id)
        return found

    async def list(self, listing: Listing) -> Page:
        """A page of the kept view; raises InvalidArgument for a filter or token that is none."""
        await self._was_read.wait()
        token = self._view.feed.token
        wanted = matcher(listing)
        page, next_token = paginate(
            [item for item in self._view.items() if wanted(item)],
            key=lambda item: item.workload_id,
            page_size=listing.page_size,
            page_token=listing.page_token,
        )
        return Page(workloads=page, next_page_token=next_token, resume_token=token)

    async def watch(
        self, *, workload_id: str = "", resume_token: str = "", skip_snapshot: bool = False
    ) -> AsyncIterator[Event[Workload]]:
        """Snapshot, SYNCED, changes; see services.rpc.watch. Raises InvalidArgument, OutOfRange, Aborted."""
        if workload_id:
            check_workload_id(workload_id)
        await self._was_read.wait()
        events = self._view.feed.watch(resume_token=resume_token, skip_snapshot=skip_snapshot, key=workload_id)
        async with closed_after(events) as stream:
            async for event in stream:
                yield event

    # Keeping the view fresh

    def backend_changed(self) -> None:
        """The backend's health changed: tell at once what is no longer known, and read it anew."""
        if why := self._backend.why_unreachable():
            self._view.mark_unknown(why)
        self._hint.set()

    async def refresh(self) -> None:
        """Read the whole backend now."""
        for workload_id in await self._view.refresh():
            try:
                await self._deployer.forget(workload_id)
            except Exception as error:  # it is asked again at the next reading
                log.warning("forget_failed", workload_id=workload_id, why=error)
                break
        self._was_read.set()

    async def _poll(self) -> None:
        while True:
            await self.refresh()
            if not self._backend.why_unreachable():
                self._deployer.resume_removals()
                self.power.resume()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.poll):
                    await self._hint.wait()
                    await asyncio.sleep(self._limits.settle)
                    await self._operations.rest(self._limits.give_way)
            self._hint.clear()

    async def _follow_changes(self) -> None:
        while True:
            try:
                async for _ in self._engine.changes():
                    self._hint.set()
            except Exception as error:  # whatever broke the stream, it is opened anew
                log.debug("changes_broke", why=error)
            await asyncio.sleep(self._limits.reopen)


def _about_to_be(workload_id: str, manifest_id: str) -> Workload:
    """Its deploy has just begun and nothing is recorded yet."""
    return Workload(workload_id=workload_id, manifest_id=manifest_id, state=WorkloadState.PENDING, reconciling=True)
