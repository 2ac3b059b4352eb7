"""What an engine does for Kubernetes' manifests, whatever its backend; the backend's calls are its subclass's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from services.engines.engine import (
    Capability,
    Change,
    Component,
    Config,
    Issue,
    LogLine,
    LogQuery,
    Spec,
    place,
)
from services.engines.inside import select
from services.engines.parts import Part
from services.engines.pods.create import Creator, Maker
from services.engines.pods.credentials import logins_for, pull_secrets
from services.engines.pods.effect import effect
from services.engines.pods.fields import NodePolicy, check
from services.engines.pods.hooks import Hooks
from services.engines.pods.images import Image, pull_policy
from services.engines.pods.plan import Plan
from services.engines.pods.policy import KINDS, Honours
from services.engines.pods.pulling import Images
from services.engines.pods.supervisor import Supervisor
from services.engines.pods.update import Replicas, Updater
from services.engines.pods.workload import templates
from services.engines.probes import Finding
from services.engines.streams import closed_after
from services.engines.unix_http import Refusal, shorten
from services.errors import BeemeshError, Internal, NotFound
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import Manifest
from services.telemetry import Log

T = TypeVar("T")

CAPABILITIES = frozenset(Capability) - {Capability.INVOKE}
"""All but calling functions."""
_LAST_WORDS = 5
_LAST_CHARACTERS = 500
_HOOK_SECONDS = 120.0

log = Log(__name__)


class PodsPart(Part):
    """Pods on one backend; see `Workloads` for what each method promises.

    Its subclass sets what is declared here before anything is asked of it.
    """

    _honours: Honours
    _policy: NodePolicy
    _init_timeout: float
    _images: Images
    _hooks: Hooks
    _supervisor: Supervisor

    @property
    def engine_id(self) -> str:
        """The backend's name."""
        return self._honours.engine

    @property
    def kinds(self) -> Sequence[str]:
        """See `policy.KINDS`."""
        return KINDS

    @property
    def capabilities(self) -> Collection[Capability]:
        """See `CAPABILITIES`."""
        return CAPABILITIES

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Everything outside the fields that are honoured."""
        return check(manifest, config, self._honours, self._policy)

    # What the backend does; calls raise Refusal, Unavailable, DeadlineExceeded

    @abstractmethod
    def _plan(self, spec: Spec) -> Plan:
        """What the backend is asked for."""

    @abstractmethod
    def _maker(self, workload_id: str) -> Maker:
        """Makes one plan."""

    @abstractmethod
    def _replicas(self, workload_id: str) -> Replicas:
        """What is there of a workload."""

    @abstractmethod
    async def _end(self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool) -> None:
        """See `Workloads.destroy`."""

    @abstractmethod
    async def _stop(
        self, workload_id: str, there: Sequence[Component], *, grace_seconds: float | None, signal: str
    ) -> None:
        """See `Workloads.stop`."""

    @abstractmethod
    async def _start(self, workload_id: str, there: Sequence[Component]) -> None:
        """See `Workloads.start`."""

    @abstractmethod
    def _read(self, components: Sequence[Component], query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """The lines of these containers."""

    @abstractmethod
    async def _kept(self, container: str) -> Mapping[str, Any]:
        """What `hooks.kept` gives of a container."""

    # Create and change

    async def prepare(self, spec: Spec) -> None:
        """Pull what is missing."""
        await self._provide_all(self._plan(spec), spec)

    async def create(self, spec: Spec) -> None:
        """Pull what is missing, then make it; roll back by label."""
        self._supervisor.begin(spec.workload_id)  # an earlier one of this id may have been ended, and be gone
        plan = self._plan(spec)
        await self._provide_all(plan, spec)
        creator = self._creator(spec.workload_id)
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
        """See `effect`."""
        return effect(change, manifest)

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """See `Updater`."""
        updater = Updater(
            replicas=self._replicas(new.workload_id),
            creator=self._creator(new.workload_id),
            release=self._supervisor.release,
        )
        await self._asking(updater.run(self._plan(new), lambda missing: self._provide_all(missing, new)))

    def _creator(self, workload_id: str) -> Creator:
        return Creator(
            maker=self._maker(workload_id),
            hooks=self._hooks,
            last_words=self._last_words,
            init_timeout=self._init_timeout,
        )

    async def _provide_all(self, plan: Plan, spec: Spec) -> None:
        for image in plan.images:
            await self._provide(image, spec)

    async def _provide(self, image: Image, spec: Spec) -> None:
        """Have the image in local storage; apart from the making, so that each failure is told as what it is."""
        documents = spec.manifest.documents
        await self._images.provide(
            image.reference,
            policy=pull_policy(image.reference, image.policy),
            logins=logins_for(image.reference, pull_secrets(documents), documents),
            on_progress=lambda progress: self.tell(spec.workload_id, progress),
        )
        self.tell(spec.workload_id, "")

    async def _last_words(self, container: str) -> str:
        """The last lines of a container, for an error; empty when they cannot be had."""
        found = Component(component_id=container, display_name=container)
        try:
            async with closed_after(self._read([found], LogQuery(tail_lines=_LAST_WORDS))) as batches:
                lines = [line.text async for batch in batches for line in batch]
        except (Refusal, BeemeshError) as error:
            log.debug("last_words_unknown", container=container, why=error)
            return ""
        return " / ".join(lines)[-_LAST_CHARACTERS:]

    async def _roll_back(self, workload_id: str, new_claims: Iterable[str], cause: BaseException) -> None:
        """Remove what a failed create left; `cause` says when nobody has confirmed that nothing is left."""
        try:
            await self.destroy(workload_id, grace_seconds=None, force=True, remove_volumes=False)
            maker = self._maker(workload_id)
            for claim in new_claims:
                await self._asking(maker.remove_volume(claim))
        except BeemeshError as error:
            log.warning("roll_back_failed", workload_id=workload_id, why=error.message)
            if isinstance(cause, BeemeshError):
                cause.metadata["leftovers"] = "true"

    # End, stop, start: the supervisor knows first

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """End it, and forget it."""
        await self._supervisor.end(workload_id)
        ending = self._end(workload_id, grace_seconds=grace_seconds, force=force, remove_volumes=remove_volumes)
        await self._asking(ending)
        await self._supervisor.forget(workload_id)

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """Stop what runs, and keep it."""
        await self._supervisor.end(workload_id)
        there = await self._there(workload_id)
        await self._asking(self._stop(workload_id, there, grace_seconds=grace_seconds, signal=signal))

    async def start(self, workload_id: str) -> None:
        """Start what is there; the supervisor goes on from there."""
        await self._asking(self._start(workload_id, await self._there(workload_id)))
        self._supervisor.begin(workload_id)

    async def _post_start(self, container: str) -> Finding:
        """Run its postStart hook, if it has one."""
        return await self._hooks.run(container, await self._kept(container), "postStart", timeout=_HOOK_SECONDS)

    # Logs and changes

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """The lines of its containers."""
        components = select(await self._there(workload_id), query.component_id)
        if query.component_id and not components:
            raise self._absent("component", query.component_id, workload_id)
        try:
            async with closed_after(self._read(components, query)) as batches:
                async for batch in batches:
                    yield batch
        except Refusal as refusal:
            raise self._refused(refusal) from refusal

    async def changes(self) -> AsyncIterator[None]:
        """The backend's events of this node's containers, and what their probes find."""
        async with closed_after(self._supervisor.changes()) as changes:
            async for _ in changes:
                yield

    async def _there(self, workload_id: str) -> Sequence[Component]:
        """Its components; raises NotFound(WORKLOAD_NOT_FOUND)."""
        found = await self.observe_one(workload_id)
        if found is None:
            raise self._absent("workload", workload_id, workload_id)
        return found.components

    def _labels(self, workload_id: str) -> dict[str, str]:
        return {LABEL_NODE_ID: self.node_id, LABEL_WORKLOAD_ID: workload_id}

    async def _asking(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except Refusal as refusal:
            raise self._refused(refusal) from refusal

    def _refused(self, refusal: Refusal) -> Internal:
        return Internal(f"{self.engine_id} refused: {shorten(refusal.text)}", reason="BACKEND_ERROR")

    def _absent(self, what: str, name: str, workload_id: str) -> NotFound:
        return NotFound(
            f"{self.engine_id} has no {what} {name}",
            reason=f"{what.upper()}_NOT_FOUND",
            metadata={"workload_id": workload_id},
        )
