"""The docker engine: brings up Compose projects, finds them again by their labels, ends them in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Protocol, Self, TypeVar

from services.engines.compose.binary import Finder, Places
from services.engines.compose.classify import shorten
from services.engines.compose.fields import NodePolicy
from services.engines.compose.files import ComposeFiles, project_name
from services.engines.compose.runner import Project, Runner, Times
from services.engines.compose.stamp import Hashes, LogCap
from services.engines.docker import exec as commands
from services.engines.docker import labels, observe, stats
from services.engines.docker.api import Deadlines, Docker
from services.engines.docker.logs import Logs, select
from services.engines.docker.probe import Probe
from services.engines.docker.teardown import Teardown, longest_grace, runs
from services.engines.docker.update import effect, keeping
from services.engines.engine import (
    Capability,
    Change,
    Component,
    ComponentStats,
    Config,
    Engine,
    ExecOrder,
    ExecSession,
    Export,
    Health,
    Info,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Spec,
)
from services.engines.export import export
from services.engines.inside import pick
from services.engines.streams import closed_after
from services.engines.unix_http import Refusal
from services.errors import BeemeshError, Internal, NotFound
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID, hash_label
from services.manifests import Format, Manifest
from services.telemetry import Log

T = TypeVar("T")

_CAPABILITIES = frozenset(Capability)
"""All of them."""
_POLL_SECONDS = 0.05

log = Log(__name__)


class Source(Protocol):
    """Makes Compose projects of manifests of one format."""

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """As `Engine.check`."""

    async def resolve(self, spec: Spec, there: Hashes) -> Project:
        """The project, stamped; raises what is wrong with the manifest, before anything is touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where docker and Compose are, and what this node grants."""

    socket: Path
    """docker's API socket."""
    run_dir: Path
    """Made when it is not there."""
    compose: Places = field(default_factory=Places)
    logins: Path | None = None
    """A directory with docker's config.json."""
    policy: NodePolicy = field(default_factory=NodePolicy)
    log_cap: LogCap = field(default_factory=LogCap)
    times: Times = field(default_factory=Times)
    deadlines: Deadlines = field(default_factory=Deadlines)

    @property
    def workdir(self) -> Path:
        """Where Compose runs; nothing may be in it, as Compose would read it."""
        return self.run_dir / "compose-empty"


class DockerEngine(Engine):
    """Compose projects on docker; see `Engine` for what each method promises."""

    def __init__(self, *, node_id: str, machine: Machine, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        self.node_id = node_id
        self._machine = machine
        self._clock = clock
        finder = Finder(machine.compose, workdir=machine.workdir)
        self._docker = Docker(machine.socket, deadlines=machine.deadlines)
        self._probe = Probe(socket=machine.socket, docker=self._docker, finder=finder, node_id=node_id, clock=clock)
        self._runner = Runner(
            finder=finder,
            socket=machine.socket,
            workdir=machine.workdir,
            logins=machine.logins,
            times=machine.times,
        )
        self._sources: Mapping[Format, Source] = {
            Format.COMPOSE: ComposeFiles(runner=self._runner, policy=machine.policy, log_cap=machine.log_cap)
        }

    async def __aenter__(self) -> Self:
        self._machine.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._docker.sdk.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._docker.sdk.close()

    @property
    def info(self) -> Info:
        """Identity and capabilities; the backend's version once a probe has read it."""
        return Info(
            engine="docker",
            display_name="Docker",
            engine_version=metadata.version("beemesh"),
            backend_version=self._probe.version,
            api_version=self._probe.api_version,
            capabilities=_CAPABILITIES,
            formats=frozenset(self._sources),
            kinds=("Compose",),
        )

    async def probe(self) -> Health:
        """Ping, info, Compose, and now and then a canary container."""
        return await self._probe.run()

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything that the node's policy, docker or Compose would not keep."""
        return self._sources[manifest.format].check(manifest, config)

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
            await self._roll_back(spec.workload_id, set(kept.volumes), error)
            raise
        self.tell(spec.workload_id, "")

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
                if volume["Labels"].get(labels.VOLUME) not in volumes_before:
                    await self._asking(self._docker.remove_volume(volume["Name"]))
        except BeemeshError as error:
            log.warning("roll_back_failed", workload_id=workload_id, why=error.message)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

    async def _resolve(self, spec: Spec, there: Hashes) -> Project:
        return await self._sources[spec.manifest.format].resolve(spec, there)

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
        return await self._observe({LABEL_NODE_ID: self.node_id})

    async def observe_one(self, workload_id: str) -> Observation | None:
        """The same, for one workload's label."""
        return (await self._observe(self._labels(workload_id))).get(workload_id)

    async def _observe(self, mine: Mapping[str, str]) -> Mapping[str, Observation]:
        asked = asyncio.gather(self._docker.containers(mine), self._docker.networks(mine))
        containers, networks = await self._asking(asked)
        return observe.assemble(self.node_id, containers, networks)

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
            raise _absent("workload", workload_id, workload_id)
        return found.components

    # Logs and changes

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """See `Logs`."""
        components = select(await self._there(workload_id), query.component_id)
        if query.component_id and not components:
            raise _absent("component", query.component_id, workload_id)
        reader = Logs(docker=self._docker, components=components, query=query, clock=self._clock)
        try:
            async with closed_after(reader.batches()) as batches:
                async for batch in batches:
                    yield batch
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal

    async def changes(self) -> AsyncIterator[None]:
        """Docker's events of this node's containers."""
        try:
            async with closed_after(self._docker.events({LABEL_NODE_ID: self.node_id})) as events:
                async for _ in events:
                    yield
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal

    def _labels(self, workload_id: str) -> dict[str, str]:
        return {LABEL_NODE_ID: self.node_id, LABEL_WORKLOAD_ID: workload_id}

    async def _asking(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal


def _backend_error(refusal: Refusal) -> Internal:
    return Internal(f"docker refused: {shorten(refusal.text)}", reason="BACKEND_ERROR")


def _absent(what: str, name: str, workload_id: str) -> NotFound:
    return NotFound(
        f"docker has no {what} {name}", reason=f"{what.upper()}_NOT_FOUND", metadata={"workload_id": workload_id}
    )
