"""The deployments in memory, each change durable before it shows, and the feed that watchers and waiters follow."""

from __future__ import annotations

from collections.abc import Mapping

from services.errors import NotFound
from services.orchestrator import store as db
from services.orchestrator.model import Deployment, Step
from services.rpc.watch import Feed


class Book:
    """Records by deployment id; gone ones are kept, to a limit, until they are forgotten."""

    def __init__(self, *, store: db.Store, epoch: str, gone_max: int = 1000) -> None:
        self._store = store
        self._gone_max = gone_max
        self._records: dict[str, Deployment] = {}
        self._requests: dict[str, db.Request] = {}
        self.feed: Feed[Deployment] = Feed(epoch=epoch)

    def load(self) -> None:
        """Fill the memory from the store, once, at start."""
        for record in self._store.deployments():
            self._show(record)
        self._requests = {request.request_id: request for request in self._store.requests()}

    def find(self, deployment_id: str) -> Deployment | None:
        """The record, or None; a gone one counts as none."""
        record = self._records.get(deployment_id)
        return None if record is None or record.step is Step.GONE else record

    def get(self, deployment_id: str) -> Deployment:
        """The record; raises NotFound."""
        record = self.find(deployment_id)
        if record is None:
            raise NotFound(
                f"there is no deployment {deployment_id!r} on this node",
                reason="DEPLOYMENT_NOT_FOUND",
                metadata={"deployment_id": deployment_id},
            )
        return record

    def last(self, deployment_id: str) -> Deployment | None:
        """The record even if it is gone."""
        return self._records.get(deployment_id)

    def all(self, *, gone: bool = False) -> list[Deployment]:
        """Every record; with `gone` the deleted ones too."""
        return [record for record in self._records.values() if gone or record.step is not Step.GONE]

    def request(self, request_id: str) -> db.Request | None:
        """What a request id was used for."""
        return self._requests.get(request_id) if request_id else None

    async def save(self, record: Deployment, *more: db.Statement, request: db.Request | None = None) -> Deployment:
        """Make the record durable (with `more`, in one transaction), then show it. Returns it."""
        statements = [db.put_deployment(record), *more]
        if request is not None:
            statements += db.put_request(request)
        dropped = self._surplus() if record.step is Step.GONE else []
        for deployment_id in dropped:
            statements += db.drop_deployment(deployment_id)
        await self._store.commit(*statements)
        if request is not None:
            self._requests[request.request_id] = request
        for deployment_id in dropped:
            self._records.pop(deployment_id, None)
        self._show(record)
        return record

    def _surplus(self) -> list[str]:
        gone = sorted((r for r in self._records.values() if r.step is Step.GONE), key=lambda r: r.update_time)
        return [record.deployment_id for record in gone[: max(0, len(gone) + 1 - self._gone_max)]]

    def _show(self, record: Deployment) -> None:
        self._records[record.deployment_id] = record
        if record.step is Step.GONE:
            self.feed.remove(record.deployment_id, last=record)
        else:
            self.feed.put(record.deployment_id, record)

    def by_workload(self) -> Mapping[str, Deployment]:
        """Records that are there, by workload id."""
        return {record.workload_id: record for record in self.all()}
