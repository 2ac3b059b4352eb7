"""The deployments in memory, each change durable before it shows, and the feed that watchers and waiters follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.errors import NotFound
from services.orchestrator import store as db
from services.orchestrator.history import DeploymentEvent, History
from services.orchestrator.ledger import Ledger
from services.orchestrator.model import Deployment, Failure, State, Step
from services.rpc.watch import Feed


class Book:
    """Records by deployment id; gone ones are kept, to a limit, until they are forgotten."""

    def __init__(
        self,
        *,
        store: db.Store,
        epoch: str,
        ledger: Ledger,
        history: History,
        gone_max: int = 1000,
        requests_max: int = 10_000,
    ) -> None:
        self._store = store
        self._history = history
        self._listeners: list[Callable[[str], None]] = []
        self._ledger = ledger
        self._gone_max = gone_max
        self._requests_max = requests_max
        self._records: dict[str, Deployment] = {}
        self._gone: dict[str, None] = {}
        """Ids of gone records, oldest first."""
        self._by_workload: dict[str, str] = {}
        self._requests: dict[str, db.Request] = {}
        """By request id, oldest first."""
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

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """`listener` is told the id of every record that has changed."""
        self._listeners.append(listener)

    async def save(
        self,
        record: Deployment,
        *more: db.Statement,
        event: DeploymentEvent | None = None,
        request: db.Request | None = None,
    ) -> Deployment:
        """Make the record durable, with its event and `more` in one transaction, then show it. Returns it."""
        statements = [db.put_deployment(record), *more]
        if event is not None:
            statements += self._history.statements(event)
        if request is not None:
            statements += db.put_request(request, keep=self._requests_max)
        dropped = self._surplus() if record.step is Step.GONE else []
        for deployment_id in dropped:
            statements += db.drop_deployment(deployment_id)
        await self._store.commit(*statements)
        if request is not None:
            self._remember(request)
        for deployment_id in dropped:
            self._gone.pop(deployment_id, None)
            self._records.pop(deployment_id, None)
            self._history.forget(deployment_id)
        self._show(record)
        if event is not None:
            self._history.show(event)
        return record

    def held_up(self, deployment_id: str, failure: Failure) -> None:
        """What was done cannot be recorded: show the last durable step as one that waits, and why."""
        record = self._records.get(deployment_id)
        if record is not None and record.in_flight:
            state = State.DELETING if record.step is Step.REMOVE else State.DEGRADED
            self._show(replace(record, state=state, failure=failure, retries=max(1, record.retries)))

    def _remember(self, request: db.Request) -> None:
        self._requests.pop(request.request_id, None)
        self._requests[request.request_id] = request
        if len(self._requests) > self._requests_max:
            del self._requests[next(iter(self._requests))]

    def _surplus(self) -> list[str]:
        return list(self._gone)[: max(0, len(self._gone) + 1 - self._gone_max)]

    def _show(self, record: Deployment) -> None:
        name = record.deployment_id
        self._records[name] = record
        self._ledger.note(record)
        self._gone.pop(name, None)
        if record.step is Step.GONE:
            self._gone[name] = None
            self._by_workload.pop(record.workload_id, None)
            self.feed.remove(name, last=record)
        else:
            self._by_workload[record.workload_id] = name
            self.feed.put(name, record)
        for listener in self._listeners:
            listener(name)

    def of_workload(self, workload_id: str) -> Deployment | None:
        """The record whose workload this is."""
        return self.find(self._by_workload.get(workload_id, ""))

    def workloads(self) -> list[str]:
        """The ids of all workloads that should be there."""
        return list(self._by_workload)
