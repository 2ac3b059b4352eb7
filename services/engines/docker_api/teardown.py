"""Ends a workload and makes sure that it is gone: found by its labels, stopped in time, removed, looked for again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from services.engines.docker_api.api import Docker, Labels
from services.engines.unix_http import Refusal
from services.errors import BeemeshError, Internal
from services.telemetry import Log

DEFAULT_GRACE_SECONDS = 10.0
"""Docker's own, where the service says nothing."""
_SECONDS = 60.0
"""For removing it all."""
_POLL_SECONDS = 0.1
_BRIEF_SECONDS = 0.02
"""After a removal that docker has taken; it may still be under way."""
_MAX_TEXT = 300

log = Log(__name__)


class Teardown:
    """What carries `labels`, which are those of one workload, or of one canary."""

    def __init__(self, docker: Docker, labels: Labels, *, volumes: Labels | None = None) -> None:
        """`volumes` are the labels of its volumes, where those are others."""
        self._docker = docker
        self._labels = labels
        self._volumes = volumes or labels

    async def run(self, *, volumes: bool = False, spared: Callable[[Mapping[str, str]], bool] | None = None) -> None:
        """Remove it, killing what still runs; returns when docker has said that nothing is left.

        Its volumes too if asked to, but for those whose labels say that they are `spared`.

        What an interrupted creation has asked docker for may come into being meanwhile: it is looked for until two
        looks in a row find nothing. Raises Internal(BACKEND_ERROR) when something cannot be removed.
        """
        loop, clean, trouble = asyncio.get_running_loop(), 0, ""
        end = loop.time() + _SECONDS
        while loop.time() < end:
            removals = await self._removals(volumes=volumes, spared=spared or (lambda _: False))
            clean = 0 if removals else clean + 1
            if clean == 2:
                return
            if said := [text for text in await asyncio.gather(*map(_tried, removals)) if text]:
                trouble = said[0]
            await asyncio.sleep(_POLL_SECONDS if clean or trouble else _BRIEF_SECONDS)
        why = trouble or "it keeps coming back"
        raise Internal(f"{self._docker.backend} did not remove all of it: {why}", reason="BACKEND_ERROR")

    async def _removals(
        self, *, volumes: bool, spared: Callable[[Mapping[str, str]], bool]
    ) -> list[Callable[[], Awaitable[None]]]:
        """What is to be done next: containers hold networks and volumes."""
        if containers := await self._docker.containers(self._labels):
            return [partial(self._docker.remove_container, each["Id"]) for each in containers]
        if networks := await self._docker.networks(self._labels):
            return [partial(self._docker.remove_network, each["Id"]) for each in networks]
        found = await self._docker.volumes(self._volumes) if volumes else []
        return [
            partial(self._docker.remove_volume, each["Name"]) for each in found if not spared(each.get("Labels") or {})
        ]

    async def stop(self, *, grace_seconds: float | None) -> None:
        """Give every container its grace period (None: its own), all at once."""
        running = [each for each in await self._docker.containers(self._labels) if runs(each)]
        await asyncio.gather(*(self._stop(each, grace_seconds) for each in running))

    async def _stop(self, container: Mapping[str, Any], grace_seconds: float | None) -> None:
        whole = None if grace_seconds is None else math.ceil(grace_seconds)
        try:
            await self._docker.stop(container["Id"], seconds=whole, grace=grace_of(container))
        except (Refusal, BeemeshError) as error:  # it will be killed; and if docker is gone, the next look says so
            log.debug("stop_failed", container=container["Id"][:12], why=error)


def runs(container: Mapping[str, Any]) -> bool:
    """Whether it has a process, or is about to get one again."""
    return (container.get("State") or {}).get("Status") in ("running", "paused", "restarting", "stopping")


def grace_of(container: Mapping[str, Any]) -> float:
    """Seconds that it was promised when it was made."""
    return float((container.get("Config") or {}).get("StopTimeout") or DEFAULT_GRACE_SECONDS)  # 0: podman's for none


def longest_grace(containers: Iterable[Mapping[str, Any]]) -> float:
    """Seconds that stopping them one after the other may take."""
    return sum(grace_of(container) for container in containers)


async def _tried(removal: Callable[[], Awaitable[None]]) -> str:
    """What docker had against it; it is looked at again."""
    try:
        await removal()
    except Refusal as refusal:
        return refusal.text[:_MAX_TEXT]
    return ""
