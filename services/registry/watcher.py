"""Keeps an eye on every registered engine: who it is, and how it is, by a watch and by asking.

The watch tells of changes at once; asking every few seconds finds the process that is frozen or gone. Whether an engine
answers the question alone decides whether its health is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import grpc
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1.engine_service_pb2_grpc import EngineServiceStub

from services.registry.directory import WATCH_BROKEN, Health, HealthState, Registration
from services.registry.registry import Registry
from services.registry.wire import to_health, to_info
from services.rpc import deadline
from services.rpc.client import connect
from services.rpc.deadline import budget
from services.telemetry import Log

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often and how long engines are asked; all in seconds."""

    ask_every: float = 3.0
    answer_within: float = 2.0
    ask_again: float = 0.2
    """After a question that was not answered; the second in a row makes the health unknown."""
    reopen_at_most: float = 2.0
    """The longest pause before the watch is opened anew."""
    watch_for: float = 600.0
    """A watch is opened anew after this long, so that none can leak for ever."""
    info_every: float = 60.0


class Watchers:
    """One EngineWatch per registered engine; none of them ever waits for another."""

    def __init__(self, *, registry: Registry, pace: Pace) -> None:
        self._registry = registry
        self._pace = pace
        self._watches: dict[str, tuple[EngineWatch, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """For ever: watch whoever is registered."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._registry.members_changed.clear()
                self._reconcile(group)
                await self._registry.members_changed.wait()

    async def probe(self, *, seconds: float) -> dict[str, str]:
        """Have every engine probe its backend now, all at once; gives why each did not answer, empty if it did."""
        watches = {engine_id: watch for engine_id, (watch, _task) in self._watches.items()}
        async with asyncio.TaskGroup() as group:
            probes = {key: group.create_task(watch.probe(seconds=seconds)) for key, watch in watches.items()}
        return {engine_id: task.result() for engine_id, task in probes.items()}

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        wanted = {view.engine_id: view.registration for view in self._registry.views()}
        for engine_id, (watch, task) in list(self._watches.items()):
            if engine_id not in wanted or not watch.is_of(wanted[engine_id]):
                task.cancel()
                del self._watches[engine_id]
        for engine_id in wanted.keys() - self._watches.keys():
            watch = EngineWatch(target=wanted[engine_id], registry=self._registry, pace=self._pace)
            self._watches[engine_id] = watch, group.create_task(watch.run(), name=f"watch {engine_id}")


class EngineWatch:
    """Watches one instance of one engine."""

    def __init__(self, *, target: Registration, registry: Registry, pace: Pace) -> None:
        self._target = target
        self._registry = registry
        self._pace = pace
        self._channel = connect(target.endpoint)
        self._stub = EngineServiceStub(self._channel)
        self._ask_now = asyncio.Event()
        self._met = asyncio.Event()
        self._state: HealthState | None = None
        self._info_due = 0.0

    def is_of(self, registration: Registration) -> bool:
        """Whether this watches that very instance at that very place."""
        known = self._target
        return (known.instance_id, known.endpoint) == (registration.instance_id, registration.endpoint)

    async def run(self) -> None:
        """For ever; nonsense from this engine is logged and never ends the watches of the others."""
        deadline.detach()
        async with self._channel:
            while True:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._ask())
                        group.create_task(self._follow())
                except Exception as error:
                    log.error("engine_watch_failed", exc_info=error, engine=self._target.engine_id)
                self._see(WATCH_BROKEN)
                await asyncio.sleep(self._pace.reopen_at_most)

    async def probe(self, *, seconds: float) -> str:
        """Have the engine probe its backend now; why there was no answer, or empty."""
        request = pb.GetEngineHealthRequest(probe=True)
        try:
            answer = await self._stub.GetEngineHealth(request, timeout=budget(seconds))
        except grpc.aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return "PROBE_TIMEOUT" if late else "PROBE_FAILED"
        self._see(to_health(answer.health))
        return ""

    async def _ask(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self._answers() else failures + 1
            if failures >= 2:
                self._see(WATCH_BROKEN)
            pause = self._pace.ask_again * min(failures, 10) if failures else self._pace.ask_every
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ask_now.wait()
            self._ask_now.clear()

    async def _answers(self) -> bool:
        target, now = self._target, asyncio.get_running_loop().time()
        try:
            if now >= self._info_due:
                who = await self._stub.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=self._pace.answer_within)
                self._registry.see_info(target.engine_id, target.instance_id, to_info(who.info))
                self._info_due = now + self._pace.info_every
            how = await self._stub.GetEngineHealth(pb.GetEngineHealthRequest(), timeout=self._pace.answer_within)
        except grpc.aio.AioRpcError as error:
            log.debug("engine_silent", engine=target.engine_id, code=error.code().name, details=error.details())
            return False
        self._see(to_health(how.health))
        self._met.set()
        return True

    async def _follow(self) -> None:
        """Hold the watch; each end of it is a reason to ask at once."""
        await self._met.wait()  # who it is comes before how it is
        pause = self._pace.ask_again
        while True:
            call = self._stub.WatchEngineHealth(pb.WatchEngineHealthRequest(), timeout=self._pace.watch_for)
            try:
                async for change in call:
                    pause = self._pace.ask_again
                    self._see(to_health(change.health))
            except grpc.aio.AioRpcError as error:
                log.debug("engine_watch_ended", engine=self._target.engine_id, code=error.code().name)
            finally:
                call.cancel()
            self._ask_now.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._pace.reopen_at_most)

    def _see(self, health: Health) -> None:
        if health.state != self._state:
            self._state, self._info_due = health.state, 0.0  # a backend that came or went changes what an engine is
            self._ask_now.set()
        self._registry.see_health(self._target.engine_id, self._target.instance_id, health)
