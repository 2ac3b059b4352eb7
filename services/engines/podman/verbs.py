"""What can be done with pods that run: stop, start, commands, use, export, and changes in place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TypeVar

from services.engines.engine import (
    Capability,
    Component,
    ComponentStats,
    ExecOrder,
    ExecSession,
    Export,
    Observation,
    Spec,
)
from services.engines.export import export
from services.engines.inside import pick
from services.engines.parts import Part
from services.engines.podman import exec as commands
from services.engines.podman import stats as counters
from services.engines.podman.api import Podman
from services.engines.podman.containers import Containers
from services.engines.podman.control import Control, absent
from services.engines.podman.export import live_facts
from services.engines.podman.http import UnixHttp
from services.engines.podman.images import PodmanImages
from services.engines.podman.service import PodmanService

T = TypeVar("T")

VERBS = frozenset(
    {
        Capability.EXEC,
        Capability.STATS,
        Capability.STOP_START,
        Capability.RESTART,
        Capability.EXPORT,
        Capability.UPDATE_IN_PLACE,
    }
)
"""The capabilities that `Verbs` brings."""

_CALLS = 64
"""Starts, signals and commands at a time; apart from the lists, which they must not hold up."""


class Verbs(Part):
    """What `PodmanPods` inherits."""

    _service: PodmanService
    _podman: Podman
    _images: PodmanImages

    @abstractmethod
    def _labels(self, workload_id: str) -> Mapping[str, str]:
        """The labels of the workload's objects."""

    @abstractmethod
    async def _asking(self, answer: Awaitable[T]) -> T:
        """The answer; a Refusal as Internal."""

    @abstractmethod
    async def _backend_version(self) -> tuple[int, ...]:
        """Podman's version."""

    @cached_property
    def _containers(self) -> Containers:
        deadlines = self._podman.deadlines
        http = UnixHttp(self._service.socket, concurrency=_CALLS)
        return Containers(http, read=deadlines.read, change=deadlines.change)

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """See `Control.stop`."""
        found = await self._there(workload_id)
        stopping = self._control(workload_id).stop(found, grace_seconds=grace_seconds, signal=signal)
        await self._asking(stopping)

    async def start(self, workload_id: str) -> None:
        """See `Control.start`."""
        await self._asking(self._control(workload_id).start(await self._there(workload_id)))

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        """See `exec.running`."""
        component = pick(workload_id, await self._there(workload_id), order.component_id)
        async with commands.running(self._containers, workload_id, component.component_id, order) as session:
            yield session

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """See `stats.sample`."""
        ids = [component.component_id for component in await self._there(workload_id)]
        version = await self._backend_version()
        return await self._asking(counters.sample(self._containers, ids, backend_version=version))

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """What was asked for, with the images that run."""
        components = observation.components if observation else ()
        return export(spec, observation, await self._asking(live_facts(self._podman, self._images, components)))

    async def _there(self, workload_id: str) -> Sequence[Component]:
        """Its components; raises NotFound(WORKLOAD_NOT_FOUND)."""
        found = await self.observe_one(workload_id)
        if found is None:
            raise absent(workload_id)
        return found.components

    def _control(self, workload_id: str) -> Control:
        return Control(
            podman=self._podman,
            containers=self._containers,
            workload_id=workload_id,
            labels=self._labels(workload_id),
        )
