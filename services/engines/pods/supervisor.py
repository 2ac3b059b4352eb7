"""Keeps containers alive as a kubelet would: runs their probes, and restarts what ended as its policy says.

It learns from readings of the backend what runs and what ended, whoever asked for them. What it decides is on disk
before it acts, so that an engine that was killed goes on where it was; a container is started only while its workload
is meant to run. docs/adr/0015-podman-supervisor.md says why the backend does not do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Self

from services.engines.engine import Component
from services.engines.pods.acts import Acts, Dialer, SupervisorLimits
from services.engines.pods.errands import Errands
from services.engines.pods.hints import Hints
from services.engines.pods.memory import Memories
from services.engines.pods.probing import Probing
from services.engines.pods.report import Facts, report
from services.engines.pods.restarter import Restarter
from services.engines.pods.supervision import Sighting
from services.engines.pods.wards import Ward, Wards
from services.engines.probes import Restart as Unhealthy

NETWORK_LOST = Unhealthy(reason="PodNetworkLost", message="what held its pod's network has ended", grace_seconds=None)
"""Why a container is stopped that is `cut_off`."""


class Supervisor:
    """The containers of one engine; `async with` bounds all that it does, and stops none of them."""

    def __init__(
        self,
        *,
        events: Callable[[], AsyncIterator[object]],
        dialer: Dialer,
        memories: Memories,
        acts: Acts,
        may_run: Callable[[str], bool],
        clock: Callable[[], float],
        limits: SupervisorLimits | None = None,
    ) -> None:
        """`events` opens a stream of all that happens to the containers; `dialer` is for their probes.

        `may_run` says of a workload whether it is meant to run; it is asked before each start.
        """
        limits = limits or SupervisorLimits()
        self._wards = Wards(memories=memories, may_run=may_run)
        self._hints = Hints(
            events=events,
            read=acts.read,
            poll=limits.poll,
            settle=limits.settle,
            reopen=limits.reopen,
        )
        wake = self._hints.wake
        self._errands = Errands(pause=limits.reopen, wake=wake)
        self.probing = Probing(
            wards=self._wards,
            dialer=dialer,
            acts=acts,
            errands=self._errands,
            clock=clock,
            limits=limits,
            wake=wake,
        )
        """Hears what the probes find."""
        self._restarter = Restarter(
            wards=self._wards,
            acts=acts,
            errands=self._errands,
            clock=clock,
            limits=limits,
            wake=wake,
            drop=self._drop,
        )
        self._released: set[str] = set()
        """Containers that are being removed."""
        self._loops: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        self._wards.load()
        await self._errands.__aenter__()
        await self.probing.__aenter__()
        self._loops += [self._errands.start(self._hints.follow()), self._errands.start(self._hints.listen())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        await self.probing.__aexit__(None, None, None)
        tasks = [task for ward in self._wards.all() for task in (ward.restarting, ward.stopping) if task is not None]
        for task in (*tasks, *self._loops):
            task.cancel()
        await self._errands.__aexit__(None, None, None)
        self._wards.close()

    # What others tell it

    async def end(self, workload_id: str) -> None:
        """The workload is about to be stopped or removed: from here on nothing of it is started, until `begin`.

        On return no start is under way. That it lasts over a restart of the engine, `may_run` must say.
        """
        self._wards.end(workload_id)
        for ward in self._wards.of(workload_id):
            self.probing.end(ward.seen.container_id)
            if ward.stopping is not None:
                ward.stopping.cancel()
        async with self._wards.lock(workload_id):
            for ward in self._wards.of(workload_id):
                if ward.restarting is not None:
                    ward.restarting.cancel()
        self._hints.wake()

    def begin(self, workload_id: str) -> None:
        """The workload runs, as somebody wanted: it is kept alive from here on."""
        self._wards.begin(workload_id)
        self._hints.wake()

    async def forget(self, workload_id: str) -> None:
        """The workload is gone, with all its containers."""
        for ward in self._wards.of(workload_id):
            self._drop(ward.seen.container_id)
        await self._wards.forget(workload_id)

    def release(self, containers: Collection[str]) -> None:
        """These are about to be removed while their workload runs on: they are not started again."""
        self._released |= set(containers)
        for container_id in containers:
            self._drop(container_id)

    def cut_off(self, container_id: str) -> None:
        """It runs, and has lost its pod's network: it is stopped as one that is not healthy, and its policy decides."""
        ward = self._wards.get(container_id)
        if self._closed or ward is None or self._wards.is_down(ward.seen.workload_id):
            return
        if ward.stopping is None or ward.stopping.done():
            self.probing.on_unhealthy(container_id, NETWORK_LOST)

    def see(self, sightings: Iterable[Sighting], *, began: float, whole: bool) -> None:
        """The backend was read; `began` is the event loop's time before that, `whole` that all workloads were read."""
        if self._closed or began < self._hints.latest:
            return
        seen = {sighting.container_id: sighting for sighting in sightings}
        if whole:
            self._released &= seen.keys()
        for container_id in seen.keys() - self._released:
            ward = self._wards.see(seen[container_id], began)
            if ward is not None:
                self._look_after(ward)
        if whole:
            self._hints.latest = began
            self._miss(seen)

    # What others ask it

    def describe(self, component: Component) -> Component:
        """What the backend has of a container, with what is known of it here."""
        ward = self._wards.get(component.component_id)
        if ward is None:
            return component
        seen = ward.seen
        facts = Facts(
            known=self._wards.known(seen),
            run=seen.run,
            standing=self.probing.standing(seen.container_id),
            is_down=self._wards.is_down(seen.workload_id),
            problem=ward.problem,
        )
        return report(component, facts)

    def comes_back(self, container_id: str) -> bool:
        """Whether a container that does not run is going to be started by itself."""
        ward = self._wards.get(container_id)
        if ward is None or self._wards.is_down(ward.seen.workload_id):
            return False
        known = self._wards.known(ward.seen)
        return known.ended_run != ward.seen.run or known.delay is not None

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever something may have changed."""
        return self._hints.changes()

    def wake(self) -> None:
        """Something may have changed that podman does not tell."""
        self._hints.wake()

    def _look_after(self, ward: Ward) -> None:
        seen = ward.seen
        if seen.running and not self._wards.is_down(seen.workload_id):
            self.probing.begin(ward)
            return
        self.probing.end(seen.container_id)
        if seen.exit is not None and not self._wards.is_down(seen.workload_id):
            self._restarter.see_exit(ward, seen.exit)

    def _drop(self, container_id: str) -> None:
        """It is gone."""
        self.probing.end(container_id)
        self._wards.drop(container_id)

    def _miss(self, seen: Mapping[str, Sighting]) -> None:
        """What two whole readings did not have is gone, and leaves nothing behind."""
        workloads = {sighting.workload_id for sighting in seen.values()}
        containers, forgotten = self._wards.missing(seen.keys(), workloads)
        for container_id in containers:
            self._drop(container_id)
        for workload_id in forgotten:
            self._errands.start(self.forget(workload_id))
