"""Brings what a backend has of a workload to what is asked for now, and touches nothing that is the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from services.engines.pods.create import Creator
from services.engines.pods.plan import Plan, Pod
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.telemetry import Log

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A pod as the backend has it."""

    container_ids: tuple[str, ...]
    made: frozenset[str]
    """Its containers, by the backend's names."""
    started: frozenset[str]
    """Those that were started once."""

    def is_whole(self, pod: Pod) -> bool:
        """Whether everything of it is there and was started once."""
        inits = {pod.container_name(container) for container in pod.inits}
        mains = {pod.container_name(container) for container in pod.mains}
        return inits <= self.made and mains <= self.started


class Replicas(Protocol):
    """The pods of one workload on one backend; calls raise Unavailable, DeadlineExceeded, and Refusal."""

    async def there(self) -> Mapping[str, Replica]:
        """All of them, by name."""

    async def remove(self, names: Collection[str], *, force: bool) -> None:
        """End them, with what is theirs alone; those that are not there are no error."""

    async def remove_volume(self, name: str) -> None:
        """Remove a volume that nobody uses."""

    def refused(self, refusal: Refusal) -> BeemeshError:
        """What a refusal comes to."""


class Updater:
    """Brings the pods of a workload to a plan; pods that are whole are not touched."""

    def __init__(self, *, replicas: Replicas, creator: Creator, release: Callable[[Collection[str]], None]) -> None:
        """`release` is told of containers before they are ended, so that nobody starts them again."""
        self._replicas = replicas
        self._creator = creator
        self._release = release

    async def run(self, plan: Plan, provide: Callable[[Plan], Awaitable[None]]) -> None:
        """Make what is missing, its images provided for first, then remove what is too much; see `Engine.update`."""
        there = await self._replicas.there()
        missing = tuple(pod for pod in plan.pods if pod.name not in there or not there[pod.name].is_whole(pod))
        if missing:
            await self._make(replace(plan, pods=missing), provide, there)
        surplus = there.keys() - {pod.name for pod in plan.pods}
        self._release([each for name in surplus for each in there[name].container_ids])
        try:
            await self._replicas.remove(surplus, force=False)
        except (BeemeshError, Refusal) as error:
            raise self._unfinished(error) from error

    async def _make(self, plan: Plan, provide: Callable[[Plan], Awaitable[None]], there: Mapping[str, Replica]) -> None:
        names = [pod.name for pod in plan.pods]
        await provide(plan)
        # What an update that was cut has left of them, or what somebody has removed a part of.
        self._release([each for name in names if name in there for each in there[name].container_ids])
        await self._replicas.remove(names, force=True)
        try:
            await self._creator.run(plan)
        except BaseException as error:  # a cancelled update is taken back too
            await self._take_back(names, error)
            raise

    async def _take_back(self, names: Collection[str], cause: BaseException) -> None:
        try:
            await self._replicas.remove(names, force=True)
            for claim in self._creator.new_claims:
                await self._replicas.remove_volume(claim)
        except (BeemeshError, Refusal) as error:
            log.warning("taking_back_failed", pods=names, why=error)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

    def _unfinished(self, error: BeemeshError | Refusal) -> BeemeshError:
        """Some of what is too much may be gone, and cannot be brought back."""
        told = self._replicas.refused(error) if isinstance(error, Refusal) else error
        told.metadata["leftovers"] = "true"
        return told
