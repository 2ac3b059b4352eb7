"""Keeps containers alive as a kubelet would: runs their probes, and restarts what ended as its policy says.

It learns from readings of podman what runs and what ended, whoever asked for the reading. What it decides is on disk
before it acts, so that an engine that was killed goes on where it was; a container is started only while its workload
is not ended, which whoever stops or removes one says first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from services.engines.engine import Component
from services.engines.podman.api import Podman
from services.engines.podman.dialer import Dialer
from services.engines.podman.hints import Hints
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.podman.memory import Memories, Remembered
from services.engines.podman.report import Facts, report
from services.engines.podman.supervision import Sighting
from services.engines.probe_handlers import Handlers
from services.engines.prober import Prober
from services.engines.probes import Finding, Standing
from services.engines.probes import Restart as Unhealthy
from services.engines.restarts import BackOff, Exit, Restart, decide
from services.errors import BeemeshError
from services.telemetry import Log

_STOP_TRIES = 10

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLimits:
    """How long things wait, in seconds."""

    back_off: BackOff = field(default_factory=BackOff)
    poll: float = 10.0
    """Between two readings when nothing hints at a change, and nobody else reads."""
    settle: float = 0.25
    """After a hint, so that many make one reading, and somebody else's may do."""
    reopen: float = 1.0
    """Before a broken event stream is opened anew."""
    stop_retry: float = 2.0
    """Before podman is asked again to stop an unhealthy container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acts:
    """What the engine does for its supervisor; all raise Refusal and BeemeshError."""

    read: Callable[[], Awaitable[object]]
    """Reads all of podman, and calls `see` with it."""
    forget_inspection: Callable[[str], object]
    """Told that what was last read of a container may be of an earlier run."""
    start: Callable[[str], Awaitable[object]]
    """Starts a container."""
    post_start: Callable[[str], Awaitable[Finding]]
    """Runs the hook of a container that has just been started."""
    stop: Callable[[str, float], Awaitable[object]]
    """Gives a container so many seconds to end."""


@dataclass(slots=True, kw_only=True)
class _Watched:
    """One container."""

    seen: Sighting
    began: float
    """When the reading began in which it was seen so."""
    restarting: asyncio.Task[None] | None = None
    stopping: asyncio.Task[None] | None = None
    problem: str = ""
    """Why the last try to start it failed."""


class Supervisor:
    """The containers of one engine; `async with` bounds all that it does, and stops none of them."""

    def __init__(
        self,
        *,
        podman: Podman,
        http: UnixHttp,
        labels: Mapping[str, str],
        memories: Memories,
        acts: Acts,
        clock: Callable[[], float],
        limits: SupervisorLimits | None = None,
    ) -> None:
        self._podman = podman
        self._labels = labels
        self._memories = memories
        self._acts = acts
        self._clock = clock
        self._limits = limits or SupervisorLimits()
        self._watched: dict[str, _Watched] = {}
        self._dialer = Dialer(podman=podman, http=http, find=self._sighting)
        self._prober = Prober(
            check=Handlers(self._dialer).check, on_result=self._on_result, on_restart=self._on_unhealthy
        )
        self._acting: dict[str, asyncio.Lock] = {}
        """By workload: held while a container of it is being started, and while it is being ended."""
        self._hints = Hints(
            podman=podman,
            labels=labels,
            read=acts.read,
            poll=self._limits.poll,
            settle=self._limits.settle,
            reopen=self._limits.reopen,
        )
        self._released: set[str] = set()
        """Containers that are being removed."""
        self._missed: set[str] = set()
        """Containers and workloads that the last whole reading did not have."""
        self._group = asyncio.TaskGroup()
        self._loops: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        self._memories.load()
        await self._group.__aenter__()
        await self._prober.__aenter__()
        self._loops += [self._group.create_task(self._hints.follow()), self._group.create_task(self._hints.listen())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        await self._prober.__aexit__(None, None, None)
        for watched in self._watched.values():
            for task in (watched.restarting, watched.stopping):
                if task is not None:
                    task.cancel()
        for task in self._loops:
            task.cancel()
        await self._group.__aexit__(None, None, None)
        self._memories.close()

    # What others tell it

    async def end(self, workload_id: str) -> None:
        """The workload is about to be stopped or removed: from here on nothing of it is started, until `begin`.

        On return no start is under way, and the word is on disk.
        """
        memory = self._memories.of(workload_id)
        self._memories.change(workload_id, replace(memory, ended=True))
        for container_id, watched in self._of(workload_id):
            self._prober.end(container_id)
            if watched.stopping is not None:
                watched.stopping.cancel()
        async with self._lock(workload_id):
            for _, watched in self._of(workload_id):
                if watched.restarting is not None:
                    watched.restarting.cancel()
            await self._save(workload_id, durable=True)
        self._hints.wake()

    async def begin(self, workload_id: str) -> None:
        """The workload runs, as somebody wanted: it is kept alive from here on."""
        memory = self._memories.of(workload_id)
        if memory.ended:
            self._memories.change(workload_id, replace(memory, ended=False))
            await self._save(workload_id, durable=True)
        self._hints.wake()

    async def forget(self, workload_id: str) -> None:
        """The workload is gone, with all its containers."""
        for container_id, _ in self._of(workload_id):
            self._drop(container_id)
        self._acting.pop(workload_id, None)
        try:
            await self._memories.forget(workload_id)
        except OSError as error:
            log.warning("restart_memory_not_deleted", workload_id=workload_id, why=error)

    def release(self, containers: Collection[str]) -> None:
        """These are about to be removed while their workload runs on: they are not started again."""
        self._released |= set(containers)
        for container_id in containers:
            self._drop(container_id)

    def see(self, sightings: Iterable[Sighting], *, began: float, whole: bool) -> None:
        """Podman was read; `began` is the event loop's time before that, `whole` that all workloads were read."""
        if self._closed or began < self._hints.latest:
            return
        seen = {sighting.container_id: sighting for sighting in sightings}
        if whole:
            self._released &= seen.keys()
        for container_id in seen.keys() - self._released:
            self._see_one(container_id, seen[container_id], began)
        if whole:
            self._hints.latest = began
            self._miss(
                self._watched.keys() - seen.keys(), self._memories.known() - {s.workload_id for s in seen.values()}
            )

    # What others ask it

    def describe(self, component: Component) -> Component:
        """What podman has of a container, with what is known of it here."""
        watched = self._watched.get(component.component_id)
        if watched is None:
            return component
        seen = watched.seen
        facts = Facts(
            known=self._known(seen),
            run=seen.run,
            standing=self._prober.standing(seen.container_id),
            is_down=self._memories.of(seen.workload_id).ended,
            problem=watched.problem,
        )
        return report(component, facts)

    def comes_back(self, container_id: str) -> bool:
        """Whether a container that does not run is going to be started by itself."""
        watched = self._watched.get(container_id)
        if watched is None or self._memories.of(watched.seen.workload_id).ended:
            return False
        known = self._known(watched.seen)
        return known.ended_run != watched.seen.run or known.delay is not None

    def is_ended(self, workload_id: str) -> bool:
        """Whether `end` was called for it, and `begin` was not."""
        return self._memories.of(workload_id).ended

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever something may have changed."""
        return self._hints.changes()

    # One container

    def _see_one(self, container_id: str, sighting: Sighting, began: float) -> None:
        watched = self._watched.get(container_id)
        if watched is None:
            watched = self._watched[container_id] = _Watched(seen=sighting, began=began)
        if began < watched.began:
            return
        watched.seen, watched.began = sighting, began
        if self._memories.of(sighting.workload_id).ended:
            self._prober.end(container_id)
        elif sighting.running:
            known = self._known(sighting)
            standing = Standing(ready=known.ready, started=known.started) if known.run == sighting.run else None
            age = max(0.0, self._clock() - sighting.started_at)
            self._prober.begin(container_id, sighting.orders.probes, run=sighting.run, age=age, standing=standing)
        else:
            self._prober.end(container_id)
            if sighting.exit is not None:
                self._see_exit(watched, sighting.exit)

    def _see_exit(self, watched: _Watched, exit_: Exit) -> None:
        """Decide about this exit, unless it has been; then see that it is carried out."""
        seen, known = watched.seen, self._known(watched.seen)
        if known.ended_run != seen.run:
            if known.unhealthy_run == seen.run:
                exit_ = replace(exit_, reason=known.unhealthy_reason, unhealthy=True)
            self._remember(seen, self._decided(seen, known, exit_))
        if watched.restarting is None or watched.restarting.done():
            watched.restarting = self._task(self._guarded(watched, lambda: self._carry_out(watched, seen.run)))

    def _decided(self, seen: Sighting, known: Remembered, exit_: Exit) -> Remembered:
        now, back_off = self._clock(), self._limits.back_off
        decision = decide(seen.orders.policy, exit_, known.history, now=now, back_off=back_off)
        if not isinstance(decision, Restart):
            history = known.history.stayed(exit_)
            return replace(known, history=history, ended_run=seen.run, delay=None, due=None)
        log.info(
            "container_restarts",
            workload_id=seen.workload_id,
            container=seen.name,
            exit_code=exit_.exit_code,
            reason=exit_.reason,
            in_seconds=round(decision.at - now, 3),
        )
        history = known.history.restarted(exit_, now=decision.at, back_off=back_off)
        return replace(known, history=history, ended_run=seen.run, delay=decision.delay, due=decision.at)

    async def _carry_out(self, watched: _Watched, run: str) -> None:
        """Make the decision about the end of this run durable, and start the container when it is due."""
        seen = watched.seen
        await self._save(seen.workload_id, durable=True)
        self._hints.wake()
        known = self._known(seen)
        if known.delay is None or known.ended_run != run:
            return
        if known.due is None:
            # It was started, and yet it is seen to have ended as before: two runs may look alike in a list.
            self._acts.forget_inspection(seen.container_id)
            self._remember(seen, replace(known, due=self._clock() + max(known.delay, self._limits.settle)))
            self._hints.wake()
        while (due := self._known(seen).due) is not None:
            await asyncio.sleep(min(due - self._clock(), self._limits.back_off.cap))  # the clock may have been set back
            async with self._lock(seen.workload_id):
                if self._is_over(watched, run):
                    return
                await self._start(watched)
            self._hints.wake()
        await self._hook(watched)

    def _is_over(self, watched: _Watched, run: str) -> bool:
        seen = watched.seen
        gone = self._watched.get(seen.container_id) is not watched
        return gone or seen.run != run or seen.running or self._memories.of(seen.workload_id).ended

    async def _start(self, watched: _Watched) -> None:
        seen, known = watched.seen, self._known(watched.seen)
        try:
            await self._acts.start(seen.container_id)
        except (Refusal, BeemeshError) as error:
            watched.problem = getattr(error, "text", "") or str(error)
            wait = max(known.history.next_delay, self._limits.settle)
            self._remember(seen, replace(known, due=self._clock() + wait))
            log.warning("restart_failed", container=seen.name, workload_id=seen.workload_id, why=error)
            if isinstance(error, Refusal) and error.status == 404:
                self._drop(seen.container_id)
            return
        watched.problem = ""
        self._acts.forget_inspection(seen.container_id)
        self._remember(seen, replace(self._known(seen), due=None))
        await self._save(seen.workload_id, durable=False)

    async def _hook(self, watched: _Watched) -> None:
        """The hook of a container that was just started; one that fails ends the container, as in Kubernetes."""
        seen = watched.seen
        try:
            finding = await self._acts.post_start(seen.container_id)
            if finding.ok is False:
                log.warning("post_start_failed", container=seen.name, workload_id=seen.workload_id, why=finding.message)
                await self._acts.stop(seen.container_id, seen.orders.grace_seconds)
        except (Refusal, BeemeshError) as error:
            log.warning("post_start_failed", container=seen.name, workload_id=seen.workload_id, why=error)

    # Probes

    def _on_result(self, container_id: str, ready: bool, started: bool) -> None:
        watched = self._watched.get(container_id)
        if watched is None or self._closed:
            return
        known = self._known(watched.seen)
        once = known.ready_once or ready
        now = replace(known, run=watched.seen.run, ready=ready, started=started, ready_once=once)
        if now != known:
            self._remember(watched.seen, now)
            self._task(self._save(watched.seen.workload_id, durable=False))
        self._hints.wake()

    def _on_unhealthy(self, container_id: str, verdict: Unhealthy) -> None:
        watched = self._watched.get(container_id)
        if watched is not None and not self._closed:
            known = self._known(watched.seen)
            self._remember(
                watched.seen, replace(known, unhealthy_run=watched.seen.run, unhealthy_reason=verdict.reason)
            )
            run = watched.seen.run
            watched.stopping = self._task(self._guarded(watched, lambda: self._stop_unhealthy(watched, run, verdict)))

    async def _stop_unhealthy(self, watched: _Watched, run: str, verdict: Unhealthy) -> None:
        seen = watched.seen
        await self._save(seen.workload_id, durable=False)
        grace = seen.orders.grace_seconds if verdict.grace_seconds is None else verdict.grace_seconds
        for _ in range(_STOP_TRIES):
            if watched.seen.run != run or not watched.seen.running or self._memories.of(seen.workload_id).ended:
                return
            try:
                await self._acts.stop(seen.container_id, grace)
            except (Refusal, BeemeshError) as error:
                log.warning("stop_failed", container=seen.name, workload_id=seen.workload_id, why=error)
                await asyncio.sleep(self._limits.stop_retry)
            else:
                self._hints.wake()
                return
        self._prober.end(seen.container_id)  # the next sighting follows it anew

    async def _guarded(self, watched: _Watched, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # what concerns one container must not end the supervision of all
            log.error("supervision_failed", container=watched.seen.name, exc_info=error)
            await asyncio.sleep(self._limits.reopen)
            self._hints.wake()

    async def _save(self, workload_id: str, *, durable: bool) -> None:
        try:
            await self._memories.save(workload_id, durable=durable)
        except OSError as error:  # a container is rather restarted uncounted than not at all
            log.error("restart_memory_not_written", workload_id=workload_id, why=error)

    # Bookkeeping

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Not in the caller's context: the deadline of a request that read podman must not bound it."""
        return self._group.create_task(work, context=contextvars.Context())

    def _sighting(self, container_id: str) -> Sighting | None:
        watched = self._watched.get(container_id)
        return None if watched is None else watched.seen

    def _known(self, seen: Sighting) -> Remembered:
        return self._memories.of(seen.workload_id).of(seen.container_id)

    def _remember(self, seen: Sighting, remembered: Remembered) -> None:
        memory = self._memories.of(seen.workload_id)
        self._memories.change(seen.workload_id, memory.with_(seen.container_id, remembered))

    def _of(self, workload_id: str) -> list[tuple[str, _Watched]]:
        return [item for item in self._watched.items() if item[1].seen.workload_id == workload_id]

    def _lock(self, workload_id: str) -> asyncio.Lock:
        return self._acting.setdefault(workload_id, asyncio.Lock())

    def _drop(self, container_id: str) -> None:
        """It is gone."""
        self._prober.end(container_id)
        self._dialer.forget(container_id)
        watched = self._watched.pop(container_id, None)
        if watched is not None:
            for task in (watched.restarting, watched.stopping):
                if task is not None and task is not asyncio.current_task():
                    task.cancel()
            memory = self._memories.of(watched.seen.workload_id)
            left = {name: known for name, known in memory.containers.items() if name != container_id}
            self._memories.change(watched.seen.workload_id, replace(memory, containers=left))

    def _miss(self, containers: Collection[str], workloads: Collection[str]) -> None:
        """What two whole readings did not have is gone, and leaves nothing behind."""
        now = {*containers, *workloads}
        for container_id in self._missed & set(containers):
            self._drop(container_id)
        for workload_id in self._missed & set(workloads):
            self._task(self.forget(workload_id))
        self._missed = now
