"""Whether the backend can run workloads: probed regularly, each probe bounded, never two at a time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Self

from services.engines.engine import Health, HealthState
from services.engines.streams import closed_after
from services.errors import BeemeshError
from services.rpc.watch import EventType, Feed
from services.telemetry import Log

_KEY = "backend"
_SILENT = frozenset({"PROBE_TIMEOUT", "PING_TIMEOUT", "SOCKET_UNREACHABLE", "BACKEND_UNREACHABLE"})
"""Reasons of ill health that mean: asking the backend anything else would only wait."""

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStatus:
    """The backend's health and its history; times are seconds since 1970."""

    health: Health
    last_transition_time: float
    last_probe_time: float | None = field(default=None, compare=False)
    """When the last probe ended, or was found to hang."""
    flap_count: int = 0
    """How often it ceased to be healthy."""

    @property
    def why_unreachable(self) -> str:
        """Why the backend is known not to answer; "" when it may answer, also when it is sick in another way."""
        if self.health.state is HealthState.UNHEALTHY and self.health.reason in _SILENT:
            return self.health.message or self.health.reason
        return ""


class Monitor:
    """Probes by `probe` every `interval` seconds; one that takes longer than `timeout` is UNHEALTHY/PROBE_TIMEOUT.

    A probe that hangs is not joined by a second one: when it ends at last, its finding counts. One that hangs longer
    than `abandon` is given up. `async with` starts and stops probing.
    """

    def __init__(
        self,
        *,
        probe: Callable[[], Awaitable[Health]],
        clock: Callable[[], float],
        interval: float,
        timeout: float,
        epoch: str,
        abandon: float = 60.0,
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._abandon = abandon
        self._running: asyncio.Task[None] | None = None
        self._draining = False
        self._group = asyncio.TaskGroup()
        self._loop: asyncio.Task[None] | None = None
        not_yet = Health(state=HealthState.UNDETECTED, reason="NOT_PROBED", message="the backend was not probed yet")
        self._status = HealthStatus(health=not_yet, last_transition_time=clock())
        self._feed: Feed[HealthStatus] = Feed(epoch=epoch)
        self._feed.put(_KEY, self._status)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._loop = self._group.create_task(self._probe_forever())
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in (self._loop, self._running):
            if task is not None:
                task.cancel()
        await self._group.__aexit__(None, None, None)

    @property
    def status(self) -> HealthStatus:
        """What is known now, without waiting."""
        if not self._draining:
            return self._status
        draining = Health(state=HealthState.DRAINING, reason="ENGINE_STOPPING", message="the engine is stopping")
        return replace(self._status, health=draining)

    def drain(self) -> None:
        """From now on the health is DRAINING."""
        self._draining = True
        self._feed.put(_KEY, self.status)

    async def probe_now(self) -> HealthStatus:
        """Probe, or wait for the probe under way; returns after `timeout` seconds at the latest."""
        task = self._running
        if task is None:
            task = self._running = self._group.create_task(self._probe_once(), context=contextvars.Context())
        await asyncio.wait([task], timeout=self._timeout)
        if not task.done():
            self._settle(
                Health(
                    state=HealthState.UNHEALTHY,
                    reason="PROBE_TIMEOUT",
                    message=f"the backend did not answer a probe within {self._timeout:g}s",
                )
            )
        return self.status

    async def watch(self) -> AsyncIterator[HealthStatus]:
        """The status now, then at every change."""
        last = self.status
        yield last
        async with closed_after(self._feed.watch(skip_snapshot=True)) as events:
            async for event in events:
                if event.type in (EventType.SYNCED, EventType.UPDATED) and last != self.status:
                    last = self.status
                    yield last

    async def _probe_forever(self) -> None:
        while True:
            await self.probe_now()
            await asyncio.sleep(self._interval)

    async def _probe_once(self) -> None:
        try:
            async with asyncio.timeout(self._abandon):
                health = await self._probe()
        except TimeoutError:
            return
        except BeemeshError as error:
            health = Health(state=HealthState.UNHEALTHY, reason=error.reason, message=error.message)
        except Exception as error:  # a defect of the engine must not end the monitor
            log.error("probe_failed", exc_info=error)
            health = Health(
                state=HealthState.UNHEALTHY,
                reason="PROBE_FAILED",
                message="the probe failed; the engine's log says why",
            )
        finally:
            self._running = None
        self._settle(health)

    def _settle(self, health: Health) -> None:
        now, before = self._clock(), self._status
        changed = health.state is not before.health.state
        flapped = before.health.state is HealthState.HEALTHY and changed
        self._status = HealthStatus(
            health=health,
            last_transition_time=now if changed else before.last_transition_time,
            last_probe_time=now,
            flap_count=before.flap_count + flapped,
        )
        if changed:
            log.info("health_changed", state=health.state.name, reason=health.reason, message=health.message)
        self._feed.put(_KEY, self.status)
