"""Runs the probes of an engine's containers and says what changed; what results mean is in `probes`.

Time is the event loop's: between two probes a container costs one timer. A probe that takes its time delays no other.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from services.engines.probes import Exec, Finding, Handler, Kind, Probe, Probes, Restart, Standing, Track
from services.telemetry import Log

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLimits:
    """How many probes are run at once; one beyond it waits its turn, which is not held against the container."""

    commands: int = 16
    """exec: each is a process in a container and a request to the backend."""
    connections: int = 256
    """httpGet, tcpSocket and grpc: each is a socket."""


class Check(Protocol):
    """Runs a handler once; `Handlers.check`. Ends within about `timeout` seconds and never raises."""

    async def __call__(self, component_id: str, handler: Handler, *, timeout: float) -> Finding:
        """What was found."""


OnResult = Callable[[str, bool, bool], None]
"""Told of a component's id, readiness and startedness whenever one of the two changed; at first both are false."""
OnRestart = Callable[[str, Restart], None]
"""Told once that a component is to be stopped and restarted; `Prober.begin` with the new run goes on from there."""


@dataclass(slots=True, kw_only=True)
class _Followed:
    """One run of one container."""

    run: str
    track: Track
    told: tuple[bool, bool] = (False, False)
    """Ready and started, as last told."""
    task: asyncio.Task[None] | None = None


class Prober:
    """Follows containers from `begin` to `end`; `async with` bounds all of it.

    The callbacks are called on the event loop and must return at once; to act, they start or wake a task of their
    engine's. They may call `begin` and `end`.
    """

    def __init__(
        self, *, check: Check, on_result: OnResult, on_restart: OnRestart, limits: ProbeLimits | None = None
    ) -> None:
        limits = limits or ProbeLimits()
        self._check = check
        self._on_result = on_result
        self._on_restart = on_restart
        self._commands = asyncio.Semaphore(limits.commands)
        self._connections = asyncio.Semaphore(limits.connections)
        self._followed: dict[str, _Followed] = {}
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for followed in self._followed.values():
            if followed.task is not None:
                followed.task.cancel()
        self._followed.clear()
        await self._group.__aexit__(None, None, None)

    def begin(
        self, component_id: str, probes: Probes, *, run: str, age: float = 0.0, standing: Standing | None = None
    ) -> None:
        """Follow a running container; `run` names this run of it (e.g. its start time), and a repeat changes nothing.

        `age` is for how many seconds it has been running, `standing` how it stood when another prober followed this
        same run. A new run ends the one before it and counts anew.
        """
        known = self._followed.get(component_id)
        if known is not None and known.run == run:
            return
        self.end(component_id)
        track = Track(probes, started_at=_now() - max(0.0, age), standing=standing)
        followed = self._followed[component_id] = _Followed(run=run, track=track)
        if probes:
            # The deadline of a request that is being served just now must not bound the probes.
            work = self._follow(component_id, followed, probes)
            followed.task = self._group.create_task(work, context=contextvars.Context())
        self._tell(component_id, followed)

    def end(self, component_id: str) -> None:
        """The container stopped, or is about to be stopped: it is not ready. A repeat is harmless."""
        followed = self._followed.pop(component_id, None)
        if followed is None:
            return
        followed.track.stop()
        if followed.task is not None and followed.task is not asyncio.current_task():
            followed.task.cancel()
        self._tell(component_id, followed)

    def standing(self, component_id: str) -> Standing | None:
        """How the container stands, and why; None when it is not followed."""
        followed = self._followed.get(component_id)
        return None if followed is None else followed.track.standing

    @property
    def followed(self) -> frozenset[str]:
        """The components that are followed."""
        return frozenset(self._followed)

    async def _follow(self, component_id: str, followed: _Followed, probes: Probes) -> None:
        try:
            await self._repeat(component_id, followed, Kind.STARTUP, probes.startup)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(component_id, followed, Kind.LIVENESS, probes.liveness))
                group.create_task(self._repeat(component_id, followed, Kind.READINESS, probes.readiness))
        except Exception as error:  # a defect that concerns one container must not end the probing of all
            log.error("probing_ended", component_id=component_id, exc_info=error)

    async def _repeat(self, component_id: str, followed: _Followed, kind: Kind, probe: Probe | None) -> None:
        """Run one probe each time that it is due, until it is not due again."""
        track = followed.track
        while probe is not None and (due := track.due(kind)) is not None:
            await asyncio.sleep(due - _now())
            async with self._commands if isinstance(probe.handler, Exec) else self._connections:
                track.begin(kind, _now())
                finding = await self._check(component_id, probe.handler, timeout=probe.timeout)
            restart = track.result(kind, finding, _now())
            self._tell(component_id, followed)
            if restart is not None:
                log.info("probe_failed", component_id=component_id, reason=restart.reason, message=restart.message)
                self._call(self._on_restart, component_id, restart)

    def _tell(self, component_id: str, followed: _Followed) -> None:
        standing = followed.track.standing
        now = (standing.ready, standing.started)
        if now != followed.told:
            followed.told = now
            self._call(self._on_result, component_id, *now)

    def _call(self, callback: Callable[..., None], component_id: str, *facts: object) -> None:
        try:
            callback(component_id, *facts)
        except Exception as error:  # an engine's defect must not end the probing
            log.error("probe_callback_failed", component_id=component_id, exc_info=error)


def _now() -> float:
    return asyncio.get_running_loop().time()
