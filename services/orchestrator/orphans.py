"""Workloads of this node that no deployment claims: listed, adopted with their exact manifest, or purged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services import identity
from services.errors import AlreadyExists, FailedPrecondition, NotFound
from services.identity import hash_label
from services.manifests.reader import Reader
from services.orchestrator.book import Book
from services.orchestrator.history import History
from services.orchestrator.model import Action, Deployment, Observed, State, Step
from services.orchestrator.operations import Operations
from services.orchestrator.ports import Engines
from services.orchestrator.requests import ApplyRequest, read
from services.orchestrator.steps import STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphans:
    """What there is of them, and which engines could not say."""

    found: tuple[Observed, ...]
    unreachable: tuple[str, ...]


class OrphanKeeper:
    """Never touches anything by itself: an orphan runs on until somebody decides."""

    def __init__(
        self,
        *,
        book: Book,
        engines: Engines,
        operations: Operations,
        history: History,
        reader: Reader,
        node_id: str,
        clock: Callable[[], float],
    ) -> None:
        self._book = book
        self._engines = engines
        self._operations = operations
        self._history = history
        self._reader = reader
        self._node_id = node_id
        self._clock = clock

    def listed(self) -> Orphans:
        """All orphans, as the engines last told."""
        found: list[Observed] = []
        unreachable: list[str] = []
        for engine_id in sorted(self._engines.views()):
            held = self._engines.held(engine_id)
            if held is None:
                unreachable.append(engine_id)
            else:
                found += [item for item in held.values() if not self._is_claimed(item)]
        return Orphans(found=tuple(found), unreachable=tuple(unreachable))

    def _is_claimed(self, item: Observed) -> bool:
        record = self._book.of_workload(item.workload_id)
        return record is not None and item.engine_id in record.touched

    async def adopt(self, name: str, deployment_id: str) -> Deployment:
        """Make a deployment of an orphan, by the very manifest that its engine has kept; nothing is started or stopped.

        Raises NotFound, AlreadyExists (the deployment has another workload), FailedPrecondition (NOT_ITS_WORKLOAD).
        """
        orphan = self._find(name)
        deployment_id = identity.check_deployment_id(deployment_id or orphan.manifest_id)
        existing = self._book.find(deployment_id)
        if existing is not None:
            if existing.workload_id == orphan.workload_id and orphan.engine_id in existing.touched:
                return existing
            raise AlreadyExists(
                f"deployment {deployment_id!r} is there, on {existing.engine_id}; delete it, or purge the orphan",
                reason="DEPLOYMENT_EXISTS",
                metadata={"deployment_id": deployment_id},
            )
        if orphan.workload_id != identity.workload_id(node=self._node_id, deployment=deployment_id):
            raise FailedPrecondition(
                f"workload {orphan.workload_id} was made for deployment {orphan.manifest_id!r}: only that can adopt it",
                reason="NOT_ITS_WORKLOAD",
                metadata={"workload_id": orphan.workload_id},
            )
        manifest, config = await self._engines.kept(orphan.engine_id, orphan.workload_id)
        request = ApplyRequest(manifest=manifest, config=config)
        _, wish = await self._reader.read(manifest, lambda: read(request))
        now, rests = self._clock(), orphan.state == STOPPED  # on request: that its engine has kept, too
        record = Deployment(
            deployment_id=deployment_id,
            workload_id=orphan.workload_id,
            wish=wish,
            state=State.STOPPED if rests else State.DEPLOYING,
            step=Step.REST if rests else Step.SETTLE,
            observed_generation=int(rests),
            action=Action.NONE,
            engine_id=orphan.engine_id,
            touched=(orphan.engine_id,),
            deployed=hash_label(orphan.digest),
            create_time=now,
            update_time=now,
        )
        event = self._history.event(deployment_id, "ADOPTED", f"from {orphan.engine_id}", {"engine": orphan.engine_id})
        await self._book.save(record, event=event)
        self._operations.start(deployment_id)
        return record

    async def purge(self, wanted: Mapping[str, str], *, force: bool) -> list[str]:
        """The names of the orphans that match `wanted` (engine, workload_id); with `force` they are removed."""
        names: list[str] = []
        for item in self.listed().found:
            if {"engine": item.engine_id, "workload_id": item.workload_id}.items() >= wanted.items():
                if force:
                    await self._engines.remove(item.engine_id, item.workload_id, remove_volumes=False, force=False)
                names.append(name_of(item))
        return names

    def _find(self, name: str) -> Observed:
        for item in self.listed().found:
            if name in (name_of(item), item.workload_id):
                return item
        claimed = self._book.of_workload(name.rpartition("/")[2])
        if claimed is not None and claimed.engine_id in claimed.touched:
            seen = self._engines.observed(claimed.engine_id, claimed.workload_id)
            if seen is not None:
                return seen
        raise NotFound(
            f"there is no orphan {name!r} on this node", reason="ORPHAN_NOT_FOUND", metadata={"workload_name": name}
        )


def name_of(item: Observed) -> str:
    """The resource name of a workload."""
    return f"engines/{item.engine_id}/workloads/{item.workload_id}"
