"""Brings what podman has of a workload to what is asked for now, and touches nothing that is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from services.engines.podman.api import Podman
from services.engines.podman.create import Creator
from services.engines.podman.http import Refusal
from services.engines.podman.objects import Objects
from services.engines.podman.render import Plan, Pod
from services.engines.podman.teardown import Teardown
from services.engines.pods.labels import LABEL_POD
from services.engines.unix_http import shorten
from services.errors import BeemeshError, Internal
from services.telemetry import Log

_NOT_STARTED = frozenset({"created", "configured", "initialized"})

log = Log(__name__)


class Updater:
    """Brings the pods of a workload to a plan; pods that are whole are not touched."""

    def __init__(
        self,
        *,
        podman: Podman,
        labels: Mapping[str, str],
        creator: Creator,
        release: Callable[[Collection[str]], None],
    ) -> None:
        """`release` is told of containers before they are ended, so that nobody starts them again."""
        self._release = release
        self._podman = podman
        self._labels = labels
        self._creator = creator
        self._objects = Objects(podman.socket, deadlines=podman.deadlines)

    async def run(self, plan: Plan, provide: Callable[[Plan], Awaitable[None]]) -> None:
        """Make what is missing, its images provided for first, then remove what is too much; see `Engine.update`."""
        listed = {pod["Name"]: pod for pod in await self._podman.pods(self._labels)}
        missing = tuple(pod for pod in plan.pods if not _is_whole(pod, listed.get(pod.name)))
        if missing:
            await self._make(replace(plan, pods=missing), provide)
        surplus = listed.keys() - {pod.name for pod in plan.pods}
        self._release([each["Id"] for name in surplus for each in listed[name].get("Containers") or ()])
        try:
            await self._remove(surplus, force=False)
        except (BeemeshError, Refusal) as error:
            raise _unfinished(error) from error

    async def _make(self, plan: Plan, provide: Callable[[Plan], Awaitable[None]]) -> None:
        names = [pod.name for pod in plan.pods]
        await provide(plan)
        await self._remove(names, force=True)  # what an update that was cut has left of them
        try:
            await self._creator.run(plan)
        except BaseException as error:  # a cancelled update is taken back too
            await self._take_back(names, error)
            raise

    async def _take_back(self, names: Collection[str], cause: BaseException) -> None:
        try:
            await self._remove(names, force=True)
            for claim in self._creator.new_claims:
                await self._objects.remove_volume(claim)
        except (BeemeshError, Refusal) as error:
            log.warning("taking_back_failed", pods=names, why=error)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

    async def _remove(self, names: Collection[str], *, force: bool) -> None:
        """The pods of these names, all at once, with what is theirs alone."""
        ends = (Teardown(podman=self._podman, labels={**self._labels, LABEL_POD: name}) for name in names)
        await asyncio.gather(*(end.run(grace_seconds=None, force=force) for end in ends))


def _unfinished(error: BeemeshError | Refusal) -> BeemeshError:
    """Some of what is too much may be gone, and cannot be brought back."""
    if isinstance(error, Refusal):
        error = Internal(f"podman refused: {shorten(error.text)}", reason="BACKEND_ERROR")
    error.metadata["leftovers"] = "true"
    return error


def _is_whole(pod: Pod, listed: Mapping[str, Any] | None) -> bool:
    """Whether everything of it is there and was started once."""
    states = {each["Names"]: each["Status"] for each in (listed or {}).get("Containers") or ()}
    inits = all(str(container.body["name"]) in states for container in pod.inits)
    return inits and all(states.get(str(c.body["name"]), "created") not in _NOT_STARTED for c in pod.mains)
