"""The EngineService of every engine: translates between the wire and the keeper, and decides nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.engines import convert
from services.engines.admission import DeployOrder
from services.engines.deployer import RemoveOrder
from services.engines.engine import Engine, Resources
from services.engines.exec_stream import converse
from services.engines.inside import LogEnd
from services.engines.keeper import Keeper
from services.engines.listing import Listing
from services.engines.monitor import HealthStatus, Monitor
from services.engines.records import Halt, Removal
from services.engines.streams import closed_after
from services.errors import Unavailable
from services.rpc.listing import fitting

Context = Any
"""grpc.aio's context; handlers do not use it: errors are raised, deadlines are entered by the interceptor."""

PLANNED_ID = "planned"
"""Stands for the deployment's id in a plan, which is about content alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What serves once the node's id is known."""

    engine: Engine
    keeper: Keeper
    monitor: Monitor
    instance_id: str
    capacity: Resources


class EngineServicer(pb_grpc.EngineServiceServicer):
    """Answers UNAVAILABLE until `attach`, and again from `detach` on, which also ends the streams."""

    def __init__(self) -> None:
        self._parts: Parts | None = None
        self._stopping = False
        self._streams: set[asyncio.Task[Any]] = set()

    def attach(self, parts: Parts) -> None:
        """Serve these from now on."""
        self._parts = parts

    def detach(self) -> None:
        """Serve nothing any more."""
        self._stopping = True
        for task in self._streams:
            task.cancel()

    @property
    def parts(self) -> Parts:
        """What serves; raises Unavailable (NODE_ID_UNKNOWN, ENGINE_STOPPING)."""
        if self._stopping:
            raise _stopping()
        if self._parts is None:
            raise Unavailable(
                "this engine does not know its node's id yet: it asks the provider until it answers",
                reason="NODE_ID_UNKNOWN",
                retry_after=1.0,
            )
        return self._parts

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """A stream that `detach` ends: it would hold up the server's drain."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a stream is served by a task")
        self._streams.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            raise _stopping() from None
        finally:
            self._streams.discard(task)

    # Identity and health

    async def GetEngineInfo(self, request: pb.GetEngineInfoRequest, context: Context) -> pb.GetEngineInfoResponse:
        """Who this engine is."""
        parts = self.parts
        return pb.GetEngineInfoResponse(
            info=convert.info_to(parts.engine.info, instance_id=parts.instance_id, capacity=parts.capacity)
        )

    async def GetEngineHealth(self, request: pb.GetEngineHealthRequest, context: Context) -> pb.GetEngineHealthResponse:
        """The cached health; with `probe` a fresh one, which takes the probe's timeout at most."""
        parts = self.parts
        status = await parts.monitor.probe_now() if request.probe else parts.monitor.status
        return pb.GetEngineHealthResponse(health=_health(parts, status))

    async def WatchEngineHealth(
        self, request: pb.WatchEngineHealthRequest, context: Context
    ) -> AsyncIterator[pb.WatchEngineHealthResponse]:
        """The health now, then every change."""
        parts = self.parts
        with self._stream():
            async with closed_after(parts.monitor.watch()) as statuses:
                async for status in statuses:
                    yield pb.WatchEngineHealthResponse(health=_health(parts, status))

    # Workloads

    async def ValidateManifest(
        self, request: pb.ValidateManifestRequest, context: Context
    ) -> pb.ValidateManifestResponse:
        """Every finding as an issue."""
        verdict = await self.parts.keeper.validate(
            request.manifest.content,
            convert.format_from(request.manifest.format),
            lenient=convert.lenient_from(request.mode, field="mode"),
            config=convert.config_from(request.config),
        )
        return pb.ValidateManifestResponse(
            valid=verdict.valid,
            format=convert.format_to(verdict.format),
            issues=[convert.issue_to(issue) for issue in verdict.issues],
            canonical_digest=verdict.canonical_digest,
        )

    async def DeployWorkload(self, request: pb.DeployWorkloadRequest, context: Context) -> pb.DeployWorkloadResponse:
        """Create, replace, or nothing when it already is so."""
        parts = self.parts
        order = DeployOrder(
            workload_id=convert.require(request.workload_id, "workload_id"),
            manifest_id=convert.require(request.manifest_id, "manifest_id"),
            text=convert.require(request.manifest.content, "manifest.content"),
            format=convert.format_from(request.manifest.format),
            config=convert.config_from(request.config),
            allow_replace=request.allow_replace,
            etag=request.etag,
            validate_only=request.validate_only,
            request_id=request.request_id,
            lenient=convert.lenient_from(request.validation_mode, field="validation_mode"),
        )
        deployed = await parts.keeper.deploy(order)
        return pb.DeployWorkloadResponse(
            workload=convert.workload_to(deployed.workload, engine=parts.engine.info.engine),
            action=tpb.ChangeAction.ValueType(deployed.action),
            issues=[convert.issue_to(issue) for issue in deployed.issues],
        )

    async def GetWorkload(self, request: pb.GetWorkloadRequest, context: Context) -> pb.GetWorkloadResponse:
        """One workload, live."""
        parts = self.parts
        workload = await parts.keeper.get(convert.require(request.workload_id, "workload_id"))
        return pb.GetWorkloadResponse(workload=convert.workload_to(workload, engine=parts.engine.info.engine))

    async def ListWorkloads(self, request: pb.ListWorkloadsRequest, context: Context) -> pb.ListWorkloadsResponse:
        """A page of the kept view."""
        parts = self.parts
        page = await parts.keeper.list(
            Listing(
                filter=request.filter,
                manifest_id=request.manifest_id,
                states=convert.states_from(request.states),
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        engine = parts.engine.info.engine
        workloads, token = fitting(
            page.workloads,
            page.next_page_token,
            key=lambda workload: workload.workload_id,
            make=lambda workload: convert.workload_to(workload, engine=engine),
            size=wpb.Workload.ByteSize,
        )
        return pb.ListWorkloadsResponse(
            workloads=workloads,
            next_page_token=token,
            resume_token=page.resume_token,
        )

    async def WatchWorkloads(
        self, request: pb.WatchWorkloadsRequest, context: Context
    ) -> AsyncIterator[pb.WatchWorkloadsResponse]:
        """Snapshot, SYNCED, changes."""
        parts = self.parts
        watching = parts.keeper.watch(
            workload_id=request.workload_id,
            resume_token=request.resume_token,
            skip_snapshot=request.skip_snapshot,
        )
        with self._stream():
            async with closed_after(watching) as events:
                async for event in events:
                    yield convert.event_to(event, engine=parts.engine.info.engine)

    async def RemoveWorkload(self, request: pb.RemoveWorkloadRequest, context: Context) -> pb.RemoveWorkloadResponse:
        """Stop and delete."""
        parts = self.parts
        removal = Removal(
            grace_seconds=convert.grace_from(request), force=request.force, remove_volumes=request.remove_volumes
        )
        workload = await parts.keeper.remove(
            RemoveOrder(
                workload_id=convert.require(request.workload_id, "workload_id"),
                removal=removal,
                allow_missing=request.allow_missing,
                etag=request.etag,
            )
        )
        if workload is None:
            return pb.RemoveWorkloadResponse()
        return pb.RemoveWorkloadResponse(workload=convert.workload_to(workload, engine=parts.engine.info.engine))

    async def StreamWorkloadLogs(
        self, request: pb.StreamWorkloadLogsRequest, context: Context
    ) -> AsyncIterator[pb.StreamWorkloadLogsResponse]:
        """Lines in batches, then the end and its reason."""
        workload_id = convert.require(request.workload_id, "workload_id")
        reading = self.parts.keeper.inside.logs(
            workload_id, convert.log_query_from(request), wait_start=request.wait_start
        )
        with self._stream():
            async with closed_after(reading) as batches:
                async for batch in batches:
                    if isinstance(batch, LogEnd):
                        end = pb.LogEnd(reason=batch.reason, exit_status=convert.exit_to(batch.exit_status))
                        yield pb.StreamWorkloadLogsResponse(end=end)
                        continue
                    for message in convert.log_messages(batch):
                        yield message

    async def GetWorkloadManifest(
        self, request: pb.GetWorkloadManifestRequest, context: Context
    ) -> pb.GetWorkloadManifestResponse:
        """The manifest exactly as it was deployed."""
        record = await self.parts.keeper.inside.record(convert.require(request.workload_id, "workload_id"))
        return pb.GetWorkloadManifestResponse(manifest=convert.manifest_to(record))

    async def GetWorkloadConfig(
        self, request: pb.GetWorkloadConfigRequest, context: Context
    ) -> pb.GetWorkloadConfigResponse:
        """The config exactly as it was deployed."""
        record = await self.parts.keeper.inside.record(convert.require(request.workload_id, "workload_id"))
        return pb.GetWorkloadConfigResponse(config=convert.config_to(record.config))

    async def ExportManifest(self, request: pb.ExportManifestRequest, context: Context) -> pb.ExportManifestResponse:
        """The running state as a manifest."""
        record, export = await self.parts.keeper.inside.export(
            convert.require(request.workload_id, "workload_id"), convert.format_from(request.format, field="format")
        )
        return convert.export_to(record, export)

    # Planning

    async def PlanWorkload(self, request: pb.PlanWorkloadRequest, context: Context) -> pb.PlanWorkloadResponse:
        """What a deploy would change."""
        workload_id = convert.require(request.workload_id, "workload_id")
        plan = await self.parts.keeper.plan(
            DeployOrder(
                workload_id=workload_id,
                manifest_id=PLANNED_ID,
                text=convert.require(request.manifest.content, "manifest.content"),
                format=convert.format_from(request.manifest.format),
                config=convert.config_from(request.config),
            )
        )
        return convert.plan_to(plan)

    # Ending and beginning

    async def StartWorkload(self, request: pb.StartWorkloadRequest, context: Context) -> pb.StartWorkloadResponse:
        """Start what was stopped."""
        parts = self.parts
        workload = await parts.keeper.power.start(convert.require(request.workload_id, "workload_id"))
        return pb.StartWorkloadResponse(workload=convert.workload_to(workload, engine=parts.engine.info.engine))

    async def StopWorkload(self, request: pb.StopWorkloadRequest, context: Context) -> pb.StopWorkloadResponse:
        """Stop and keep."""
        parts = self.parts
        halt = Halt(grace_seconds=convert.grace_from(request), signal=convert.signal_from(request.signal))
        workload = await parts.keeper.power.stop(convert.require(request.workload_id, "workload_id"), halt)
        return pb.StopWorkloadResponse(workload=convert.workload_to(workload, engine=parts.engine.info.engine))

    async def RestartWorkload(self, request: pb.RestartWorkloadRequest, context: Context) -> pb.RestartWorkloadResponse:
        """Stop and start."""
        parts = self.parts
        workload = await parts.keeper.power.restart(
            convert.require(request.workload_id, "workload_id"), grace_seconds=convert.grace_from(request)
        )
        return pb.RestartWorkloadResponse(workload=convert.workload_to(workload, engine=parts.engine.info.engine))

    # Inside

    async def GetWorkloadStats(
        self, request: pb.GetWorkloadStatsRequest, context: Context
    ) -> pb.GetWorkloadStatsResponse:
        """One sample of each component."""
        stats = await self.parts.keeper.inside.stats(convert.require(request.workload_id, "workload_id"))
        return pb.GetWorkloadStatsResponse(stats=[convert.stats_to(sample) for sample in stats])

    async def ExecWorkload(
        self, request_iterator: AsyncIterator[pb.ExecWorkloadRequest], context: Context
    ) -> AsyncIterator[pb.ExecWorkloadResponse]:
        """A command in a component, for as long as it and its caller live."""
        with self._stream():
            async with closed_after(converse(self.parts.keeper.inside, request_iterator)) as answers:
                async for answer in answers:
                    yield answer


def _health(parts: Parts, status: HealthStatus) -> pb.EngineHealth:
    return convert.health_to(status, unreadable_records=parts.keeper.unreadable_records)


def _stopping() -> Unavailable:
    return Unavailable("this engine is stopping", reason="ENGINE_STOPPING", retry_after=1.0)
