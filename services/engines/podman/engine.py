"""The podman engine: plays Pods, finds them again by their labels, ends them in time, and reads what they wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, Self, TypeVar

from services.engines.engine import (
    Capability,
    Config,
    Health,
    Info,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Spec,
)
from services.engines.podman import classify, version
from services.engines.podman.api import Deadlines, Podman
from services.engines.podman.credentials import logins_for, pull_secrets
from services.engines.podman.fields import KINDS, check
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.podman.images import Images, pull_policy
from services.engines.podman.logs import Logs, select
from services.engines.podman.observe import assemble, fingerprint
from services.engines.podman.probe import Probe
from services.engines.podman.render import Image, Play, render
from services.engines.podman.service import PodmanService
from services.engines.podman.teardown import Teardown
from services.engines.podman.verbs import VERBS, Verbs
from services.engines.streams import closed_after
from services.errors import BeemeshError, Internal, NotFound, Unavailable
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import Format, Manifest
from services.telemetry import Log

T = TypeVar("T")

log = Log(__name__)

_SETTLE_SECONDS = 10.0
"""How long a play whose caller left is waited for before it is cleaned up: podman goes on with it."""
_KEPT_OF_INSPECTION = ("State", "RestartCount")


class PodmanEngine(Verbs):
    """Kubernetes Pods on podman; see `Engine` for what each method promises."""

    def __init__(
        self,
        *,
        node_id: str,
        service: PodmanService,
        network: str = "podman",
        clock: Callable[[], float],
        deadlines: Deadlines | None = None,
    ) -> None:
        """`network` is the podman network that pods join; `clock` gives seconds since 1970."""
        self.node_id = node_id
        self._service = service
        self._network = network
        self._clock = clock
        self._deadlines = deadlines
        self._probe = Probe(service=service, node_id=node_id, network=network, clock=clock)
        self._known: dict[str, tuple[tuple[object, ...], Mapping[str, Any]]] = {}
        """Inspections by container id, each with the fingerprint of the list entry it belongs to."""

    async def __aenter__(self) -> Self:
        await self._service.__aenter__()
        self._podman = Podman(UnixHttp(self._service.socket), deadlines=self._deadlines)
        self._images = Images(podman=self._podman)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._images.__aexit__(*exc)
        await self._service.__aexit__(*exc)

    @property
    def info(self) -> Info:
        """Identity and capabilities; the backend's version once a probe has read it."""
        return Info(
            engine="podman",
            display_name="Podman",
            engine_version=metadata.version("beemesh"),
            backend_version=self._probe.version,
            api_version=self._probe.api_version,
            capabilities=VERBS | {Capability.LOGS, Capability.LOGS_FOLLOW, Capability.EVENTS, Capability.REPLICAS},
            formats=frozenset({Format.KUBERNETES}),
            kinds=KINDS,
        )

    async def probe(self) -> Health:
        """Ping, info, and now and then a canary pod."""
        return await self._probe.run()

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything outside the fields that are honoured."""
        return check(manifest, config)

    # Create

    async def create(self, spec: Spec) -> None:
        """Pull what is missing, then play; roll back by label."""
        play = render(spec, backend_version=await self._backend_version())
        for image in play.images:
            await self._provide(image, spec)
        playing = asyncio.ensure_future(self._play(play))
        try:
            errors = await asyncio.shield(playing)
        except asyncio.CancelledError:
            await asyncio.wait([playing], timeout=_SETTLE_SECONDS)
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            await self._roll_back(spec.workload_id)
            raise
        except BeemeshError as error:  # it may have been done, or still be under way
            await self._roll_back(spec.workload_id)
            error.metadata["leftovers"] = "true"
            raise
        if errors:
            failure = classify.start_error(errors, workload_id=spec.workload_id)
            if not await self._roll_back(spec.workload_id):
                failure.metadata["leftovers"] = "true"
            raise failure

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
        )

    async def _play(self, play: Play) -> list[str]:
        """Play all replicas at once; what podman says went wrong."""
        results = await asyncio.gather(
            *(self._play_one(pod, play.annotations) for pod in play.pods), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [error for result in results if not isinstance(result, BaseException) for error in result]

    async def _play_one(self, pod: Mapping[str, Any], annotations: Mapping[str, str]) -> list[str]:
        try:
            return await self._podman.play([pod], annotations=annotations, network=self._network)
        except Refusal as refusal:
            return [refusal.text]

    async def _roll_back(self, workload_id: str) -> bool:
        """Remove what a failed create left; whether podman has confirmed that nothing is left."""
        try:
            await self.destroy(workload_id, grace_seconds=None, force=True, remove_volumes=False)
        except BeemeshError as error:
            log.warning("roll_back_failed", workload_id=workload_id, why=error.message)
            return False
        return True

    # Observe

    async def observe(self) -> Mapping[str, Observation]:
        """Two lists, and an inspection for each container that has changed."""
        return await self._observe({LABEL_NODE_ID: self.node_id}, whole=True)

    async def observe_one(self, workload_id: str) -> Observation | None:
        """The same, for one workload's label."""
        return (await self._observe(self._labels(workload_id), whole=False)).get(workload_id)

    async def _observe(self, labels: Mapping[str, str], *, whole: bool) -> Mapping[str, Observation]:
        pods, containers = await self._asking(
            asyncio.gather(self._podman.pods(labels), self._podman.containers(labels))
        )
        details = dict(await asyncio.gather(*(self._detail(container) for container in containers)))
        if whole:
            ids = {container["Id"] for container in containers}
            self._known = {name: known for name, known in self._known.items() if name in ids}
        return assemble(self.node_id, pods, containers, details)

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
        self._known[name] = (now, kept)
        return name, kept

    # Destroy

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """See `Teardown`; there are no named volumes, and anonymous ones go with their pod."""
        teardown = Teardown(podman=self._podman, labels=self._labels(workload_id))
        await self._asking(teardown.run(grace_seconds=grace_seconds, force=force))

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
        reader = Logs(podman=self._podman, components=components, query=query, clock=self._clock)
        try:
            async with closed_after(reader.batches()) as batches:
                async for batch in batches:
                    yield batch
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal

    async def changes(self) -> AsyncIterator[None]:
        """Podman's events of this node's containers."""
        try:
            async with closed_after(self._podman.events({LABEL_NODE_ID: self.node_id})) as events:
                async for _ in events:
                    yield
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal
        raise Unavailable("podman ended the event stream", reason="BACKEND_UNREACHABLE", retry_after=1.0)

    def _labels(self, workload_id: str) -> dict[str, str]:
        return {LABEL_NODE_ID: self.node_id, LABEL_WORKLOAD_ID: workload_id}

    async def _asking(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except Refusal as refusal:
            raise _backend_error(refusal) from refusal


def _backend_error(refusal: Refusal) -> Internal:
    return Internal(f"podman refused: {classify.shorten(refusal.text)}", reason="BACKEND_ERROR")
