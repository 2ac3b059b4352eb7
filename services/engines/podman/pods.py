"""Kubernetes Pods on podman: played, found again by their labels, ended in time, and what they wrote read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from services.engines.capacity import measure
from services.engines.engine import (
    Capability,
    Component,
    Config,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Resources,
    Spec,
)
from services.engines.podman import logs, shelf, supervision, version
from services.engines.podman.ability import lacking
from services.engines.podman.api import Deadlines, Podman
from services.engines.podman.dialer import Dialer
from services.engines.podman.honours import HONOURS
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.podman.images import PodmanImages
from services.engines.podman.logs import Logs
from services.engines.podman.maker import PodmanMaker
from services.engines.podman.objects import Objects
from services.engines.podman.observe import assemble, fingerprint, unexplained
from services.engines.podman.oom import killed_here
from services.engines.podman.probe import Probe
from services.engines.podman.render import render
from services.engines.podman.replicas import PodmanReplicas
from services.engines.podman.service import PodmanService
from services.engines.podman.teardown import Teardown, hooks_of, stopper
from services.engines.podman.verbs import Verbs
from services.engines.pods.acts import Acts, SupervisorLimits
from services.engines.pods.fields import NodePolicy
from services.engines.pods.hooks import Hooks
from services.engines.pods.memory import Memories
from services.engines.pods.part import CAPABILITIES
from services.engines.pods.plan import Plan
from services.engines.pods.supervisor import Supervisor
from services.identity import LABEL_NODE_ID
from services.manifests import Manifest
from services.telemetry import Log

T = TypeVar("T")

log = Log(__name__)

_KEPT_OF_INSPECTION = ("State", "RestartCount")


class PodmanPods(Verbs):
    """Kubernetes Pods on podman; see `Workloads` for what each method promises."""

    def __init__(
        self,
        *,
        node_id: str,
        service: PodmanService,
        probe: Probe,
        network: str,
        clock: Callable[[], float],
        deadlines: Deadlines | None = None,
        policy: NodePolicy | None = None,
        machine: Resources | None = None,
        init_timeout: float = 600.0,
        log_bytes: int = shelf.DEFAULT_BYTES,
        supervisor_limits: SupervisorLimits | None = None,
    ) -> None:
        """`service` is open while this is; `probe` knows podman's version and what its user may do.

        `network` is the podman network that pods join; `clock` gives seconds since 1970.

        `machine` is its size, of which a container without limits is told; an init container may take `init_timeout`;
        a container's log takes `log_bytes` at most.
        """
        self.node_id = node_id
        self._service = service
        self._network = network
        self._clock = clock
        self._deadlines = deadlines
        self._honours = HONOURS
        self._policy = policy or NodePolicy()
        self._machine = machine or measure()
        self._init_timeout = init_timeout
        self._log_bytes = log_bytes
        self._supervisor_limits = supervisor_limits
        self._probe = probe
        self._known: dict[str, tuple[tuple[object, ...], Mapping[str, Any]]] = {}
        """Inspections by container id, each with the fingerprint of the list entry it belongs to."""
        self._shelf = shelf.Shelf()

    async def __aenter__(self) -> Self:
        self._podman = Podman(UnixHttp(self._service.socket), deadlines=self._deadlines)
        self._images = PodmanImages(podman=self._podman)
        self._objects = Objects(self._service.socket, deadlines=self._deadlines)
        self._hooks = Hooks(Dialer(self._podman))
        self._supervisor = Supervisor(
            events=lambda: self._podman.events({LABEL_NODE_ID: self.node_id}),
            dialer=Dialer(self._podman),
            memories=Memories(self._service.data_dir / "restarts"),
            acts=Acts(
                read=self.observe,
                forget_inspection=lambda container: self._known.pop(container, None),
                start=self._containers.start,
                post_start=self._post_start,
                stop=self._stop_container,
            ),
            may_run=lambda workload_id: self.may_run is None or self.may_run(workload_id),
            clock=self._clock,
            limits=self._supervisor_limits,
        )
        await self._supervisor.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._supervisor.__aexit__(None, None, None)
        await self._images.__aexit__(*exc)

    @property
    def capabilities(self) -> Collection[Capability]:
        """All but what this user's podman cannot."""
        return CAPABILITIES - (frozenset() if self._probe.ability.stats else {Capability.STATS})

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything outside the fields that are honoured, by podman and by this user's rights."""
        return [*super().check(manifest, config), *lacking(manifest, config, self._probe.ability)]

    # Create

    def _plan(self, spec: Spec) -> Plan:
        return render(spec, machine=self._machine, network=self._network, log_bytes=self._log_bytes)

    def _maker(self, workload_id: str) -> PodmanMaker:
        return PodmanMaker(self._objects)

    def _replicas(self, workload_id: str) -> PodmanReplicas:
        return PodmanReplicas(podman=self._podman, objects=self._objects, labels=self._labels(workload_id))

    async def _backend_version(self) -> tuple[int, ...]:
        if self._probe.version:
            return version.parse(self._probe.version)
        with_version = await self._asking(self._podman.info(timeout=self._podman.deadlines.read))
        return version.parse(str(with_version.get("version", {}).get("Version", "")))

    # Observe

    async def observe(self) -> Mapping[str, Observation]:
        """Two lists, and an inspection for each container that has changed."""
        return await self._observe({LABEL_NODE_ID: self.node_id}, whole=True)

    async def observe_one(self, workload_id: str) -> Observation | None:
        """The same, for one workload's label."""
        return (await self._observe(self._labels(workload_id), whole=False)).get(workload_id)

    async def _observe(self, labels: Mapping[str, str], *, whole: bool) -> Mapping[str, Observation]:
        began = asyncio.get_running_loop().time()
        pods, containers = await self._asking(
            asyncio.gather(self._podman.pods(labels), self._podman.containers(labels))
        )
        details = dict(await asyncio.gather(*(self._detail(container) for container in containers)))
        if whole:
            ids = {container["Id"] for container in containers}
            self._known = {name: known for name, known in self._known.items() if name in ids}
            self._shelf.look(dict(logs.written(details.values())))
        self._supervisor.see(supervision.sightings(pods, containers, details), began=began, whole=whole)
        return {
            workload_id: replace(found, components=tuple(map(self._supervisor.describe, found.components)))
            for workload_id, found in assemble(self.node_id, pods, containers, details).items()
        }

    async def _detail(self, container: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """What only an inspection tells (OOM, restarts), asked anew only when the container has changed."""
        name, now = container["Id"], fingerprint(container)
        before = self._known.get(name)
        if before is not None and before[0] == now:
            return name, before[1]
        try:
            found = await self._podman.inspect(name)
        except Refusal as refusal:
            if refusal.status == 404:  # it has just been removed
                return name, {}
            raise self._refused(refusal) from refusal
        kept = {key: found[key] for key in _KEPT_OF_INSPECTION if key in found}
        kept |= supervision.kept(found) | logs.kept(found)
        if life := unexplained(name, found):
            kept["State"]["OOMKilled"] = await asyncio.to_thread(killed_here, life)
        self._known[name] = (now, kept)
        return name, kept

    # End

    async def _end(self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool) -> None:
        teardown = Teardown(podman=self._podman, labels=self._labels(workload_id))
        await teardown.run(grace_seconds=grace_seconds, force=force, remove_volumes=remove_volumes)

    async def _kept(self, container: str) -> Mapping[str, Any]:
        return await hooks_of(self._podman, container)

    async def _stop_container(self, container: str, seconds: float) -> None:
        """Its preStop hook, TERM, KILL."""
        await stopper(self._podman).run(container, seconds=seconds)

    # Logs

    def _read(self, components: Sequence[Component], query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        reader = Logs(
            podman=self._podman,
            components=components,
            query=query,
            clock=self._clock,
            inspected={name: known for name, (_, known) in self._known.items()},
        )
        reader.comes_back = self._supervisor.comes_back
        return reader.batches()
