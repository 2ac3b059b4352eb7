"""A client that leaves takes its handlers along, at the port and behind it; and no service calls without a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.registry.v1 import registry_service_pb2_grpc as registry_grpc
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from tests.harness.calls import Calls, watched
from tests.harness.node import LocalNode, local_node
from tests.harness.processes import short_directory

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {beemesh.io/runtime-engine: mock}
spec:
  containers:
  - {name: main, image: "localhost/busybox:1"}
"""
ID = "pod-default-web"
ORCHESTRATOR = "/beemesh.orchestrator.v1.OrchestratorService"
ENGINE = "/beemesh.engine.v1.EngineService"
REGISTRY = "/beemesh.registry.v1.RegistryService"
PROVIDER = "/beemesh.provider.v1.ProviderService"
TO_MOCK = (("beemesh-engine", "mock"),)
LONG = 60.0

Open = Callable[[LocalNode], Any]


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    """What the node's services serve; each call must have had a deadline."""
    with watched() as calls:
        yield calls


@pytest.fixture
async def node(calls: Calls) -> AsyncIterator[LocalNode]:
    """A node with one deployment."""
    with short_directory() as directory:
        async with local_node(directory) as running:
            await running.orchestrator.ApplyManifest(_apply(ID), timeout=10)
            yield running


def _apply(deployment_id: str) -> pb.ApplyManifestRequest:
    return pb.ApplyManifestRequest(deployment_id=deployment_id, manifest=types_pb2.Manifest(content=POD))


def _workload(node: LocalNode) -> str:
    (path,) = (node.directory / "mock").glob("**/beemesh-*.json")
    return next(part for part in path.name.split(".") if part.startswith("beemesh-"))


def _exec(node: LocalNode) -> Any:
    async def requests() -> AsyncIterator[pb.ExecDeploymentRequest]:
        start = engine_pb.ExecStart(component_id="main", command=["cat"])
        yield pb.ExecDeploymentRequest(name=ID, exec=engine_pb.ExecWorkloadRequest(start=start))
        await asyncio.sleep(LONG)

    return node.orchestrator.ExecDeployment(requests(), timeout=LONG)


def _relayed_logs(node: LocalNode) -> Any:
    request = engine_pb.StreamWorkloadLogsRequest(workload_id=_workload(node), follow=True)
    stub = engine_grpc.EngineServiceStub(node.channel("orchestrator"))
    return stub.StreamWorkloadLogs(request, timeout=LONG, metadata=TO_MOCK)


def _relayed_health(node: LocalNode) -> Any:
    stub = engine_grpc.EngineServiceStub(node.channel("orchestrator"))
    return stub.WatchEngineHealth(engine_pb.WatchEngineHealthRequest(), timeout=LONG, metadata=TO_MOCK)


def _wait(node: LocalNode) -> Any:
    request = pb.WaitDeploymentRequest(name=ID, states=[pb.DEPLOYMENT_STATE_STOPPED])
    return node.orchestrator.WaitDeployment(request, timeout=LONG)


def _logs(node: LocalNode) -> Any:
    return node.orchestrator.StreamDeploymentLogs(pb.StreamDeploymentLogsRequest(name=ID, follow=True), timeout=LONG)


def _events(node: LocalNode) -> Any:
    return node.orchestrator.WatchDeploymentEvents(pb.WatchDeploymentEventsRequest(name=ID), timeout=LONG)


def _engines(node: LocalNode) -> Any:
    stub = registry_grpc.RegistryServiceStub(node.channel("orchestrator"))
    return stub.WatchEngines(registry_pb.WatchEnginesRequest(), timeout=LONG)


def _providers(node: LocalNode) -> Any:
    stub = provider_grpc.ProviderServiceStub(node.channel("orchestrator"))
    return stub.WatchProviders(provider_pb.WatchProvidersRequest(), timeout=LONG)


OPENED: Mapping[str, tuple[Open, Mapping[str, int]]] = {
    "watch of deployments": (
        lambda node: node.orchestrator.WatchDeployments(pb.WatchDeploymentsRequest(), timeout=LONG),
        {f"{ORCHESTRATOR}/WatchDeployments": 1},
    ),
    "watch of events": (_events, {f"{ORCHESTRATOR}/WatchDeploymentEvents": 1}),
    "wait": (_wait, {f"{ORCHESTRATOR}/WaitDeployment": 1}),
    "logs -f": (_logs, {f"{ORCHESTRATOR}/StreamDeploymentLogs": 1, f"{ENGINE}/StreamWorkloadLogs": 1}),
    "exec": (_exec, {f"{ORCHESTRATOR}/ExecDeployment": 1, f"{ENGINE}/ExecWorkload": 1}),
    "relayed logs -f": (_relayed_logs, {f"{ENGINE}/StreamWorkloadLogs": 2}),
    "relayed watch of health": (_relayed_health, {f"{ENGINE}/WatchEngineHealth": 2}),
    "relayed watch of engines": (_engines, {f"{REGISTRY}/WatchEngines": 2}),
    "relayed watch of providers": (_providers, {f"{PROVIDER}/WatchProviders": 2}),
}
"""What a client can leave, and how many handlers of which methods it keeps busy (a relayed one both sides')."""


@pytest.mark.parametrize("what", OPENED)
async def test_a_client_that_cancels_frees_every_handler(node: LocalNode, calls: Calls, what: str) -> None:
    """The handlers at the port and those behind it end, while others of their kind go on."""
    opened, busy = OPENED[what]
    before = {method: calls.busy[method] for method in busy}
    leaving, staying = opened(node), opened(node)
    for method, count in busy.items():
        await calls.until(method, before[method] + 2 * count)
    leaving.cancel()
    for method, count in busy.items():
        await calls.until(method, before[method] + count)
    assert not staying.done()
    staying.cancel()
    for method in busy:
        await calls.until(method, before[method])


async def test_an_apply_that_is_left_goes_on_without_its_handler(node: LocalNode, calls: Calls) -> None:
    """The caller's wait ends with the caller; what was accepted is carried out."""
    slow = mock_pb.MockFault(method="DeployWorkload", delay=Duration(seconds=2), remaining=1)
    await node.mock.SetMockBehavior(mock_pb.SetMockBehaviorRequest(faults=[slow]), timeout=5)
    call = node.orchestrator.ApplyManifest(_apply("left"), timeout=LONG)
    await calls.until(f"{ENGINE}/DeployWorkload", 1)
    call.cancel()
    await calls.until(f"{ORCHESTRATOR}/ApplyManifest", 0, seconds=1.8)
    assert calls.busy[f"{ENGINE}/DeployWorkload"] == 1
    done = await node.orchestrator.WaitDeployment(pb.WaitDeploymentRequest(name="left"), timeout=10)
    assert done.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE


async def test_a_question_that_is_left_is_asked_of_nobody_any_more(node: LocalNode, calls: Calls) -> None:
    """A caller of CheckAvailableEngines that leaves ends the probes of frozen engines too."""
    frozen = mock_pb.MockFault(method="GetEngineHealth", delay=Duration(seconds=20))
    await node.mock.SetMockBehavior(mock_pb.SetMockBehaviorRequest(faults=[frozen]), timeout=5)
    request = registry_pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=20))
    call = node.registry.CheckAvailableEngines(request, timeout=LONG)
    await calls.until(f"{REGISTRY}/CheckAvailableEngines", 1)
    call.cancel()
    await calls.until(f"{REGISTRY}/CheckAvailableEngines", 0)
    await calls.until(f"{ENGINE}/GetEngineHealth", 0)  # the registry's own question is left after 2 s


async def test_a_call_without_a_deadline_is_noticed() -> None:
    """The check of deadlines that stands around these tests can fail."""
    with short_directory() as directory:
        with pytest.raises(AssertionError, match="without a deadline"), watched() as calls:
            async with local_node(directory) as node:
                await node.orchestrator.ListDeployments(pb.ListDeploymentsRequest())
        assert calls.endless == {f"{ORCHESTRATOR}/ListDeployments"}
