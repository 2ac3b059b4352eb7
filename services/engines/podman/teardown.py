"""Ends pods as Kubernetes does, TERM, grace, KILL, then removes them; never by a stop of the pod as a whole.

While podman 4 stops a pod it holds the pod's lock: every listing of pods hangs for the whole grace period. Stopping the
containers one by one holds nothing. A mere TERM would not do: podman restarts a container that exits from it.

Removing a pod takes 30 ms, or stalls for more than 3 s: when a container has exited, its conmon starts a `podman
container cleanup`, which waits for the lock that the removal holds, while the removal waits for conmon's cgroup to be
empty. So the conmons are waited for first; see `conmons`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.engines.background import background
from services.engines.podman.api import Podman
from services.engines.podman.conmons import Conmon, conmon, gone
from services.engines.podman.dialer import Dialer
from services.engines.podman.http import Refusal
from services.engines.podman.objects import Objects
from services.engines.pods.hooks import Hooks, kept
from services.engines.pods.labels import LABEL_GRACE
from services.engines.pods.stopping import Stopper
from services.engines.pods.volumes import CLAIM, LABEL_VOLUME
from services.engines.pods.workload import DEFAULT_GRACE_SECONDS
from services.errors import DeadlineExceeded
from services.telemetry import Log

_POLL_SECONDS = 0.08
_LATE_SECONDS = 2.0
"""After the grace period, for podman's own KILL."""
_KILL_SECONDS = 5.0
"""How long a killed container may take to be gone before removal is tried all the same."""
_STOPPABLE = frozenset({"running", "paused"})
_UNSETTLED = _STOPPABLE | {"stopping", "stopped", "removing"}
"""`stopped` is not yet cleaned up after; what is exited, created or configured is no obstacle."""
_ROUNDS = 3

Listed = Mapping[str, Any]

log = Log(__name__)


def stopper(podman: Podman) -> Stopper:
    """Ends single containers."""

    async def stop(container: str, seconds: int) -> None:
        await podman.stop(container, seconds=seconds)

    return Stopper(hooks=Hooks(Dialer(podman)), kept=lambda container: hooks_of(podman, container), stop=stop)


async def hooks_of(podman: Podman, container: str) -> Mapping[str, Any]:
    """A container's hooks as they were kept; raises Refusal."""
    return kept((await podman.inspect(container)).get("Config", {}).get("Annotations"))


class Teardown:
    """The end of all pods that carry `labels`."""

    def __init__(self, *, podman: Podman, labels: Mapping[str, str]) -> None:
        self._podman = podman
        self._labels = labels
        self._objects = Objects(podman.socket, deadlines=podman.deadlines)
        self._stopper = stopper(podman)

    async def run(self, *, grace_seconds: float | None, force: bool, remove_volumes: bool = False) -> None:
        """Until podman has confirmed that nothing is left; raises DeadlineExceeded when something stays.

        Claims stay unless `remove_volumes`.
        """
        await self._pods(grace_seconds, force=force)
        for volume in await self._objects.volumes(self._labels):
            if remove_volumes or (volume.get("Labels") or {}).get(LABEL_VOLUME) != CLAIM:
                await self._objects.remove_volume(volume["Name"])

    async def _pods(self, grace_seconds: float | None, *, force: bool) -> None:
        for _ in range(_ROUNDS):  # a creation that was cut off may add a pod behind our back
            pods, containers = await asyncio.gather(
                self._podman.pods(self._labels), self._podman.containers(self._labels)
            )
            if not pods and not containers:
                return
            conmons = await self._conmons(pods)
            grace = max((_grace(pod) for pod in pods), default=0.0) if grace_seconds is None else grace_seconds
            if grace > 0 and not force:
                await self._stop(grace)
            await self._kill()
            await gone(conmons)
            await asyncio.gather(*(self._remove(pod["Id"]) for pod in pods))
            strays = [container["Id"] for container in containers if not container.get("Pod")]
            await asyncio.gather(*(self._objects.remove_container(stray) for stray in strays))
        if await self._podman.pods(self._labels):
            raise DeadlineExceeded(
                "podman has removed the workload's pods, and still lists them", reason="BACKEND_TIMEOUT"
            )

    async def stop(self, *, grace_seconds: float | None) -> None:
        """End all containers as `run` does and keep the pods; raises DeadlineExceeded when something still runs."""
        pods = await self._podman.pods(self._labels)
        grace = max((_grace(pod) for pod in pods), default=0.0) if grace_seconds is None else grace_seconds
        if grace > 0:
            await self._stop(grace)
        await self._kill()
        if left := dict(self._unsettled(await self._podman.pods(self._labels), infra=False)):
            raise DeadlineExceeded(
                f"podman has stopped the workload, and {len(left)} of its containers still run",
                reason="BACKEND_TIMEOUT",
            )

    async def _stop(self, grace: float) -> None:
        """Stop every container, again if it was just between two lives, until all have exited or the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        stops: dict[str, asyncio.Task[None]] = {}
        async with background() as start:
            while states := dict(self._unsettled(await self._podman.pods(self._labels), infra=False)):
                left = end - loop.time()
                if left < -_LATE_SECONDS:
                    return
                for container, state in states.items():
                    idle = container not in stops or stops[container].done()
                    if state in _STOPPABLE and idle and left > 0:
                        stops[container] = start(self._stopper.tried(container, seconds=end - loop.time()))
                await asyncio.sleep(_POLL_SECONDS)

    async def _kill(self) -> None:
        """Kill what is left, infra containers too, and wait until all have exited."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _KILL_SECONDS
        while loop.time() < end:
            pods = await self._podman.pods(self._labels)
            obstacles = [pod for pod in pods if dict(self._unsettled([pod], infra=True))]
            if not obstacles:
                return
            await asyncio.gather(*(self._kill_pod(pod["Id"]) for pod in obstacles))
            await asyncio.sleep(_POLL_SECONDS)

    async def _conmons(self, pods: Sequence[Listed]) -> list[Conmon]:
        """Of the pods' containers, infra containers included."""
        ids = [container["Id"] for pod in pods for container in pod.get("Containers") or []]
        pids = await asyncio.gather(*(self._conmon(container) for container in ids))
        return [conmon(container, pid) for container, pid in zip(ids, pids, strict=True) if pid]

    async def _conmon(self, container: str) -> int:
        try:
            return int((await self._podman.inspect(container)).get("State", {}).get("ConmonPid") or 0)
        except Refusal:  # it is gone
            return 0

    @staticmethod
    def _unsettled(pods: Sequence[Listed], *, infra: bool) -> Iterator[tuple[str, str]]:
        for pod in pods:
            for container in pod.get("Containers") or []:
                if container["Status"] in _UNSETTLED and (infra or container["Id"] != pod.get("InfraId")):
                    yield container["Id"], container["Status"]

    async def _kill_pod(self, pod: str) -> None:
        try:
            await self._podman.kill_pod(pod)
        except Refusal as refusal:  # nothing of it runs any more, or it is gone: the next look tells
            log.debug("kill_refused", pod=pod, why=refusal)

    async def _remove(self, pod: str) -> None:
        try:
            await self._podman.remove_pod(pod)
        except Refusal as refusal:
            if refusal.status != 404:
                raise


def _grace(pod: Listed) -> float:
    text = (pod.get("Labels") or {}).get(LABEL_GRACE, "")
    return float(text) if text.isdecimal() else DEFAULT_GRACE_SECONDS
