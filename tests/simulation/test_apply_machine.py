"""Random applies, deletes, faults and cuts against the mock engine: record, backend and announcement always agree.

A Hypothesis state machine drives a whole node over gRPC. After every step the faults are lifted and the node comes to
rest; then what the client was promised, the orchestrator's record, the backend's workloads and the provider's
announcements must tell the same story. Hypothesis prints the failing sequence and replays it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import grpc
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.harness.node import LocalNode, local_node

T = TypeVar("T")

NAMES = ("one", "two")
IMAGES = ("localhost/a:1", "localhost/b:1")
CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL)
METHODS = ("DeployWorkload", "RemoveWorkload", "GetWorkload", "ValidateManifest")


def manifest(image: str) -> str:
    return (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations: {beemesh.io/runtime-engine: mock}\n"
        f"spec:\n  containers:\n  - {{name: main, image: {image}}}\n"
    )


class ApplyMachine(RuleBasedStateMachine):
    """What clients do, what breaks, and what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="bm", dir="/tmp")
        self.runner = asyncio.Runner()
        self.ended = self.run(self._make_event())
        started: asyncio.Future[LocalNode] = self.runner.get_loop().create_future()
        self.host = self.runner.get_loop().create_task(self._host(started))
        self.node = self.run(self._first(started))
        self.wanted: dict[str, str | None] = {}
        """Deployment → the image last accepted; None: deleted."""

    @staticmethod
    async def _make_event() -> asyncio.Event:
        return asyncio.Event()

    async def _host(self, started: asyncio.Future[LocalNode]) -> None:
        async with local_node(Path(self.directory.name)) as node:
            started.set_result(node)
            await self.ended.wait()

    async def _first(self, started: asyncio.Future[LocalNode]) -> LocalNode:
        either: list[asyncio.Future[Any]] = [self.host, started]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return started.result() if started.done() else self.host.result()  # type: ignore[return-value] # raises

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self._end())
        self.runner.close()
        self.directory.cleanup()

    async def _end(self) -> None:
        self.ended.set()
        await self.host

    # What clients do

    @rule(name=st.sampled_from(NAMES), image=st.sampled_from(IMAGES))
    def apply(self, name: str, image: str) -> None:
        self.run(self._apply(name, image, wait=2.0))

    @rule(name=st.sampled_from(NAMES), image=st.sampled_from(IMAGES))
    def apply_and_leave(self, name: str, image: str) -> None:
        self.run(self._apply(name, image, wait=0.0))

    @rule(name=st.sampled_from(NAMES), image=st.sampled_from(IMAGES), cut=st.sampled_from(("orchestrator", "mock")))
    def apply_and_cut(self, name: str, image: str, cut: str) -> None:
        self.run(self._apply_and_cut(name, image, cut))

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        self.run(self._delete(name))

    async def _apply(self, name: str, image: str, *, wait: float) -> None:
        before = self.wanted.get(name)
        try:
            await self.node.orchestrator.ApplyManifest(_apply_request(name, image, wait), timeout=10)
            self.wanted[name] = image
        except grpc.aio.AioRpcError:
            # Refused before it was accepted, or accepted and not (yet) done: the record tells which.
            self.wanted[name] = await self._recorded(name)
            assert self.wanted[name] in (before, image)

    async def _apply_and_cut(self, name: str, image: str, cut: str) -> None:
        call = asyncio.ensure_future(self.node.orchestrator.ApplyManifest(_apply_request(name, image, 2.0), timeout=10))
        await asyncio.sleep(0.004)
        await self.node.cut(cut)
        await asyncio.wait([call])
        self.node.start(cut)
        await self.node.ready()
        if call.exception() is not None:
            self.wanted[name] = await self._recorded(name)
        else:
            self.wanted[name] = image

    async def _delete(self, name: str) -> None:
        try:
            await self.node.orchestrator.DeleteDeployment(
                pb.DeleteDeploymentRequest(name=name, allow_missing=True, wait=_seconds(2.0)), timeout=10
            )
        except grpc.aio.AioRpcError as error:
            assert error.code() is not grpc.StatusCode.NOT_FOUND  # noqa: PT017 - it may also succeed
        self.wanted[name] = await self._recorded(name)

    async def _recorded(self, name: str) -> str | None:
        """The image that the record names; None when there is no record, or it is being deleted."""
        try:
            found = await self.node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=name), timeout=5)
            export = await self.node.orchestrator.ExportDeployment(pb.ExportDeploymentRequest(name=name), timeout=5)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017 - it may also be there
            return None
        if found.deployment.state == pb.DEPLOYMENT_STATE_DELETING:
            return None
        return next(image for image in IMAGES if image in export.manifest.content)

    # What breaks

    @rule(
        method=st.sampled_from(METHODS),
        code=st.sampled_from(CODES),
        times=st.integers(1, 3),
        after=st.booleans(),
        name=st.sampled_from(NAMES),
        image=st.sampled_from(IMAGES),
        delete=st.booleans(),
    )
    def fail(
        self, method: str, code: grpc.StatusCode, times: int, after: bool, name: str, image: str, delete: bool
    ) -> None:
        fault = mock_pb.MockFault(
            method=method, grpc_code=code.value[0], reason="SCRIPTED", remaining=times, apply_then_fail=after
        )
        self.run(self._behave(fault))
        self.run(self._delete(name) if delete else self._apply(name, image, wait=0.5))

    async def _behave(self, *faults: mock_pb.MockFault) -> None:
        request = mock_pb.SetMockBehaviorRequest(faults=faults, health=engine_pb.ENGINE_HEALTH_STATE_HEALTHY)
        await self.node.mock.SetMockBehavior(request, timeout=5)

    @rule(name=st.sampled_from(("orchestrator", "mock", "provider", "registry")), cut=st.booleans())
    def restart(self, name: str, cut: bool) -> None:
        self.run(self._restart(name, cut))

    async def _restart(self, name: str, cut: bool) -> None:
        await (self.node.cut(name) if cut else self.node.stop(name))
        self.node.start(name)
        await self.node.ready()

    @precondition(lambda self: any(self.wanted.values()))
    @rule()
    def remove_behind_our_back(self) -> None:
        name = next(name for name, image in self.wanted.items() if image)
        self.run(self._remove_behind(name))

    async def _remove_behind(self, name: str) -> None:
        await self._rest()
        image = self.wanted[name]
        assert image is not None
        found = await self.node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=name), timeout=5)
        for instance in found.deployment.instances:
            await self.node.engine.RemoveWorkload(
                engine_pb.RemoveWorkloadRequest(workload_id=instance.workload_id, allow_missing=True), timeout=5
            )
        async with asyncio.timeout(10):
            while not await self._is_back_or_given_up(name):
                await asyncio.sleep(0.02)
        await self._apply(name, image, wait=5.0)  # repairs what was given up after too many removals

    async def _is_back_or_given_up(self, name: str) -> bool:
        held = await self.node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(manifest_id=name), timeout=5)
        return bool(held.workloads) or await self._state(name) == pb.DEPLOYMENT_STATE_FAILED

    async def _state(self, name: str) -> int:
        found = await self.node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=name), timeout=5)
        return found.deployment.state

    # What must hold

    @invariant()
    def all_tell_the_same_story(self) -> None:
        self.run(self._check())

    async def _rest(self) -> None:
        """Lift the faults and wait until no operation is under way and the announcements are out."""
        await self._behave()
        async with asyncio.timeout(45):
            while not await self._is_at_rest():
                await asyncio.sleep(0.02)

    async def _is_at_rest(self) -> bool:
        listed = await self.node.orchestrator.ListDeployments(pb.ListDeploymentsRequest(), timeout=5)
        announced = {item.manifest_id for item in await self._providers()}
        active = {d.deployment_id for d in listed.deployments if d.state == pb.DEPLOYMENT_STATE_ACTIVE}
        moving = any(d.reconciling or d.state == pb.DEPLOYMENT_STATE_UNKNOWN for d in listed.deployments)
        return not moving and announced == active

    async def _check(self) -> None:
        await self._rest()
        listed = await self.node.orchestrator.ListDeployments(pb.ListDeploymentsRequest(), timeout=5)
        records = {d.deployment_id: d for d in listed.deployments}
        assert set(records) == {name for name, image in self.wanted.items() if image}
        held = await self.node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)
        backend = {item.manifest_id: item for item in held.workloads}
        assert len(backend) == len(held.workloads), "two copies"
        for name, record in records.items():
            await self._agree(name, record, backend.pop(name, None))
        assert not backend, f"orphans: {sorted(backend)}"

    async def _agree(self, name: str, record: pb.Deployment, workload: Any) -> None:
        if record.state != pb.DEPLOYMENT_STATE_ACTIVE:
            assert record.state == pb.DEPLOYMENT_STATE_FAILED, record
            assert record.error.reason, "a failure has a reason"
            return
        assert workload is not None, f"{name} is ACTIVE and not there"
        kept = await self.node.engine.GetWorkloadManifest(
            engine_pb.GetWorkloadManifestRequest(workload_id=workload.workload_id), timeout=5
        )
        image = self.wanted[name]
        assert image is not None
        assert kept.manifest.content == manifest(image)
        assert [instance.workload_id for instance in record.instances] == [workload.workload_id]

    async def _providers(self) -> list[provider_pb.Provider]:
        answer = await self.node.provider.ListProviders(provider_pb.ListProvidersRequest(), timeout=5)
        return list(answer.providers)


def _apply_request(name: str, image: str, wait: float) -> pb.ApplyManifestRequest:
    return pb.ApplyManifestRequest(
        deployment_id=name, manifest=types_pb2.Manifest(content=manifest(image)), wait=_seconds(wait)
    )


def _seconds(seconds: float) -> Duration:
    result = Duration()
    result.FromMicroseconds(round(seconds * 1e6))
    return result


ApplyMachine.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestApplyMachine = ApplyMachine.TestCase
