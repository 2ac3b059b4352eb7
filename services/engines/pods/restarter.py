"""Starts containers again that have ended, as their policy says: decided once an exit, and on disk before that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from services.engines.pods.acts import Acts, SupervisorLimits
from services.engines.pods.errands import Errands
from services.engines.pods.memory import Remembered
from services.engines.pods.supervision import Sighting
from services.engines.pods.wards import Ward, Wards
from services.engines.restarts import Exit, Restart, decide
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.telemetry import Log

log = Log(__name__)


class Restarter:
    """Carries out the restarts of all wards."""

    def __init__(
        self,
        *,
        wards: Wards,
        acts: Acts,
        errands: Errands,
        clock: Callable[[], float],
        limits: SupervisorLimits,
        wake: Callable[[], None],
        drop: Callable[[str], None],
    ) -> None:
        """`wake` is told when something may have changed, `drop` the id of a container that is gone."""
        self._wards = wards
        self._acts = acts
        self._errands = errands
        self._clock = clock
        self._limits = limits
        self._wake = wake
        self._drop = drop

    def see_exit(self, ward: Ward, exit_: Exit) -> None:
        """Decide about this exit, unless it has been; then see that it is carried out."""
        seen, known = ward.seen, self._wards.known(ward.seen)
        if known.ended_run != seen.run:
            if known.unhealthy_run == seen.run:
                exit_ = replace(exit_, reason=known.unhealthy_reason, message=known.unhealthy_message, unhealthy=True)
            self._wards.remember(seen, self._decided(seen, known, exit_))
        if ward.restarting is None or ward.restarting.done():
            ward.restarting = self._errands.guard(seen.name, lambda: self._carry_out(ward, seen.run))

    def _decided(self, seen: Sighting, known: Remembered, exit_: Exit) -> Remembered:
        now, back_off = self._clock(), self._limits.back_off
        decision = decide(seen.orders.policy, exit_, known.history, now=now, back_off=back_off)
        attempts = seen.orders.attempts
        spent = attempts is not None and known.history.restart_count >= attempts
        if spent or not isinstance(decision, Restart):
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

    async def _carry_out(self, ward: Ward, run: str) -> None:
        """Make the decision about the end of this run durable, and start the container when it is due."""
        seen = ward.seen
        await self._wards.save(seen.workload_id, durable=True)
        self._wake()
        known = self._wards.known(seen)
        if known.delay is None or known.ended_run != run:
            return
        if known.due is None:
            # It was started, and yet it is seen to have ended as before: two runs may look alike in a list.
            self._acts.forget_inspection(seen.container_id)
            self._wards.remember(seen, replace(known, due=self._clock() + max(known.delay, self._limits.settle)))
            self._wake()
        while (due := self._wards.known(seen).due) is not None:
            await asyncio.sleep(min(due - self._clock(), self._limits.back_off.cap))  # the clock may have been set back
            async with self._wards.lock(seen.workload_id):
                if self._is_over(ward, run):
                    return
                await self._start(ward)
            self._wake()
        await self._hook(ward)

    def _is_over(self, ward: Ward, run: str) -> bool:
        seen = ward.seen
        gone = self._wards.get(seen.container_id) is not ward
        return gone or seen.run != run or seen.running or self._wards.is_down(seen.workload_id)

    async def _start(self, ward: Ward) -> None:
        seen, known = ward.seen, self._wards.known(ward.seen)
        try:
            await self._acts.start(seen.container_id)
        except (Refusal, BeemeshError) as error:
            ward.problem = getattr(error, "text", "") or str(error)
            wait = max(known.history.next_delay, self._limits.settle)
            self._wards.remember(seen, replace(known, due=self._clock() + wait))
            log.warning("restart_failed", container=seen.name, workload_id=seen.workload_id, why=error)
            if isinstance(error, Refusal) and error.status == 404:
                self._drop(seen.container_id)
            return
        ward.problem = ""
        self._acts.forget_inspection(seen.container_id)
        self._wards.remember(seen, replace(self._wards.known(seen), due=None))
        await self._wards.save(seen.workload_id, durable=False)

    async def _hook(self, ward: Ward) -> None:
        """The hook of a container that was just started; one that fails ends the container, as in Kubernetes."""
        seen = ward.seen
        try:
            finding = await self._acts.post_start(seen.container_id)
            if finding.ok is False:
                log.warning("post_start_failed", container=seen.name, workload_id=seen.workload_id, why=finding.message)
                await self._acts.stop(seen.container_id, seen.orders.grace_seconds)
        except (Refusal, BeemeshError) as error:
            log.warning("post_start_failed", container=seen.name, workload_id=seen.workload_id, why=error)
