"""OrchestratorService: look up, call the core, convert."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from beemesh.type.v1 import types_pb2

from services.errors import DeadlineExceeded, FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from services.orchestrator import convert, waits
from services.orchestrator.apply import Applier
from services.orchestrator.book import Book
from services.orchestrator.engines import GrpcEngines
from services.orchestrator.flow import Outcome
from services.orchestrator.following import followed
from services.orchestrator.history import History
from services.orchestrator.invoke import Invoker, check_function
from services.orchestrator.model import Action, Deployment, Revision, State, Step
from services.orchestrator.operations import Operations
from services.orchestrator.orphans import OrphanKeeper
from services.orchestrator.orphans import name_of as name_of_workload
from services.orchestrator.store import Store
from services.orchestrator.views import View, Views
from services.rpc import deadline
from services.rpc.convert import from_duration
from services.rpc.listing import fitting, paginate, parse_filter
from services.rpc.shared import Shared

SERVICE = pb.DESCRIPTOR.services_by_name["OrchestratorService"]

_HEARD_SECONDS = 10.0
"""How long an apply that finds nothing to do waits for an engine that is out of reach."""

_TOLD_SECONDS = 1.0
"""How long an apply that has just seen its workload run waits for the watch to tell so too."""

_REVISIONS_MAX = 10**11
_SAMPLE = 100


class OrchestratorServicer(pb_grpc.OrchestratorServiceServicer):
    """Translates between the wire and the core."""

    def __init__(
        self,
        *,
        applier: Applier,
        operations: Operations,
        book: Book,
        engines: GrpcEngines,
        views: Views,
        orphans: OrphanKeeper,
        store: Store,
        history: History,
        node_id: str,
    ) -> None:
        self._applier = applier
        self._operations = operations
        self._book = book
        self._engines = engines
        self._views = views
        self._orphans = orphans
        self._store = store
        self._history = history
        self._node_id = node_id
        self._invoker = Invoker(engines.channel)
        self._told = Shared[View, pb.WatchDeploymentsResponse](lambda event: convert.change(event, node_id=node_id))

    async def ApplyManifest(self, request: pb.ApplyManifestRequest, context: Any) -> pb.ApplyManifestResponse:
        """Accept, then wait as asked; the apply itself outlives its caller."""
        asked = convert.apply_request(request, owner="")
        wait = waits.wait_of(request, context)
        deadline.detach()
        # Shielded: once parsed, a caller that leaves does not interrupt the acceptance half-way.
        accepted = await asyncio.shield(self._applier.apply(asked))
        record = accepted.deployment
        if not request.validate_only and wait > 0:
            record = await self._operations.settled(record.deployment_id, record.generation, wait)
            waits.raise_superseded(record, accepted.deployment.generation)
            waits.raise_failure(record)
            await self._hear(record, wait, done=accepted.action is not Action.NONE)
        return pb.ApplyManifestResponse(
            deployment=self._deployment(record),
            action=types_pb2.ChangeAction.ValueType(int(waits.done(accepted, record))),
            issues=[convert.issue_pb(item) for item in accepted.issues],
        )

    async def _hear(self, record: Deployment, wait: float, *, done: bool) -> None:
        """Let the engine's watch come up: after a start, or with what was `done`, which it tells a moment later."""
        state = self._views.of(record).state
        if state is State.UNKNOWN:
            await self._views.heard(record.deployment_id, min(wait, _HEARD_SECONDS), but=state)
        elif done and record.state is State.ACTIVE and state is not State.ACTIVE:
            await self._views.heard(record.deployment_id, min(wait, _TOLD_SECONDS), but=state)

    async def PlanManifest(self, request: pb.PlanManifestRequest, context: Any) -> pb.PlanManifestResponse:
        """What an apply would do; nothing is recorded or touched."""
        return convert.plan_pb(await self._applier.plan(convert.plan_request(request)), node_id=self._node_id)

    async def SelectEngine(self, request: pb.SelectEngineRequest, context: Any) -> pb.SelectEngineResponse:
        """Explain the choice; nothing is recorded or touched."""
        decision = await self._applier.decide(convert.select_request(request))
        return pb.SelectEngineResponse(decision=convert.decision(decision, node_id=self._node_id))

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Any) -> pb.GetDeploymentResponse:
        """One deployment with its live state."""
        return pb.GetDeploymentResponse(deployment=self._deployment(self._record(request.name)))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Any) -> pb.ListDeploymentsResponse:
        """A page of deployments in the order of their ids."""
        wanted = parse_filter(request.filter, fields=("state", "engine", "deployment_id"))
        if "state" in wanted:
            wanted["state"] = _state(wanted["state"])
        records = self._book.all(gone=request.show_deleted)
        page, token = paginate(
            [record for record in records if self._matches(record, wanted)],
            key=_deployment_id,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        deployments, token = fitting(
            page, token, key=_deployment_id, make=self._deployment, size=pb.Deployment.ByteSize
        )
        return pb.ListDeploymentsResponse(
            deployments=deployments,
            next_page_token=token,
            resume_token=self._views.feed.token,
        )

    async def WatchDeployments(
        self, request: pb.WatchDeploymentsRequest, context: Any
    ) -> AsyncIterator[pb.WatchDeploymentsResponse]:
        """The feed of views."""
        name = waits.id_of(request.name) if request.name else ""
        feed = self._views.feed.watch(resume_token=request.resume_token, key=name)
        async with contextlib.aclosing(feed) as events:
            async for event in events:
                yield self._told.of(event)

    async def WaitDeployment(self, request: pb.WaitDeploymentRequest, context: Any) -> pb.WaitDeploymentResponse:
        """Block until a state is reached by the generation that was there when the wait began."""
        wanted = convert.states(request.states) or {State.ACTIVE, State.SUCCEEDED}
        if request.generation < 0:
            raise convert.bad("generation", "must not be negative")
        timeout = waits.bounded(request.timeout if request.HasField("timeout") else None, "timeout", context)
        record = self._record(request.name)
        generation = request.generation or record.generation
        async with contextlib.aclosing(self._views.feed.watch(key=record.deployment_id)) as events:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    async for event in events:
                        view = event.item
                        if view is not None and waits.reached(view, wanted, generation):
                            return pb.WaitDeploymentResponse(deployment=convert.deployment(view, node_id=self._node_id))
        raise DeadlineExceeded(
            f"deployment {record.deployment_id!r} is {self._views.of(self._record(request.name)).state.name} after "
            f"{timeout:g}s",
            reason="WAIT_TIMEOUT",
            metadata={"deployment": f"deployments/{record.deployment_id}"},
        )

    async def ListDeploymentEvents(
        self, request: pb.ListDeploymentEventsRequest, context: Any
    ) -> pb.ListDeploymentEventsResponse:
        """A page of the kept events, oldest first; those of a deleted deployment too, while they are kept."""
        kept = await asyncio.to_thread(self._history.of, waits.id_of(request.name))
        if not kept:
            self._record(request.name)
        page, token = paginate(
            kept, key=lambda event: f"{event.sequence:020d}", page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListDeploymentEventsResponse(events=[convert.event(item) for item in page], next_page_token=token)

    async def WatchDeploymentEvents(
        self, request: pb.WatchDeploymentEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchDeploymentEventsResponse]:
        """The kept events, then new ones; a token stays good over restarts."""
        name = self._record(request.name).deployment_id
        async with contextlib.aclosing(self._history.watch(name, token=request.resume_token)) as events:
            async for item in events:
                yield pb.WatchDeploymentEventsResponse(event=convert.event(item), resume_token=str(item.sequence))

    async def RollbackDeployment(
        self, request: pb.RollbackDeploymentRequest, context: Any
    ) -> pb.RollbackDeploymentResponse:
        """Accept an earlier revision, then wait until it runs."""
        if request.revision < 0:
            raise convert.bad("revision", "must not be negative")
        wait = waits.bounded(None, "wait", context)
        deadline.detach()
        accepted = await asyncio.shield(
            self._applier.roll_back(waits.id_of(request.name), request.revision, request_id=request.request_id)
        )
        record = accepted.deployment
        record = await self._operations.settled(record.deployment_id, record.generation, wait)
        waits.raise_failure(record)
        return pb.RollbackDeploymentResponse(deployment=self._deployment(record))

    async def ListDeploymentRevisions(
        self, request: pb.ListDeploymentRevisionsRequest, context: Any
    ) -> pb.ListDeploymentRevisionsResponse:
        """The kept revisions, newest first."""
        name = self._record(request.name).deployment_id
        kept = await asyncio.to_thread(self._store.revisions, name)
        page, token = paginate(kept, key=_newest_first, page_size=request.page_size, page_token=request.page_token)
        revisions, token = fitting(
            page, token, key=_newest_first, make=convert.revision, size=pb.DeploymentRevision.ByteSize
        )
        return pb.ListDeploymentRevisionsResponse(revisions=revisions, next_page_token=token)

    async def ListOrphans(self, request: pb.ListOrphansRequest, context: Any) -> pb.ListOrphansResponse:
        """A page of this node's workloads that no deployment claims."""
        orphans = self._orphans.listed()
        page, token = paginate(
            orphans.found, key=name_of_workload, page_size=request.page_size, page_token=request.page_token
        )
        workloads, token = fitting(
            page,
            token,
            key=name_of_workload,
            make=lambda item: workload_pb2.Workload.FromString(item.raw),
            size=workload_pb2.Workload.ByteSize,
        )
        return pb.ListOrphansResponse(
            workloads=workloads,
            next_page_token=token,
            unreachable_engines=orphans.unreachable,
        )

    async def AdoptOrphan(self, request: pb.AdoptOrphanRequest, context: Any) -> pb.AdoptOrphanResponse:
        """Attach an orphan to a deployment; it runs on as it is."""
        if not request.workload_name:
            raise convert.bad("workload_name", "is required")
        deadline.detach()
        record = await asyncio.shield(self._orphans.adopt(request.workload_name, request.deployment_id))
        record = await self._operations.settled(record.deployment_id, record.generation, _HEARD_SECONDS)
        return pb.AdoptOrphanResponse(deployment=self._deployment(record))

    async def PurgeOrphans(self, request: pb.PurgeOrphansRequest, context: Any) -> pb.PurgeOrphansResponse:
        """Remove orphans, or say which would be."""
        wanted = parse_filter(request.filter, fields=("engine", "workload_id"))
        names = await self._orphans.purge(wanted, force=request.force)
        return pb.PurgeOrphansResponse(purge_count=len(names), purge_sample=names[:_SAMPLE])

    async def StopDeployment(self, request: pb.StopDeploymentRequest, context: Any) -> pb.StopDeploymentResponse:
        """Stop and keep; it stays stopped over restarts."""
        return pb.StopDeploymentResponse(deployment=await self._control(request, Outcome.STOP, context))

    async def StartDeployment(self, request: pb.StartDeploymentRequest, context: Any) -> pb.StartDeploymentResponse:
        """Start what was stopped."""
        return pb.StartDeploymentResponse(deployment=await self._control(request, Outcome.START, context))

    async def RestartDeployment(
        self, request: pb.RestartDeploymentRequest, context: Any
    ) -> pb.RestartDeploymentResponse:
        """Stop and start in place."""
        return pb.RestartDeploymentResponse(deployment=await self._control(request, Outcome.RESTART, context))

    async def _control(
        self,
        request: pb.StopDeploymentRequest | pb.StartDeploymentRequest | pb.RestartDeploymentRequest,
        outcome: Outcome,
        context: Any,
    ) -> pb.Deployment:
        grace = None
        if not isinstance(request, pb.StartDeploymentRequest) and request.HasField("grace_period"):
            grace = from_duration(request.grace_period, field="grace_period", high=waits.WAIT_MAX)
        wait = waits.bounded(None, "wait", context)
        deadline.detach()
        record = await asyncio.shield(self._applier.control(waits.id_of(request.name), outcome, grace_seconds=grace))
        return await self._carried_out(record, wait)

    async def _carried_out(self, record: Deployment, wait: float) -> pb.Deployment:
        generation = record.generation
        record = await self._operations.settled(record.deployment_id, generation, wait)
        waits.raise_superseded(record, generation)
        waits.raise_failure(record)
        return self._deployment(record)

    async def CheckDrift(self, request: pb.CheckDriftRequest, context: Any) -> pb.CheckDriftResponse:
        """What a repair would change."""
        changes = await self._applier.drift(waits.id_of(request.name))
        return pb.CheckDriftResponse(drifted=bool(changes), changes=[convert.change_pb(item) for item in changes])

    async def ReconcileDeployment(
        self, request: pb.ReconcileDeploymentRequest, context: Any
    ) -> pb.ReconcileDeploymentResponse:
        """Repair what has drifted, then wait until it runs."""
        wait = waits.bounded(None, "wait", context)
        deadline.detach()
        record = await asyncio.shield(self._applier.repair(waits.id_of(request.name)))
        return pb.ReconcileDeploymentResponse(deployment=await self._carried_out(record, wait))

    async def ExecDeployment(
        self, requests: AsyncIterator[pb.ExecDeploymentRequest], context: Any
    ) -> AsyncIterator[pb.ExecDeploymentResponse]:
        """The first message names the deployment; the rest is the engine's exec, passed on."""
        first = await anext(aiter(requests), None)
        if first is None or first.exec.WhichOneof("input") != "start":
            raise convert.bad("exec.start", "the first message names the deployment and starts a command")
        record = self._deployed(first.name)
        first.exec.start.workload_id = record.workload_id

        async def inner() -> AsyncIterator[engine_pb.ExecWorkloadRequest]:
            yield first.exec
            async for request in requests:
                yield request.exec

        async with contextlib.aclosing(self._engines.exec(record.engine_id, inner())) as answers:
            async for answer in answers:
                yield pb.ExecDeploymentResponse(exec=answer)

    async def InvokeDeployment(self, request: pb.InvokeDeploymentRequest, context: Any) -> pb.InvokeDeploymentResponse:
        """Call a function where it runs."""
        check_function(self._record(request.name))
        record = self._deployed(request.name)
        return pb.InvokeDeploymentResponse(
            invocation=await self._invoker.invoke(record.engine_id, record.workload_id, request)
        )

    async def GetDeploymentStats(
        self, request: pb.GetDeploymentStatsRequest, context: Any
    ) -> pb.GetDeploymentStatsResponse:
        """One sample of each component."""
        record = self._deployed(request.name)
        answer = await self._engines.stats(record.engine_id, record.workload_id)
        return pb.GetDeploymentStatsResponse(stats=answer.stats)

    async def DeleteDeployment(self, request: pb.DeleteDeploymentRequest, context: Any) -> pb.DeleteDeploymentResponse:
        """Accept, then wait as asked; the deletion itself outlives its caller."""
        wait = waits.wait_of(request, context)
        deployment_id = waits.id_of(request.name)
        deadline.detach()
        try:
            record = await asyncio.shield(
                self._applier.delete(
                    deployment_id, etag=request.etag, force=request.force, remove_volumes=request.remove_volumes
                )
            )
        except NotFound:
            if request.allow_missing:
                return pb.DeleteDeploymentResponse()
            raise
        if wait > 0:
            record = await self._operations.settled(deployment_id, record.generation, wait)
            if record.step is Step.REMOVE and record.failure is not None:
                raise waits.carrying(record.failure.error(), record)
        return pb.DeleteDeploymentResponse(deployment=self._deployment(record))

    async def StreamDeploymentLogs(
        self, request: pb.StreamDeploymentLogsRequest, context: Any
    ) -> AsyncIterator[pb.StreamDeploymentLogsResponse]:
        """The engine's log stream, passed on; one that follows survives a restart of the engine."""
        record = self._deployed(request.name)
        asked = engine_pb.StreamWorkloadLogsRequest(
            workload_id=record.workload_id,
            component_id=request.component_id,
            follow=request.follow,
            resume_cursor=request.resume_cursor,
            tail_lines=request.tail_lines if request.HasField("tail_lines") else None,
            since_time=request.since_time if request.HasField("since_time") else None,
        )
        following = followed(lambda again: self._engines.logs(record.engine_id, again), asked)
        async with contextlib.aclosing(following) as messages:
            async for message in messages:
                yield pb.StreamDeploymentLogsResponse(
                    entries=message.entries, end=message.end if message.HasField("end") else None
                )

    async def ExportDeployment(self, request: pb.ExportDeploymentRequest, context: Any) -> pb.ExportDeploymentResponse:
        """The manifest as it was applied."""
        if request.live:
            record = self._deployed(request.name)
            live = await self._engines.export(record.engine_id, record.workload_id)
            return pb.ExportDeploymentResponse(manifest=live.manifest, issues=live.issues)
        wish = self._record(request.name).wish
        manifest = types_pb2.Manifest(content=wish.manifest, format=types_pb2.ManifestFormat.ValueType(wish.format))
        return pb.ExportDeploymentResponse(manifest=manifest)

    def _deployed(self, name: str) -> Deployment:
        record = self._record(name)
        if record.engine_id not in record.touched:
            raise FailedPrecondition(f"deployment {record.deployment_id!r} runs on no engine", reason="NOT_DEPLOYED")
        return record

    def _record(self, name: str) -> Deployment:
        return self._book.get(waits.id_of(name))

    def _deployment(self, record: Deployment) -> pb.Deployment:
        return convert.deployment(self._views.of(record), node_id=self._node_id)

    def _matches(self, record: Deployment, wanted: Mapping[str, str]) -> bool:
        if wanted.get("deployment_id", record.deployment_id) != record.deployment_id:
            return False
        if wanted.get("engine", record.engine_id) != record.engine_id:
            return False
        return "state" not in wanted or wanted["state"] == self._views.of(record).state.name


def _deployment_id(record: Deployment) -> str:
    return record.deployment_id


def _newest_first(item: Revision) -> str:
    return f"{_REVISIONS_MAX - item.revision:012d}"


def _state(text: str) -> str:
    """A state in a filter, as our tables or as JSON spell it; raises InvalidArgument."""
    name = text.upper().removeprefix("DEPLOYMENT_STATE_")
    if name not in State.__members__:
        message = f"unknown state {text[:40]!r}; known: {', '.join(State.__members__)}"
        raise InvalidArgument(
            f"filter: {message}",
            reason="BAD_FILTER",
            violations=[FieldViolation(field_path="filter", message=message)],
        )
    return name
