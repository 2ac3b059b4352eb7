"""Kubernetes Pods on podman: played, found again by their labels, ended in time, and what they wrote read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from services.engines.capacity import measure
from services.engines.engine import (
    Capability,
    Change,
    Component,
    Config,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Resources,
    Spec,
    place,
)
from services.engines.podman import logs, shelf, supervision, version
from services.engines.podman.ability import lacking
from services.engines.podman.api import Deadlines, Podman
from services.engines.podman.dialer import Dialer
from services.engines.podman.honours import HONOURS
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.podman.images import PodmanImages
from services.engines.podman.logs import Logs, select
from services.engines.podman.maker import PodmanMaker
from services.engines.podman.objects import Objects
from services.engines.podman.observe import assemble, fingerprint, unexplained
from services.engines.podman.oom import killed_here
from services.engines.podman.probe import Probe
from services.engines.podman.render import render
from services.engines.podman.replicas import PodmanReplicas
from services.engines.podman.service import PodmanService
from services.engines.podman.teardown import Teardown
from services.engines.podman.verbs import VERBS, Verbs
from services.engines.pods import hooks
from services.engines.pods.acts import Acts, SupervisorLimits
from services.engines.pods.create import Creator
from services.engines.pods.credentials import logins_for, pull_secrets
from services.engines.pods.effect import effect
from services.engines.pods.fields import NodePolicy, check
from services.engines.pods.hooks import Hooks
from services.engines.pods.images import Image, pull_policy
from services.engines.pods.memory import Memories
from services.engines.pods.plan import Plan
from services.engines.pods.policy import KINDS
from services.engines.pods.supervisor import Supervisor
from services.engines.pods.update import Updater
from services.engines.pods.workload import templates
from services.engines.probes import Finding
from services.engines.streams import closed_after
from services.engines.unix_http import shorten
from services.errors import BeemeshError, Internal, NotFound
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import Manifest
from services.telemetry import Log

T = TypeVar("T")

log = Log(__name__)

_CAPABILITIES = {
    Capability.LOGS,
    Capability.LOGS_FOLLOW,
    Capability.EVENTS,
    Capability.REPLICAS,
    Capability.UPDATE_IN_PLACE,
}
_LAST_WORDS = 5
_LAST_CHARACTERS = 500
_KEPT_OF_INSPECTION = ("State", "RestartCount")
_HOOK_SECONDS = 120.0


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
    def engine_id(self) -> str:
        """Podman's."""
        return "podman"

    @property
    def kinds(self) -> Sequence[str]:
        """See `policy.KINDS`."""
        return KINDS

    @property
    def capabilities(self) -> Collection[Capability]:
        """All but what this user's podman cannot."""
        return (VERBS | _CAPABILITIES) - (frozenset() if self._probe.ability.stats else {Capability.STATS})

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything outside the fields that are honoured, by podman and by this user's rights."""
        return [*check(manifest, config, HONOURS, self._policy), *lacking(manifest, config, self._probe.ability)]

    # Create

    async def prepare(self, spec: Spec) -> None:
        """Pull what is missing."""
        await self._provide_all(self._plan(spec), spec)

    async def create(self, spec: Spec) -> None:
        """Pull what is missing, then make it; roll back by label."""
        self._supervisor.begin(spec.workload_id)  # an earlier one of this id may have been ended, and be gone
        plan = self._plan(spec)
        await self._provide_all(plan, spec)
        creator = self._creator()
        try:
            await creator.run(plan)
        except BaseException as error:  # a cancelled creation is cleaned up too
            await self._roll_back(spec.workload_id, creator.new_claims, error)
            raise

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        """The containers of all replicas."""
        return [
            place(number, container["name"])
            for template in templates(manifest, config)
            for number in range(template.replicas)
            for container in template.mains
        ]

    def effect(self, change: Change, manifest: Manifest) -> str:
        """See `update.effect`."""
        return effect(change, manifest)

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """See `Updater`."""
        plan = self._plan(new)
        updater = Updater(
            replicas=PodmanReplicas(podman=self._podman, objects=self._objects, labels=self._labels(new.workload_id)),
            creator=self._creator(),
            release=self._supervisor.release,
        )
        await self._asking(updater.run(plan, lambda missing: self._provide_all(missing, new)))

    def _plan(self, spec: Spec) -> Plan:
        return render(spec, machine=self._machine, network=self._network, log_bytes=self._log_bytes)

    def _creator(self) -> Creator:
        return Creator(
            maker=PodmanMaker(self._objects),
            hooks=self._hooks,
            last_words=self._last_words,
            init_timeout=self._init_timeout,
        )

    async def _provide_all(self, plan: Plan, spec: Spec) -> None:
        for image in plan.images:
            await self._provide(image, spec)

    async def _last_words(self, container: str) -> str:
        """The last lines of a container, for an error; empty when they cannot be had."""
        found = Component(component_id=container, display_name=container)
        query = LogQuery(tail_lines=_LAST_WORDS)
        reader = Logs(podman=self._podman, components=[found], query=query, clock=self._clock)
        try:
            lines = [line.text async for batch in reader.batches() for line in batch]
        except (Refusal, BeemeshError) as error:
            log.debug("last_words_unknown", container=container, why=error)
            return ""
        return " / ".join(lines)[-_LAST_CHARACTERS:]

    async def _backend_version(self) -> tuple[int, ...]:
        if self._probe.version:
            return version.parse(self._probe.version)
        with_version = await self._asking(self._podman.info(timeout=self._podman.deadlines.read))
        return version.parse(str(with_version.get("version", {}).get("Version", "")))

    async def _provide(self, image: Image, spec: Spec) -> None:
        """Have the image in local storage; apart from the play, so that each failure is told as what it is."""
        documents = spec.manifest.documents
        await self._images.provide(
            image.reference,
            policy=pull_policy(image.reference, image.policy),
            logins=logins_for(image.reference, pull_secrets(documents), documents),
            on_progress=lambda progress: self.tell(spec.workload_id, progress),
        )
        self.tell(spec.workload_id, "")

    async def _roll_back(self, workload_id: str, new_claims: Iterable[str], cause: BaseException) -> None:
        """Remove what a failed create left; `cause` says when podman has not confirmed that nothing is left."""
        try:
            await self.destroy(workload_id, grace_seconds=None, force=True, remove_volumes=False)
            for claim in new_claims:
                await self._asking(self._objects.remove_volume(claim))
        except BeemeshError as error:
            log.warning("roll_back_failed", workload_id=workload_id, why=error.message)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

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
            raise _backend_error(refusal) from refusal
        kept = {key: found[key] for key in _KEPT_OF_INSPECTION if key in found}
        kept |= supervision.kept(found) | logs.kept(found)
        if life := unexplained(name, found):
            kept["State"]["OOMKilled"] = await asyncio.to_thread(killed_here, life)
        self._known[name] = (now, kept)
        return name, kept

    # Destroy

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """See `Teardown`."""
        await self._supervisor.end(workload_id)
        teardown = Teardown(podman=self._podman, labels=self._labels(workload_id))
        await self._asking(teardown.run(grace_seconds=grace_seconds, force=force, remove_volumes=remove_volumes))
        await self._supervisor.forget(workload_id)

    # Stop and start

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """See `Control.stop`; the supervisor knows first."""
        await self._supervisor.end(workload_id)
        await super().stop(workload_id, grace_seconds=grace_seconds, signal=signal)

    async def start(self, workload_id: str) -> None:
        """See `Control.start`; the supervisor goes on from there."""
        await super().start(workload_id)
        self._supervisor.begin(workload_id)

    async def _post_start(self, container: str) -> Finding:
        """Run its postStart hook, if it has one."""
        manifest = hooks.kept((await self._podman.inspect(container)).get("Config", {}).get("Annotations"))
        return await self._hooks.run(container, manifest, "postStart", timeout=_HOOK_SECONDS)

    async def _stop_container(self, container: str, seconds: float) -> None:
        """Its preStop hook, TERM, KILL."""
        await Teardown(podman=self._podman, labels={}).stop_container(container, seconds=seconds)

    # Logs and changes

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """See `Logs`."""
        found = await self.observe_one(workload_id)
        components = select(found.components, query.component_id) if found else []
        if found is None or (query.component_id and not components):
            what = "component" if found else "workload"
            raise NotFound(
                f"podman has no {what} {query.component_id if found else workload_id}",
                reason=f"{what.upper()}_NOT_FOUND",
                metadata={"workload_id": workload_id},
            )
        reader = Logs(
            podman=self._podman,
            components=components,
            query=query,
            clock=self._clock,
            inspected={name: known for name, (_, known) in self._known.items()},
        )
        reader.comes_back = self._supervisor.comes_back
        try:
            async with closed_after(reader.batches()) as batches:
                async for batch in batches:
                    yield batch
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal

    async def changes(self) -> AsyncIterator[None]:
        """Podman's events of this node's containers, and what their probes find."""
        async with closed_after(self._supervisor.changes()) as changes:
            async for _ in changes:
                yield

    def _labels(self, workload_id: str) -> dict[str, str]:
        return {LABEL_NODE_ID: self.node_id, LABEL_WORKLOAD_ID: workload_id}

    async def _asking(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal


def _backend_error(refusal: Refusal) -> Internal:
    return Internal(f"podman refused: {shorten(refusal.text)}", reason="BACKEND_ERROR")
