"""Has the probes of containers run, remembers who is ready, and stops who is not healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from services.engines.pods.acts import Acts, Dialer, SupervisorLimits
from services.engines.pods.errands import Errands
from services.engines.pods.wards import Ward, Wards
from services.engines.probe_handlers import Handlers
from services.engines.prober import Prober
from services.engines.probes import Restart as Unhealthy
from services.engines.probes import Standing
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.telemetry import Log

_STOP_TRIES = 10

log = Log(__name__)


class Probing:
    """The probes of all wards; `async with` bounds those under way."""

    def __init__(
        self,
        *,
        wards: Wards,
        dialer: Dialer,
        acts: Acts,
        errands: Errands,
        clock: Callable[[], float],
        limits: SupervisorLimits,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is told when something may have changed."""
        self._wards = wards
        self._dialer = dialer
        self._acts = acts
        self._errands = errands
        self._clock = clock
        self._limits = limits
        self._wake = wake
        self._closed = False
        self._prober = Prober(check=Handlers(dialer).check, on_result=self.on_result, on_restart=self.on_unhealthy)

    async def __aenter__(self) -> Self:
        await self._prober.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        await self._prober.__aexit__(None, None, None)

    def begin(self, ward: Ward) -> None:
        """It runs: its probes are, too."""
        seen, known = ward.seen, self._wards.known(ward.seen)
        standing = Standing(ready=known.ready, started=known.started) if known.run == seen.run else None
        age = max(0.0, self._clock() - seen.started_at)
        self._prober.begin(seen.container_id, seen.orders.probes, run=seen.run, age=age, standing=standing)

    def end(self, container_id: str) -> None:
        """It does not run, or is being ended; its next run may have another address."""
        self._prober.end(container_id)
        self._dialer.forget(container_id)

    def standing(self, container_id: str) -> Standing | None:
        """Whether it is ready and has started; None while its probes are not run."""
        return self._prober.standing(container_id)

    def on_result(self, container_id: str, ready: bool, started: bool) -> None:
        """One of the two has changed."""
        ward = self._wards.get(container_id)
        if ward is None or self._closed:
            return
        known = self._wards.known(ward.seen)
        once = known.ready_once or ready
        now = replace(known, run=ward.seen.run, ready=ready, started=started, ready_once=once)
        if now != known:
            self._wards.remember(ward.seen, now)
            self._errands.start(self._wards.save(ward.seen.workload_id, durable=False))
        self._wake()

    def on_unhealthy(self, container_id: str, verdict: Unhealthy) -> None:
        """It is to be stopped: the restarter does the rest, and knows from the memory that this was a failure."""
        ward = self._wards.get(container_id)
        if ward is not None and not self._closed:
            known, run = self._wards.known(ward.seen), ward.seen.run
            failed = replace(
                known, unhealthy_run=run, unhealthy_reason=verdict.reason, unhealthy_message=verdict.message
            )
            self._wards.remember(ward.seen, failed)
            ward.stopping = self._errands.guard(ward.seen.name, lambda: self._stop(ward, run, verdict))

    async def _stop(self, ward: Ward, run: str, verdict: Unhealthy) -> None:
        seen = ward.seen
        await self._wards.save(seen.workload_id, durable=False)
        grace = seen.orders.grace_seconds if verdict.grace_seconds is None else verdict.grace_seconds
        for _ in range(_STOP_TRIES):
            if ward.seen.run != run or not ward.seen.running or self._wards.is_down(seen.workload_id):
                return
            try:
                await self._acts.stop(seen.container_id, grace)
            except (Refusal, BeemeshError) as error:
                log.warning("stop_failed", container=seen.name, workload_id=seen.workload_id, why=error)
                await asyncio.sleep(self._limits.stop_retry)
            else:
                self._wake()
                return
        self._prober.end(seen.container_id)  # the next sighting follows it anew
