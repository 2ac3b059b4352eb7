"""Ends pods as Kubernetes does, hooks, TERM, grace, KILL; those of a whole workload, or one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from services.engines.docker.pods.dialer import DockerDialer
from services.engines.docker.pods.labels import is_infra, kept, of_volumes, of_workload
from services.engines.docker_api.api import Docker
from services.engines.docker_api.teardown import Teardown, grace_of, runs
from services.engines.pods.hooks import Hooks
from services.engines.pods.labels import LABEL_POD
from services.engines.pods.stopping import Stopper
from services.engines.pods.volumes import CLAIM, LABEL_VOLUME
from services.errors import DeadlineExceeded

_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0
"""How long a killed container may take to be gone."""


def stopper(docker: Docker) -> Stopper:
    """Ends single containers."""

    async def stop(container: str, seconds: int) -> None:
        await docker.stop(container, seconds=seconds, grace=0.0)

    return Stopper(hooks=Hooks(DockerDialer(docker)), kept=lambda container: hooks_of(docker, container), stop=stop)


async def hooks_of(docker: Docker, container: str) -> Mapping[str, Any]:
    """A container's hooks as they were kept; raises Refusal."""
    return kept(await docker.inspect(container))


class Ending:
    """The end of a workload's pods; of one of them where `pod` names it. Calls raise Refusal and BeemeshError."""

    def __init__(self, docker: Docker, *, node_id: str, workload_id: str, pod: str = "") -> None:
        own = {LABEL_POD: pod} if pod else {}
        self._docker = docker
        self._labels = {**of_workload(node_id, workload_id), **own}
        self._volumes = {**of_volumes(node_id, workload_id), **own}
        self._stopper = stopper(docker)

    async def run(self, *, grace_seconds: float | None, force: bool, remove_volumes: bool = False) -> None:
        """Until docker has said that nothing is left; claims stay unless `remove_volumes`."""
        if not force:
            await self._stop_all(grace_seconds)
        teardown = Teardown(self._docker, self._labels, volumes=self._volumes)

        def is_spared(marks: Mapping[str, str]) -> bool:
            return not remove_volumes and marks.get(LABEL_VOLUME) == CLAIM

        await teardown.run(volumes=True, spared=is_spared)

    async def stop(self, *, grace_seconds: float | None, signal: str) -> None:
        """End all containers and keep them; `signal` goes first, and what it has not ended is stopped as always.

        The infra containers end last: they keep the ports of the machine. Raises DeadlineExceeded when something still
        runs.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if signal:
            running = [each["Id"] for each in await self._running() if not is_infra(each)]
            await asyncio.gather(*(self._docker.signal(each, signal) for each in running))
            if grace_seconds is not None:
                await self._wait(grace_seconds)
                grace_seconds = max(0.0, grace_seconds - (loop.time() - began))
        await self._stop_all(grace_seconds)
        if left := await self._killed():
            raise DeadlineExceeded(
                f"docker has stopped the workload, and {left} of its containers still run", reason="BACKEND_TIMEOUT"
            )

    async def _stop_all(self, grace_seconds: float | None) -> None:
        """Give every container its time, all at once."""
        wanted = [each for each in await self._running() if not is_infra(each)]
        graces = [grace_of(each) if grace_seconds is None else grace_seconds for each in wanted]
        await asyncio.gather(
            *(
                self._stopper.tried(each["Id"], seconds=grace)
                for each, grace in zip(wanted, graces, strict=True)
                if grace > 0
            )
        )

    async def _killed(self) -> int:
        """Kill what is left, infra containers too; how many still run after that."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _KILL_SECONDS
        while running := await self._running():
            if loop.time() > end:
                break
            await asyncio.gather(*(self._docker.signal(each, "KILL") for each in _ids(running)))
            await asyncio.sleep(_POLL_SECONDS)
        return len(running)

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            if all(map(is_infra, await self._running())):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _running(self) -> list[dict[str, Any]]:
        return [each for each in await self._docker.containers(self._labels) if runs(each)]


def _ids(containers: Iterable[Mapping[str, Any]]) -> list[str]:
    return [str(each["Id"]) for each in containers]
