"""Clients that leave early find their work done, and those that wait hear of a failure within a second of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode as Processes
from services.rpc.errors import from_rpc_error
from tests.e2e.test_backup import apply as apply_to
from tests.e2e.test_backup import delete, manifest
from tests.e2e.test_two_nodes import wait_for_podman
from tests.harness.errors import refusal
from tests.harness.node import LocalNode, local_node
from tests.harness.processes import short_directory

POD = manifest("web", "mock")
ID = "pod-default-web"
TOLD_WITHIN = 1.0
"""Seconds from the failure to the error at who waits."""
ON_PODMAN_WITHIN = 3.0
"""The same where podman must first notice that a container ended: a second, and room for a busy machine."""


@pytest.fixture
async def node() -> AsyncIterator[LocalNode]:
    with short_directory() as directory:
        async with local_node(directory) as running:
            yield running


async def behave(node: LocalNode, *faults: mock_pb.MockFault) -> None:
    request = mock_pb.SetMockBehaviorRequest(faults=faults, health=engine_pb.ENGINE_HEALTH_STATE_HEALTHY)
    await node.mock.SetMockBehavior(request, timeout=5)


async def apply(node: LocalNode, *, seconds: float, request_id: str = "") -> pb.ApplyManifestResponse:
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=POD), request_id=request_id)
    answer: pb.ApplyManifestResponse = await node.orchestrator.ApplyManifest(request, timeout=seconds)
    return answer


@pytest.mark.parametrize("slow", ["ValidateManifest", "DeployWorkload"])
async def test_a_client_of_fifty_milliseconds_finds_its_apply_done(node: LocalNode, slow: str) -> None:
    """Whatever the node was at when the client's deadline came, the apply goes on, and the same request finds it."""
    await behave(node, mock_pb.MockFault(method=slow, delay=Duration(nanos=300_000_000), remaining=1))
    left = await asyncio.gather(apply(node, seconds=0.05, request_id="r1"), return_exceptions=True)
    assert [_how(one) for one in left] in (["accepted"], ["DEADLINE_EXCEEDED"])
    again = await apply(node, seconds=10, request_id="r1")
    assert (again.action, again.deployment.state) == (types_pb2.CHANGE_ACTION_NONE, pb.DEPLOYMENT_STATE_ACTIVE)
    assert again.deployment.generation == 1
    calls = await node.mock.ListMockCalls(mock_pb.ListMockCallsRequest(page_size=1000), timeout=5)
    assert sum(call.method == "DeployWorkload" for call in calls.calls) == 1


def _how(answer: pb.ApplyManifestResponse | BaseException) -> str:
    """How a call ended for a client in a hurry: accepted and going on, or over before that was known."""
    if isinstance(answer, grpc.aio.AioRpcError):
        return answer.code().name
    going_on = isinstance(answer, pb.ApplyManifestResponse) and answer.deployment.reconciling
    return "accepted" if going_on else repr(answer)


async def test_a_wait_hears_of_a_failure_within_a_second(node: LocalNode) -> None:
    """A workload that breaks while somebody waits for it: an error that says why, at once."""
    await apply(node, seconds=10)
    deployment = (await node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=ID), timeout=5)).deployment
    wait = pb.WaitDeploymentRequest(name=ID, states=[pb.DEPLOYMENT_STATE_SUCCEEDED], timeout=Duration(seconds=30))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(refusal(node.orchestrator.WaitDeployment(wait, timeout=30)))
        await asyncio.sleep(0.2)
        broken = mock_pb.SetMockWorkloadRequest(
            workload_id=deployment.instances[0].workload_id,
            state=workload_pb2.WORKLOAD_STATE_FAILED,
            exit_status=workload_pb2.ExitStatus(exit_code=3),
        )
        began = time.monotonic()
        await node.mock.SetMockWorkload(broken, timeout=5)
        error = await waiting
    seconds = time.monotonic() - began
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "WORKLOAD_FAILED")
    assert error.metadata["deployment"] == f"deployments/{ID}"
    assert seconds <= TOLD_WITHIN, f"told after {seconds * 1000:.0f} ms"


async def test_a_wait_hears_of_a_refusal_within_a_second(node: LocalNode) -> None:
    """A deploy that is refused while somebody waits: the engine's reason, at once."""
    late = mock_pb.MockFault(
        method="DeployWorkload", grpc_code=9, reason="IMAGE_NOT_FOUND", delay=Duration(nanos=500_000_000), remaining=1
    )
    await behave(node, late)
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=POD), wait=Duration())
    began = time.monotonic()
    await node.orchestrator.ApplyManifest(request, timeout=5)
    wait = pb.WaitDeploymentRequest(name=ID, timeout=Duration(seconds=30))
    error = await refusal(node.orchestrator.WaitDeployment(wait, timeout=30))
    seconds = time.monotonic() - began - 0.5
    assert error.reason == "IMAGE_NOT_FOUND"
    assert seconds <= TOLD_WITHIN, f"told after {seconds * 1000:.0f} ms"


@pytest.mark.podman
@pytest.mark.usefixtures("podman_image")
def test_a_wait_hears_of_a_container_that_breaks_on_podman(start_node: Callable[..., Processes]) -> None:
    """On podman, measured from the end of the container: the error says how it ended, soon after."""
    running = start_node("podman")
    text = manifest("web", "podman").replace("spec:\n", "spec:\n  restartPolicy: Never\n", 1)
    text = text.replace("trap exit TERM; while :; do sleep 0.2; done", "sleep 3; exit 3")
    with Client(running.socket) as client, ThreadPoolExecutor(1) as thread:
        wait_for_podman(client)
        apply_to(client, text)
        wait = pb.WaitDeploymentRequest(name=ID, states=[pb.DEPLOYMENT_STATE_SUCCEEDED], timeout=Duration(seconds=60))
        waiting = thread.submit(_refused, client, wait)
        error, told = waiting.result(90)
        seconds = told - _ended(running.node_id())
        assert error.reason == "WORKLOAD_FAILED"
        assert "3" in error.message
        assert seconds <= ON_PODMAN_WITHIN, f"told after {seconds * 1000:.0f} ms"
        delete(client, "web")


def _refused(client: Client, request: pb.WaitDeploymentRequest) -> tuple[Any, float]:
    """What the wait ended with, and when."""
    try:
        client.call(client.orchestrator.WaitDeployment, request, seconds=80)
    except grpc.RpcError as error:
        told = time.time()
        call: Any = error  # the error of a synchronous call is the call, too
        return from_rpc_error(call), told
    pytest.fail("the wait ended well")


def _ended(node_id: str) -> float:
    """When the container of this node's one pod ended, by podman's clock: seconds since 1970."""
    label = f"label={podman_state.NODE_LABEL}={node_id}"
    (name,) = [
        item["Names"][0] for item in podman_state.listed("ps", "--all", "--filter", label) if not item["IsInfra"]
    ]
    text = podman_state.podman(
        "inspect", "--format", "{{.State.FinishedAt.Unix}}.{{.State.FinishedAt.Nanosecond}}", name
    )
    whole, _, nano = text.strip().partition(".")
    return int(whole) + int(nano) / 1e9
