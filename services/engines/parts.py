"""An engine made of parts: each runs the manifests of one format, all of them on the same backend.

A part finds its own objects by labels that no other part's have, so what two parts see never overlaps. Who deploys says
the format; for a workload that is there, the part that sees it is asked.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Self

from services.engines.background import background
from services.engines.engine import (
    Capability,
    Change,
    ComponentStats,
    Config,
    Engine,
    ExecOrder,
    ExecSession,
    Export,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Spec,
    Workloads,
)
from services.engines.streams import closed_after
from services.manifests import Format, Manifest


class Part(Workloads):
    """What an engine does for one manifest format."""

    @property
    @abstractmethod
    def kinds(self) -> Sequence[str]:
        """The kinds of documents that it knows."""

    @property
    @abstractmethod
    def capabilities(self) -> Collection[Capability]:
        """What it can do."""


class EngineOfParts(Engine):
    """Leaves to its subclass who it is and how its backend fares."""

    def __init__(self, *, node_id: str, parts: Mapping[Format, Part]) -> None:
        """`parts` are opened, in this order, and closed with the engine."""
        self.node_id = node_id
        self._parts = parts
        self._homes: dict[str, Part] = {}
        """Which part was last seen to have a workload."""
        self._open = AsyncExitStack()
        for part in parts.values():
            part.listener = self.tell
            part.may_run = self._is_to_run

    def _is_to_run(self, workload_id: str) -> bool:
        return self.may_run is None or self.may_run(workload_id)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for part in self._parts.values():
                await stack.enter_async_context(part)
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    @property
    def formats(self) -> frozenset[Format]:
        """Of all parts."""
        return frozenset(self._parts)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of all parts."""
        return tuple(kind for part in self._parts.values() for kind in part.kinds)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What can be done with any workload, whatever its format."""
        return frozenset.intersection(*(frozenset(part.capabilities) for part in self._parts.values()))

    # By the manifest's format

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """See `Workloads`; as all below."""
        return self._parts[manifest.format].check(manifest, config)

    async def examine(self, manifest: Manifest, config: Config) -> None:
        await self._parts[manifest.format].examine(manifest, config)

    async def prepare(self, spec: Spec) -> None:
        await self._parts[spec.manifest.format].prepare(spec)

    async def create(self, spec: Spec) -> None:
        part = self._homes[spec.workload_id] = self._parts[spec.manifest.format]
        await part.create(spec)

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        return self._parts[manifest.format].components(manifest, config)

    def effect(self, change: Change, manifest: Manifest) -> str:
        return self._parts[manifest.format].effect(change, manifest)

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        await self._parts[new.manifest.format].update(old, new, changes)

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        return await self._parts[spec.manifest.format].export(spec, observation)

    # By all parts together

    async def observe(self) -> Mapping[str, Observation]:
        found: dict[str, Observation] = {}
        homes: dict[str, Part] = {}
        for part, seen in zip(self._parts.values(), await self._all_see(), strict=True):
            for workload_id, observation in seen.items():
                found[workload_id] = _together(found.get(workload_id), observation)
                if observation.components or workload_id not in homes:
                    homes[workload_id] = part
        self._homes = homes
        return found

    async def _all_see(self) -> Sequence[Mapping[str, Observation]]:
        return await asyncio.gather(*(part.observe() for part in self._parts.values()))

    async def observe_one(self, workload_id: str) -> Observation | None:
        """The part that was last seen to have it is asked alone: others have at most what is left of another format."""
        home = self._homes.get(workload_id)
        if home is not None and (known := await home.observe_one(workload_id)) and known.components:
            return known
        seen = await asyncio.gather(*(part.observe_one(workload_id) for part in self._parts.values()))
        found: Observation | None = None
        self._homes.pop(workload_id, None)
        for part, observation in zip(self._parts.values(), seen, strict=True):
            if observation is not None:
                found = _together(found, observation)
                if observation.components or workload_id not in self._homes:
                    self._homes[workload_id] = part
        return found

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        ends = (
            part.destroy(workload_id, grace_seconds=grace_seconds, force=force, remove_volumes=remove_volumes)
            for part in self._parts.values()
        )
        await asyncio.gather(*ends)
        self._homes.pop(workload_id, None)

    async def changes(self) -> AsyncIterator[None]:
        changed = asyncio.Event()
        ended: list[BaseException | None] = []

        async def hear(part: Part) -> None:
            try:
                async with closed_after(part.changes()) as changes:
                    async for _ in changes:
                        changed.set()
                ended.append(None)
            except Exception as error:  # whatever it is, the reader is told
                ended.append(error)
            changed.set()

        async with background() as start:
            for part in self._parts.values():
                start(hear(part))
            while len(ended) < len(self._parts):
                await changed.wait()
                changed.clear()
                for error in ended:
                    if error is not None:
                        raise error
                yield

    # By the part that has it

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        await (await self._home(workload_id)).stop(workload_id, grace_seconds=grace_seconds, signal=signal)

    async def start(self, workload_id: str) -> None:
        await (await self._home(workload_id)).start(workload_id)

    async def restart(self, workload_id: str, *, grace_seconds: float | None) -> None:
        await (await self._home(workload_id)).restart(workload_id, grace_seconds=grace_seconds)

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        part = await self._home(workload_id)
        async with part.exec(workload_id, order) as session:
            yield session

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        return await (await self._home(workload_id)).stats(workload_id)

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        part = await self._home(workload_id)
        async with closed_after(part.logs(workload_id, query)) as batches:
            async for batch in batches:
                yield batch

    async def _home(self, workload_id: str) -> Part:
        """The part that has it; where none has, any one: it says so itself."""
        if workload_id not in self._homes:
            await self.observe_one(workload_id)
        return self._homes.get(workload_id) or next(iter(self._parts.values()))


def _together(one: Observation | None, other: Observation) -> Observation:
    """What two parts see of a workload; one of them sees what is left of an earlier one of another format."""
    if one is None:
        return other
    whole, left = (one, other) if len(one.components) >= len(other.components) else (other, one)
    return replace(whole, components=(*whole.components, *left.components), ports=(*whole.ports, *left.ports))
