"""Stops containers and starts them again: nothing is recreated, nothing of a pod is lost but its address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from services.engines.engine import Component, Role, WorkloadState
from services.engines.podman.api import Podman
from services.engines.podman.containers import Containers
from services.engines.podman.http import Refusal
from services.engines.podman.teardown import Teardown
from services.engines.pods import classify

_POLL_SECONDS = 0.08
_RUNS = frozenset({WorkloadState.RUNNING, WorkloadState.STARTING, WorkloadState.DEGRADED})


class Control:
    """The containers of one workload, found by `labels`."""

    def __init__(self, *, podman: Podman, containers: Containers, workload_id: str, labels: Mapping[str, str]) -> None:
        self._podman = podman
        self._containers = containers
        self._workload_id = workload_id
        self._labels = labels

    async def stop(self, components: Sequence[Component], *, grace_seconds: float | None, signal: str) -> None:
        """Another signal goes first, to what runs; what it has not ended is stopped as always with the time left.

        Podman may restart what ended from the signal, if its policy says so; that short second life is stopped too.
        When its last container has stopped, podman stops a pod's infra container too: its host ports are free.
        """
        began = time.monotonic()
        if signal:
            await asyncio.gather(*(self._signal(c, signal) for c in components if c.state in _RUNS))
            if grace_seconds is not None:
                await self._wait(grace_seconds)
                grace_seconds = max(0.0, grace_seconds - (time.monotonic() - began))
        await Teardown(podman=self._podman, labels=self._labels).stop(grace_seconds=grace_seconds)

    async def _signal(self, component: Component, signal: str) -> None:
        await self._containers.signal(component.component_id, signal)

    async def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            listed = await self._podman.containers(self._labels)
            if not any(container["State"] in ("running", "stopping") for container in listed):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def start(self, components: Sequence[Component]) -> None:
        """Start every main container that does not run, in order.

        The infra containers go first: of one that is started along with another podman does not say what went wrong.
        Raises what a create would: FailedPrecondition(PORT_IN_USE, START_FAILED), ResourceExhausted.
        """
        ended = [c.component_id for c in components if c.role is Role.MAIN and c.state not in _RUNS]
        for pod in await self._podman.pods(self._labels):
            if {container["Id"] for container in pod.get("Containers") or ()} & set(ended) and pod.get("InfraId"):
                await self._start(pod["InfraId"])
        for container in ended:
            await self._start(container)

    async def _start(self, container: str) -> None:
        try:
            await self._containers.start(container)
        except Refusal as refusal:
            raise classify.start_error([refusal.text], workload_id=self._workload_id, backend="podman") from refusal
