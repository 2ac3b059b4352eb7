"""The node's engines over gRPC: a watch on the registry, a watch on each engine's workloads, and the calls of the flow.

An apply costs no registry RPC: the view is kept here, and survives the registry's absence (SYNCED plus one lease).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import grpc
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.engine.v1 import workload_pb2
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.registry.v1 import registry_service_pb2_grpc as registry_grpc
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from services.errors import BeemeshError, NotFound, Unavailable
from services.manifests.reader import SHORT
from services.orchestrator import convert, selection
from services.orchestrator.model import Config, Deployment, EngineView, Issue, Observed, Plan, Policy, Wish
from services.orchestrator.steps import UNKNOWN, unreachable
from services.rpc.client import connect
from services.rpc.convert import duration
from services.rpc.deadline import budget
from services.rpc.errors import translated
from services.rpc.sending import heard_out
from services.telemetry import Log

log = Log(__name__)

_LEASE_SECONDS = 15.0
_AT_ONCE = 64
"""Workloads that are told of before others have their turn on the event loop."""
_RETRY_SECONDS = 0.5
_MISSING, _FALSE = "ComponentMissing", types_pb2.Condition.STATUS_FALSE
_WATCH_SECONDS = 3600.0
"""Every stream has a deadline too; it is then opened anew."""
_EXEC_SECONDS = 86_400.0
"""A command cannot be opened anew: somebody's shell is not ended within their day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that calls to an engine may take."""

    query: float = 5.0
    reading: float = 60.0
    """Judging a long manifest: an engine reads one after the other."""
    deploy: float = 600.0
    """Pulling images and preparing disks included."""
    remove: float = 600.0
    """The workload's own grace period included."""


@dataclass(slots=True)
class _Link:
    """One engine's channel and what its workload watch has told."""

    view: EngineView
    channel: grpc.aio.Channel
    stub: engine_grpc.EngineServiceStub
    synced: bool = False
    """Whether the watch is up: then `workloads` is the truth."""
    workloads: dict[str, Observed] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class GrpcEngines:
    """Implements `ports.Engines`; `run` keeps the views."""

    def __init__(self, *, registry: str, timeouts: Timeouts) -> None:
        """`registry`: its gRPC target."""
        self._timeouts = timeouts
        self._listeners: list[Callable[[str], None]] = []
        self._links: dict[str, _Link] = {}
        self._lost: dict[str, asyncio.TimerHandle] = {}
        self._default = ""
        self._moved = asyncio.Event()
        self._synced = asyncio.Event()
        self.registry = connect(registry, files=[registry_pb.DESCRIPTOR])
        """The registry's channel; the relay uses it too."""

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """`listener` is told the id of every workload that may have changed, and "" when an engine has."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Watch the registry for ever, and each engine it names."""
        stub = registry_grpc.RegistryServiceStub(self.registry)
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    try:
                        await self._watch_registry(stub, tasks)
                    except BeemeshError as error:
                        log.warning("registry_watch_broke", error=repr(error))
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            for link in self._links.values():
                await link.channel.close()
            await self.registry.close()

    async def _watch_registry(self, stub: registry_grpc.RegistryServiceStub, tasks: asyncio.TaskGroup) -> None:
        call = stub.WatchEngines(registry_pb.WatchEnginesRequest(), timeout=_WATCH_SECONDS)
        seen: set[str] = set()
        try:
            with translated():
                async for message in call:
                    if message.default_engine or message.type == types_pb2.WATCH_EVENT_TYPE_SYNCED:
                        self._default = message.default_engine
                    if message.type == types_pb2.WATCH_EVENT_TYPE_SYNCED:
                        self._expire_unseen(seen)
                        self._synced.set()
                    elif message.type == types_pb2.WATCH_EVENT_TYPE_REMOVED:
                        await self._forget(message.engine.engine_id)
                    elif message.HasField("engine"):
                        seen.add(message.engine.engine_id)
                        await self._learn(convert.engine_view(message.engine), tasks)
                    if message.type != types_pb2.WATCH_EVENT_TYPE_BOOKMARK:
                        self._notify("")
        finally:
            call.cancel()

    def _expire_unseen(self, seen: set[str]) -> None:
        """A registry that has just restarted does not know its engines yet: they have one lease to come back."""
        loop = asyncio.get_running_loop()
        for engine_id in self._links.keys() - seen - self._lost.keys():
            self._lost[engine_id] = loop.call_later(_LEASE_SECONDS, self._lose, engine_id)

    def _lose(self, engine_id: str) -> None:
        self._lost.pop(engine_id, None)
        link = self._links.get(engine_id)
        if link is not None:
            link.view = replace(link.view, available=False, reason="ENGINE_NOT_FOUND")
            self._notify("")

    async def _learn(self, view: EngineView, tasks: asyncio.TaskGroup) -> None:
        if (timer := self._lost.pop(view.engine_id, None)) is not None:
            timer.cancel()
        link = self._links.get(view.engine_id)
        if link is not None and link.view.endpoint == view.endpoint:
            link.view = view
            return
        if link is not None:
            await self._forget(view.engine_id)
        channel = connect(view.endpoint, files=[engine_pb.DESCRIPTOR])
        link = _Link(view=view, channel=channel, stub=engine_grpc.EngineServiceStub(channel))
        self._links[view.engine_id] = link
        link.task = tasks.create_task(self._watch_workloads(link), name=f"workloads:{view.engine_id}")

    async def _forget(self, engine_id: str) -> None:
        link = self._links.pop(engine_id, None)
        if link is None:
            return
        if link.task is not None:
            link.task.cancel()
        await link.channel.close()
        for workload_id in link.workloads:
            self._notify(workload_id)

    async def _watch_workloads(self, link: _Link) -> None:
        """Follow one engine for ever; while the stream is down its workloads are UNKNOWN, never gone."""
        while True:
            try:
                await self._follow(link)
            except BeemeshError as error:
                log.warning("workload_watch_broke", engine=link.view.engine_id, error=repr(error))
            link.synced = False
            for workload_id in list(link.workloads):
                self._notify(workload_id)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, link: _Link) -> None:
        fresh: dict[str, Observed] = {}
        call = link.stub.WatchWorkloads(engine_pb.WatchWorkloadsRequest(), timeout=_WATCH_SECONDS)
        try:
            with translated():
                async for message in call:
                    if message.type == types_pb2.WATCH_EVENT_TYPE_SNAPSHOT:
                        fresh[message.workload.workload_id] = _observed(message.workload, link.view.engine_id)
                    elif message.type == types_pb2.WATCH_EVENT_TYPE_SYNCED:
                        gone, link.workloads, link.synced = link.workloads.keys() - fresh.keys(), fresh, True
                        for count, workload_id in enumerate((*gone, *fresh), 1):
                            self._notify(workload_id)
                            if count % _AT_ONCE == 0:
                                await asyncio.sleep(0)  # there may be thousands, and callers wait
                        self._notify("")  # what should be there and is not has no name here
                    elif message.HasField("workload"):
                        self._note(link, message)
        finally:
            call.cancel()

    def _note(self, link: _Link, message: engine_pb.WatchWorkloadsResponse) -> None:
        workload_id = message.workload.workload_id
        if message.type == types_pb2.WATCH_EVENT_TYPE_REMOVED:
            link.workloads.pop(workload_id, None)
        else:
            link.workloads[workload_id] = _observed(message.workload, link.view.engine_id)
        self._notify(workload_id)

    def _notify(self, workload_id: str) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
        for listener in self._listeners:
            listener(workload_id)

    async def synced(self, timeout: float) -> bool:
        """Wait for the registry's first answer; False if that took longer than `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._synced.wait()
        return self._synced.is_set()

    def views(self) -> Mapping[str, EngineView]:
        """Every registered engine by id."""
        return {engine_id: link.view for engine_id, link in self._links.items()}

    def default(self) -> str:
        """The registry's default engine, or ""."""
        return self._default

    def observed(self, engine_id: str, workload_id: str) -> Observed | None:
        """The workload as last seen; UNKNOWN when its engine is out of reach; None when the engine has none."""
        link = self._links.get(engine_id)
        last = link.workloads.get(workload_id) if link is not None else None
        if link is not None and link.synced:
            return last
        message = f"engine {engine_id} cannot be reached; last seen: {last.message or 'nothing'}" if last else ""
        unknown = last or Observed(workload_id=workload_id, engine_id=engine_id, state=UNKNOWN)
        return replace(unknown, state=UNKNOWN, message=message or f"engine {engine_id} cannot be reached")

    def held(self, engine_id: str) -> Mapping[str, Observed] | None:
        """All of an engine's workloads on this node, by id, as last told; None when it is out of reach."""
        link = self._links.get(engine_id)
        if link is None or not link.synced or any(item.state == UNKNOWN for item in link.workloads.values()):
            return None
        return dict(link.workloads)

    async def kept(self, engine_id: str, workload_id: str) -> tuple[str, Config]:
        """The manifest, byte for byte, and the config that an engine has kept of a workload."""
        stub, seconds = self._stub(engine_id), budget(self._timeouts.query)
        with _calling(engine_id):
            manifest = await stub.GetWorkloadManifest(
                engine_pb.GetWorkloadManifestRequest(workload_id=workload_id), timeout=seconds
            )
            config = await stub.GetWorkloadConfig(
                engine_pb.GetWorkloadConfigRequest(workload_id=workload_id), timeout=seconds
            )
        return manifest.manifest.content, convert.config(config.config)

    async def wait_changed(self, workload_id: str, timeout: float) -> None:
        """Return when anything may have changed, or after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._moved.wait()

    async def validate(self, engine_id: str, wish: Wish, *, warn: bool) -> Sequence[Issue]:
        """What the engine says of this manifest and config."""
        request = engine_pb.ValidateManifestRequest(
            manifest=types_pb2.Manifest(content=wish.manifest),
            mode=convert.validation_mode(warn),
            config=convert.config_pb(wish.config),
        )
        with _calling(engine_id):
            answer = await self._stub(engine_id).ValidateManifest(request, timeout=self._judging(wish))
        return [convert.issue(item) for item in answer.issues]

    def _judging(self, wish: Wish) -> float:
        return budget(self._timeouts.reading if len(wish.manifest) > SHORT else self._timeouts.query)

    async def plan(self, engine_id: str, workload_id: str, wish: Wish) -> Plan:
        """What a deploy would change; touches nothing."""
        request = engine_pb.PlanWorkloadRequest(
            workload_id=workload_id,
            manifest=types_pb2.Manifest(content=wish.manifest),
            config=convert.config_pb(wish.config),
        )
        with _calling(engine_id):
            answer = await self._stub(engine_id).PlanWorkload(request, timeout=self._judging(wish))
        return convert.plan(answer)

    async def deploy(self, engine_id: str, deployment: Deployment) -> Observed:
        """Make the engine run it; idempotent by workload id and digest."""
        request = engine_pb.DeployWorkloadRequest(
            workload_id=deployment.workload_id,
            manifest_id=deployment.deployment_id,
            manifest=types_pb2.Manifest(content=deployment.wish.manifest),
            config=convert.config_pb(deployment.wish.config),
            allow_replace=True,
            request_id=deployment.request_id,
            validation_mode=convert.validation_mode(deployment.wish.warn or _any(deployment)),
        )
        with _calling(engine_id):
            answer = await self._stub(engine_id).DeployWorkload(request, timeout=self._timeouts.deploy)
        return replace(_observed(answer.workload, engine_id), action=int(answer.action))

    async def fetch(self, engine_id: str, workload_id: str) -> Observed | None:
        """The workload now; None only because the engine said that there is none."""
        try:
            with _calling(engine_id):
                answer = await self._stub(engine_id).GetWorkload(
                    engine_pb.GetWorkloadRequest(workload_id=workload_id), timeout=budget(self._timeouts.query)
                )
        except NotFound as error:
            if error.reason == "WORKLOAD_NOT_FOUND":
                return None
            raise
        return _observed(answer.workload, engine_id)

    async def stop(self, engine_id: str, workload_id: str, *, grace_seconds: float | None) -> None:
        """Stop and keep."""
        request = engine_pb.StopWorkloadRequest(workload_id=workload_id, grace_period=_grace(grace_seconds))
        with _calling(engine_id):
            await self._stub(engine_id).StopWorkload(request, timeout=self._timeouts.remove)

    async def start(self, engine_id: str, workload_id: str) -> None:
        """Start what was stopped, without recreating it."""
        request = engine_pb.StartWorkloadRequest(workload_id=workload_id)
        with _calling(engine_id):
            await self._stub(engine_id).StartWorkload(request, timeout=self._timeouts.deploy)

    async def restart(self, engine_id: str, workload_id: str, *, grace_seconds: float | None) -> None:
        """Stop and start in place."""
        request = engine_pb.RestartWorkloadRequest(workload_id=workload_id, grace_period=_grace(grace_seconds))
        with _calling(engine_id):
            await self._stub(engine_id).RestartWorkload(request, timeout=self._timeouts.deploy)

    async def remove(self, engine_id: str, workload_id: str, *, remove_volumes: bool, force: bool) -> None:
        """Return when the engine has confirmed that nothing is left: the fence."""
        request = engine_pb.RemoveWorkloadRequest(
            workload_id=workload_id, allow_missing=True, remove_volumes=remove_volumes, force=force
        )
        with _calling(engine_id):
            await self._stub(engine_id).RemoveWorkload(request, timeout=self._timeouts.remove)

    async def logs(
        self, engine_id: str, request: engine_pb.StreamWorkloadLogsRequest
    ) -> AsyncGenerator[engine_pb.StreamWorkloadLogsResponse, None]:
        """The engine's own messages; closing the iterator ends the engine's side."""
        call = self._stub(engine_id).StreamWorkloadLogs(request, timeout=budget(_WATCH_SECONDS))
        try:
            with _calling(engine_id):
                async for message in call:
                    yield message
        finally:
            call.cancel()

    async def stats(self, engine_id: str, workload_id: str) -> engine_pb.GetWorkloadStatsResponse:
        """One sample of each component."""
        request = engine_pb.GetWorkloadStatsRequest(workload_id=workload_id)
        with _calling(engine_id):
            return await self._stub(engine_id).GetWorkloadStats(request, timeout=budget(self._timeouts.query))

    async def export(self, engine_id: str, workload_id: str) -> engine_pb.ExportManifestResponse:
        """The workload as it runs, rendered by the engine."""
        request = engine_pb.ExportManifestRequest(workload_id=workload_id)
        with _calling(engine_id):
            return await self._stub(engine_id).ExportManifest(request, timeout=budget(self._timeouts.query))

    async def exec(
        self, engine_id: str, requests: AsyncIterator[engine_pb.ExecWorkloadRequest]
    ) -> AsyncGenerator[engine_pb.ExecWorkloadResponse, None]:
        """Run a command in a component; closing the iterator ends the engine's side, and with it the command."""
        call = heard_out(self._stub(engine_id).ExecWorkload(requests, timeout=budget(_EXEC_SECONDS)))
        try:
            with _calling(engine_id):
                async for message in call:
                    yield message
        finally:
            call.cancel()

    def channel(self, name: str) -> grpc.aio.Channel:
        """The channel to an engine by id or alias, for the relay; raises NotFound, Unavailable."""
        engine_id = selection.resolve(name, self.views().values())
        if engine_id not in self._links:
            raise NotFound(
                f"engine {name[:80]!r} is not registered on this node; registered: {', '.join(sorted(self._links))}",
                reason="ENGINE_NOT_FOUND",
                metadata={"engine": name[:80]},
            )
        return self._links[engine_id].channel

    def _stub(self, engine_id: str) -> engine_grpc.EngineServiceStub:
        return self._link(engine_id).stub

    def _link(self, engine_id: str) -> _Link:
        link = self._links.get(engine_id)
        if link is None:
            raise unreachable(engine_id)
        return link


@contextmanager
def _calling(engine_id: str) -> Iterator[None]:
    """Within it, an engine's errors are raised as they are; that nobody listens is said in our words."""
    try:
        with translated():
            yield
    except Unavailable as error:
        if error.reason == "RPC_UNAVAILABLE":
            raise unreachable(engine_id) from error
        raise


def _grace(seconds: float | None) -> Duration | None:
    return None if seconds is None else duration(seconds)


def _any(deployment: Deployment) -> bool:
    return deployment.wish.policy is Policy.ANY


def _place(component: workload_pb2.Component) -> str:
    return f"{component.replica}/{component.display_name}"


def _ending(status: workload_pb2.ExitStatus) -> str:
    """`137 (OOMKilled)`, `0 (LivenessProbeFailed: what the probe said)`."""
    why = ": ".join(word for word in (status.reason, status.message) if word)
    return f"{status.exit_code} ({why})" if why else str(status.exit_code)


def _observed(workload: workload_pb2.Workload, engine_id: str) -> Observed:
    return Observed(
        workload_id=workload.workload_id,
        engine_id=engine_id,
        state=workload.state,
        message=workload.state_message,
        digest=workload.runtime_digest,
        manifest_id=workload.manifest_id,
        incomplete=any(item.reason == _MISSING and item.status == _FALSE for item in workload.conditions),
        restarts={_place(c): c.restart_count for c in workload.components if c.restart_count},
        endings={_place(c): _ending(c.last_exit) for c in workload.components if c.HasField("last_exit")},
        raw=workload.SerializeToString(),
    )
