"""Kubernetes Pods on docker: what `PodsPart` promises, in docker's calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from services.engines.capacity import measure
from services.engines.compose.stamp import LogCap
from services.engines.docker.pods import observe
from services.engines.docker.pods.dialer import DockerDialer
from services.engines.docker.pods.ending import Ending, hooks_of, stopper
from services.engines.docker.pods.honours import HONOURS
from services.engines.docker.pods.images import DockerImages, PauseImage
from services.engines.docker.pods.labels import of_node, of_workload
from services.engines.docker.pods.maker import DockerMaker
from services.engines.docker.pods.render import render
from services.engines.docker.pods.replicas import DockerReplicas
from services.engines.docker.pods.storage import is_in_reach, parts
from services.engines.docker_api import exec as commands
from services.engines.docker_api import stats
from services.engines.docker_api.api import Docker
from services.engines.docker_api.inspected import Inspected
from services.engines.docker_api.logs import Logs
from services.engines.engine import (
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
    Resources,
    Role,
    Spec,
    WorkloadState,
)
from services.engines.export import LiveFacts, export
from services.engines.inside import pick
from services.engines.pods import classify
from services.engines.pods.acts import Acts, SupervisorLimits
from services.engines.pods.fields import NodePolicy
from services.engines.pods.hooks import Hooks
from services.engines.pods.images import full_reference, pinned
from services.engines.pods.memory import Memories
from services.engines.pods.part import PodsPart
from services.engines.pods.plan import Plan
from services.engines.pods.supervisor import Supervisor
from services.engines.unix_http import Refusal
from services.manifests import Manifest

_RUNS = frozenset({WorkloadState.RUNNING, WorkloadState.STARTING, WorkloadState.DEGRADED})


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """How pods are run."""

    data_dir: Path
    """What must be remembered of them."""
    policy: NodePolicy
    log_cap: LogCap
    pull_timeout: float = 600.0
    """Seconds for one image."""
    init_timeout: float = 600.0
    """Seconds that an init container may take."""
    pause_image: str = ""
    """What holds a pod's network; empty: our own."""
    machine: Resources | None = None
    """Its size, of which a container without limits is told; None: this one's."""
    supervisor: SupervisorLimits | None = None


class DockerPods(PodsPart):
    """Kubernetes Pods on one daemon; see `Workloads` for what each method promises."""

    def __init__(
        self,
        *,
        node_id: str,
        docker: Docker,
        settings: PodSettings,
        storage: Callable[[], Path | None],
        clock: Callable[[], float],
    ) -> None:
        """`docker` is open while this is; `clock` gives seconds since 1970.

        `storage` is docker's root directory, None while nobody knows it.
        """
        self.node_id = node_id
        self._docker = docker
        self._settings = settings
        self._storage = storage
        self._clock = clock
        self._honours = HONOURS
        self._policy = settings.policy
        self._init_timeout = settings.init_timeout
        self._machine = settings.machine or measure()
        self._images = DockerImages(docker, pull_timeout=settings.pull_timeout)
        self._pause = PauseImage(docker, named=settings.pause_image)
        self._hooks = Hooks(DockerDialer(docker))
        self._infra: dict[str, str] = {}
        """The infra container of each container, as was last seen."""
        self._rising: dict[str, asyncio.Lock] = {}
        """Held while an infra container is started, by its id."""

    async def __aenter__(self) -> Self:
        self._supervisor = Supervisor(
            events=lambda: self._docker.events(of_node(self.node_id)),
            dialer=DockerDialer(self._docker),
            memories=Memories(self._settings.data_dir / "restarts"),
            acts=Acts(
                read=self.observe,
                forget_inspection=lambda _: None,
                start=self._start_container,
                post_start=self._post_start,
                stop=self._stop_container,
            ),
            may_run=lambda workload_id: self.may_run is None or self.may_run(workload_id),
            clock=self._clock,
            limits=self._settings.supervisor,
        )
        await self._supervisor.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._supervisor.__aexit__(None, None, None)

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything outside the fields that are honoured, and what needs docker's storage where that is not here."""
        found = super().check(manifest, config)
        return found if is_in_reach(self._storage()) else [*found, *parts(manifest, config)]

    # Create

    def _plan(self, spec: Spec) -> Plan:
        return render(spec, machine=self._machine, log_cap=self._settings.log_cap, own_pause=self._pause.is_own)

    def _maker(self, workload_id: str) -> DockerMaker:
        return DockerMaker(self._docker, self._pause, labels=of_workload(self.node_id, workload_id))

    def _replicas(self, workload_id: str) -> DockerReplicas:
        return DockerReplicas(self._docker, node_id=self.node_id, workload_id=workload_id)

    # Observe

    async def observe(self) -> Mapping[str, Observation]:
        """Containers and networks, by the node's label."""
        return await self._observe(of_node(self.node_id), whole=True)

    async def observe_one(self, workload_id: str) -> Observation | None:
        """The same, for one workload's label."""
        return (await self._observe(of_workload(self.node_id, workload_id), whole=False)).get(workload_id)

    async def _observe(self, labels: Mapping[str, str], *, whole: bool) -> Mapping[str, Observation]:
        began = asyncio.get_running_loop().time()
        asked = asyncio.gather(self._docker.containers(labels), self._docker.networks(labels))
        containers, networks = await self._asking(asked)
        self._see(containers, began, whole=whole)
        return {
            workload_id: replace(found, components=tuple(map(self._supervisor.describe, found.components)))
            for workload_id, found in observe.assemble(self.node_id, containers, networks).items()
        }

    def _see(self, containers: Sequence[Inspected], began: float, *, whole: bool) -> None:
        infra = {str(each["Id"]): found for each in containers if (found := observe.infra_of(each))}
        self._infra = infra if whole else self._infra | infra
        if whole:
            kept = set(infra.values())
            self._rising = {name: lock for name, lock in self._rising.items() if name in kept or lock.locked()}
        self._supervisor.see(observe.sightings(containers), began=began, whole=whole)
        for container in observe.cut_off(containers):
            self._supervisor.cut_off(container)

    # End, stop, start

    async def _end(self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool) -> None:
        ending = Ending(self._docker, node_id=self.node_id, workload_id=workload_id)
        await ending.run(grace_seconds=grace_seconds, force=force, remove_volumes=remove_volumes)

    async def _stop(
        self, workload_id: str, there: Sequence[Component], *, grace_seconds: float | None, signal: str
    ) -> None:
        ending = Ending(self._docker, node_id=self.node_id, workload_id=workload_id)
        await ending.stop(grace_seconds=grace_seconds, signal=signal)

    async def _start(self, workload_id: str, there: Sequence[Component]) -> None:
        """Every main container that does not run, in order, each after its infra container."""
        for component in there:
            if component.role is Role.MAIN and component.state not in _RUNS:
                try:
                    await self._start_container(component.component_id)
                except Refusal as refusal:
                    raise classify.start_error(
                        [refusal.text], workload_id=workload_id, backend=self.engine_id
                    ) from refusal

    async def _start_container(self, container: str) -> None:
        """Its infra container first: without that nothing of the pod has a network."""
        infra = self._infra.get(container) or observe.infra_of(await self._docker.inspect(container))
        async with self._rising.setdefault(infra, asyncio.Lock()):
            await self._docker.start(infra)
        await self._docker.start(container)

    async def _stop_container(self, container: str, seconds: float) -> None:
        await stopper(self._docker).run(container, seconds=seconds)

    async def _kept(self, container: str) -> Mapping[str, Any]:
        return await hooks_of(self._docker, container)

    # Inside

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        """See `exec.running`."""
        component = pick(workload_id, await self._there(workload_id), order.component_id)
        async with commands.running(self._docker, workload_id, component.component_id, order) as session:
            yield session

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """See `stats.sample`; docker counts a pod's traffic where it holds its network."""
        ids = [component.component_id for component in await self._there(workload_id)]
        infras = {name: self._infra.get(name, "") for name in ids}
        asked = [*ids, *filter(None, dict.fromkeys(infras.values()))]
        found = {each.component_id: each for each in await self._asking(stats.sample(self._docker, asked))}
        return [
            replace(each, network_rx_bytes=infra.network_rx_bytes, network_tx_bytes=infra.network_tx_bytes)
            if (infra := found.get(infras[name]))
            else each
            for name in ids
            if (each := found.get(name))
        ]

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """What was asked for, with the images that run."""
        images: dict[str, str] = {}
        for component in observation.components if observation else ():
            if component.display_name not in images and (name := await self._pinned(component)):
                images[component.display_name] = name
        return export(spec, observation, LiveFacts(images=images))

    async def _pinned(self, component: Component) -> str:
        """Its image as `name@sha256:…`; empty where no registry knows it so."""
        try:
            image = await self._docker.image(str((await self._docker.inspect(component.component_id))["Image"]))
        except Refusal as refusal:
            if refusal.status == 404:  # it has just been removed
                return ""
            raise self._refused(refusal) from refusal
        known = (full_reference(str(digest)) for digest in (image or {}).get("RepoDigests") or ())
        return next((name for name in known if name == pinned(component.image, name.partition("@")[2])), "")

    def _read(self, components: Sequence[Component], query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        reader = Logs(docker=self._docker, components=components, query=query, clock=self._clock)
        reader.comes_back = self._supervisor.comes_back
        return reader.batches()
