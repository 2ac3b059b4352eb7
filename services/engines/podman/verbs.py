"""What can be done with pods that run: stop, start, commands, use, export, and changes in place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TypeVar

from services.engines.engine import (
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
from services.engines.podman import exec as commands
from services.engines.podman import stats as counters
from services.engines.podman.api import Podman
from services.engines.podman.containers import Containers
from services.engines.podman.control import Control
from services.engines.podman.export import live_facts
from services.engines.podman.http import UnixHttp
from services.engines.podman.images import PodmanImages
from services.engines.podman.service import PodmanService
from services.engines.pods.part import PodsPart

T = TypeVar("T")

_CALLS = 64
"""Starts, signals and commands at a time; apart from the lists, which they must not hold up."""


class Verbs(PodsPart):
    """What `PodmanPods` inherits."""

    _service: PodmanService
    _podman: Podman
    _images: PodmanImages

    @abstractmethod
    async def _backend_version(self) -> tuple[int, ...]:
        """Podman's version."""

    @cached_property
    def _containers(self) -> Containers:
        deadlines = self._podman.deadlines
        http = UnixHttp(self._service.socket, concurrency=_CALLS)
        return Containers(http, read=deadlines.read, change=deadlines.change)

    async def _stop(
        self, workload_id: str, there: Sequence[Component], *, grace_seconds: float | None, signal: str
    ) -> None:
        """See `Control.stop`."""
        await self._control(workload_id).stop(there, grace_seconds=grace_seconds, signal=signal)

    async def _start(self, workload_id: str, there: Sequence[Component]) -> None:
        """See `Control.start`."""
        await self._control(workload_id).start(there)

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

    def _control(self, workload_id: str) -> Control:
        return Control(
            podman=self._podman,
            containers=self._containers,
            workload_id=workload_id,
            labels=self._labels(workload_id),
        )
