"""Compose projects on whatever speaks docker's API: brought up by Compose, found again by their labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from services.engines.compose import observe
from services.engines.compose.classify import DEPENDENCY_FAILED
from services.engines.compose.files import ComposeFiles, project_name
from services.engines.compose.labels import PROJECT, VOLUME
from services.engines.compose.runner import Project, Runner
from services.engines.compose.stamp import Hashes
from services.engines.compose.update import effect, keeping
from services.engines.docker_api import exec as commands
from services.engines.docker_api import stats
from services.engines.docker_api.api import Docker, Inspected, Labels
from services.engines.docker_api.logs import Logs
from services.engines.docker_api.teardown import Teardown, longest_grace, runs
from services.engines.engine import (
    Capability,
    Change,
    Component,
    ComponentStats,
    Config,
    ExecOrder,
    ExecSession,
    Export,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Spec,
)
from services.engines.export import export
from services.engines.inside import pick, select
from services.engines.parts import Part
from services.engines.pods.labels import LABEL_POD
from services.engines.streams import closed_after
from services.engines.unix_http import Refusal, shorten
from services.errors import BeemeshError, Internal, NotFound
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID, hash_label
from services.manifests import Manifest
from services.telemetry import Log

T = TypeVar("T")

CAPABILITIES = frozenset(Capability) - {Capability.INVOKE}
"""All but calling functions."""
_POLL_SECONDS = 0.05
_LAST_LINES, _LAST_CHARACTERS = 5, 300
_WHY_SECONDS = 10.0

log = Log(__name__)


class Projects(Part):
    """Compose projects on one daemon; see `Workloads` for what each method promises."""

    def __init__(
        self,
        *,
        engine_id: str,
        node_id: str,
        docker: Docker,
        runner: Runner,
        files: ComposeFiles,
        clock: Callable[[], float],
    ) -> None:
        """`docker` is the daemon that `runner` works on; `clock` gives seconds since 1970."""
        self.node_id = node_id
        self._engine_id = engine_id
        self._docker = docker
        self._runner = runner
        self._files = files
        self._clock = clock
        self._of_node: dict[str, str | None] = {LABEL_NODE_ID: node_id, PROJECT: "", LABEL_POD: None}
        """The labels of all that is this part's: Compose puts its own on everything that it makes, as Pods do."""

    @property
    def engine_id(self) -> str:
        """As it was given."""
        return self._engine_id

    @property
    def kinds(self) -> Sequence[str]:
        """What a Compose file is called."""
        return ("Compose",)

    @property
    def capabilities(self) -> Collection[Capability]:
        """See `CAPABILITIES`."""
        return CAPABILITIES

    async def __aenter__(self) -> Self:
        self._runner.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything that the node's policy, the daemon or Compose would not keep."""
        return self._files.check(manifest, config)

    async def examine(self, manifest: Manifest, config: Config) -> None:
        """Have Compose read it."""
        await self._files.examine(manifest, config)

    # Create and change

    async def prepare(self, spec: Spec) -> None:
        """Have Compose read it, and pull what is missing."""
        project = await self._resolve(spec, await self._volume_hashes(spec.workload_id))
        await self._runner.pull(project, self._teller(spec.workload_id))
        self.tell(spec.workload_id, "")

    async def create(self, spec: Spec) -> None:
        """Bring it up; what has failed is taken down again, new volumes included."""
        kept = await self._volume_hashes(spec.workload_id)
        project = await self._resolve(spec, kept)
        try:
            await self._runner.up(project, self._teller(spec.workload_id))
        except BaseException as error:  # a cancelled creation is cleaned up too
            if isinstance(error, BeemeshError) and error.reason == DEPENDENCY_FAILED:
                error.message += await self._why(spec.workload_id)
            await self._roll_back(spec.workload_id, set(kept.volumes), error)
            raise
        self.tell(spec.workload_id, "")

    async def _why(self, workload_id: str) -> str:
        """What is said of the components that are not well, and what they have said: soon both are gone."""
        try:
            async with asyncio.timeout(_WHY_SECONDS):
                found = await self.observe_one(workload_id)
                bad = [each for each in found.components if each.message] if found else []
                said = [f"; {each.display_name}: {each.message}{await self._words(workload_id, each)}" for each in bad]
        except (BeemeshError, TimeoutError) as error:
            log.debug("cause_unknown", workload_id=workload_id, why=error)
            return ""
        return "".join(said)

    async def _words(self, workload_id: str, component: Component) -> str:
        query = LogQuery(component_id=component.component_id, tail_lines=_LAST_LINES)
        async with closed_after(self.logs(workload_id, query)) as batches:
            lines = [line.text async for batch in batches for line in batch]
        return f"; its last words: {' / '.join(lines)[-_LAST_CHARACTERS:]}" if lines else ""

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        """See `expected.components`."""
        return self._files.components(manifest, config)

    def effect(self, change: Change, manifest: Manifest) -> str:
        """See `update.effect`."""
        return effect(change, manifest)

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """Let Compose bring up the new project beside what is there: it leaves alone what is the same."""
        there = await self._hashes(new.workload_id)
        before = await self._readable(old, there)
        project = keeping(before, await self._resolve(new, there), hash_label(new.ownership.manifest_hash))
        try:
            await self._runner.up(project, self._teller(new.workload_id))
        except BaseException as error:  # a cancelled update is taken back too
            await self._take_back(before, error)
            raise
        self.tell(new.workload_id, "")

    async def _readable(self, old: Spec, there: Hashes) -> Project | None:
        """The project that was asked for before; None when it cannot be read by the rules of now."""
        try:
            return await self._resolve(old, there)
        except BeemeshError as error:
            log.warning("earlier_project_unreadable", workload_id=old.workload_id, why=error.message)
            return None

    async def _take_back(self, before: Project | None, cause: BaseException) -> None:
        try:
            if before is None:
                raise Internal("the earlier project cannot be read any more", reason="BACKEND_ERROR")
            await self._runner.up(before, lambda _: None)
        except BeemeshError as error:
            log.warning("taking_back_failed", why=error.message)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

    async def _roll_back(self, workload_id: str, volumes_before: set[str], cause: BaseException) -> None:
        """Remove what a failed create has left; `cause` says when docker has not confirmed that nothing is left."""
        mine = self._labels(workload_id)
        try:
            await self._asking(Teardown(self._docker, mine).run())
            for volume in await self._asking(self._docker.volumes(mine)):
                if volume["Labels"].get(VOLUME) not in volumes_before:
                    await self._asking(self._docker.remove_volume(volume["Name"]))
        except BeemeshError as error:
            log.warning("roll_back_failed", workload_id=workload_id, why=error.message)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

    async def _resolve(self, spec: Spec, there: Hashes) -> Project:
        return await self._files.resolve(spec, there)

    async def _volume_hashes(self, workload_id: str) -> Hashes:
        """Of a workload that is not there, or is to go: its volumes may be there from before."""
        return observe.hashes((), (), await self._asking(self._docker.volumes(self._labels(workload_id))))

    async def _hashes(self, workload_id: str) -> Hashes:
        mine = self._labels(workload_id)
        asked = asyncio.gather(self._docker.containers(mine), self._docker.networks(mine), self._docker.volumes(mine))
        return observe.hashes(*await self._asking(asked))

    def _teller(self, workload_id: str) -> Callable[[str], None]:
        return lambda progress: self.tell(workload_id, progress)

    # Observe

    async def observe(self) -> Mapping[str, Observation]:
        """Containers and networks, by the node's label."""
        return await self._observe(self._of_node)

    async def observe_one(self, workload_id: str) -> Observation | None:
        """The same, for one workload's label."""
        return (await self._observe(self._labels(workload_id))).get(workload_id)

    async def _observe(self, mine: Labels) -> Mapping[str, Observation]:
        return observe.assemble(self.node_id, *await self._read(mine))

    async def _read(self, mine: Labels) -> tuple[list[Inspected], list[Inspected]]:
        """The containers and networks with these labels."""
        return await self._asking(asyncio.gather(self._docker.containers(mine), self._docker.networks(mine)))

    # End

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """Stop in Compose's order, then remove by label until docker says that nothing is left."""
        if not force:
            await self._stop(workload_id, grace_seconds)
        await self._asking(Teardown(self._docker, self._labels(workload_id)).run(volumes=remove_volumes))

    async def _stop(self, workload_id: str, grace_seconds: float | None) -> None:
        """Those last that others depend on; where Compose cannot, all at once."""
        running = [
            each for each in await self._asking(self._docker.containers(self._labels(workload_id))) if runs(each)
        ]
        if not running:
            return
        within = longest_grace(running) if grace_seconds is None else grace_seconds * len(running)
        try:
            await self._runner.stop(project_name(workload_id), grace_seconds, within=within)
        except BeemeshError as error:
            log.warning("compose_stop_failed", workload_id=workload_id, why=error.message)
            await self._asking(Teardown(self._docker, self._labels(workload_id)).stop(grace_seconds=grace_seconds))

    # Stop and start

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """Another signal goes first, to what runs; what it has not ended is stopped as always with the time left."""
        components = await self._there(workload_id)
        if signal:
            began = asyncio.get_running_loop().time()
            await self._asking(self._signal(components, signal))
            if grace_seconds is not None:
                await self._asking(self._wait(workload_id, grace_seconds))
                grace_seconds = max(0.0, grace_seconds - (asyncio.get_running_loop().time() - began))
        await self._stop(workload_id, grace_seconds)

    async def start(self, workload_id: str) -> None:
        """Compose starts what is there, those first that others depend on."""
        await self._there(workload_id)
        await self._runner.start(project_name(workload_id))

    async def _signal(self, components: Iterable[Component], signal: str) -> None:
        await asyncio.gather(*(self._docker.signal(component.component_id, signal) for component in components))

    async def _wait(self, workload_id: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            if not any(map(runs, await self._docker.containers(self._labels(workload_id)))):
                return
            await asyncio.sleep(_POLL_SECONDS)

    # Inside

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        """See `exec.running`."""
        component = pick(workload_id, await self._there(workload_id), order.component_id)
        async with commands.running(self._docker, workload_id, component.component_id, order) as session:
            yield session

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """See `stats.sample`."""
        ids = [component.component_id for component in await self._there(workload_id)]
        return await self._asking(stats.sample(self._docker, ids))

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """What was asked for."""
        return export(spec, observation)

    async def _there(self, workload_id: str) -> Sequence[Component]:
        """Its components; raises NotFound(WORKLOAD_NOT_FOUND)."""
        found = await self.observe_one(workload_id)
        if found is None:
            raise self._absent("workload", workload_id, workload_id)
        return found.components

    # Logs and changes

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """See `Logs`."""
        components = select(await self._there(workload_id), query.component_id)
        if query.component_id and not components:
            raise self._absent("component", query.component_id, workload_id)
        reader = Logs(docker=self._docker, components=components, query=query, clock=self._clock)
        try:
            async with closed_after(reader.batches()) as batches:
                async for batch in batches:
                    yield batch
        except Refusal as refusal:
            raise self._refused(refusal) from refusal

    async def changes(self) -> AsyncIterator[None]:
        """Docker's events of this node's containers."""
        try:
            async with closed_after(self._docker.events(self._of_node)) as events:
                async for _ in events:
                    yield
        except Refusal as refusal:
            raise self._refused(refusal) from refusal

    def _labels(self, workload_id: str) -> dict[str, str | None]:
        return {**self._of_node, LABEL_WORKLOAD_ID: workload_id}

    async def _asking(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except Refusal as refusal:
            raise self._refused(refusal) from refusal

    def _refused(self, refusal: Refusal) -> Internal:
        return Internal(f"{self._docker.backend} refused: {shorten(refusal.text)}", reason="BACKEND_ERROR")

    def _absent(self, what: str, name: str, workload_id: str) -> NotFound:
        return NotFound(
            f"{self._docker.backend} has no {what} {name}",
            reason=f"{what.upper()}_NOT_FOUND",
            metadata={"workload_id": workload_id},
        )
