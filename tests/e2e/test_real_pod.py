"""A Pod on real podman through every service: repeats, races, what is refused, and a podman that freezes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode
from tests.e2e.test_two_nodes import ID, POD, containers, wait_for_podman

pytestmark = [pytest.mark.podman, pytest.mark.usefixtures("podman_image")]

SOON = Duration(seconds=60)
UNHEALTHY_WITHIN = 15.0
HEALED_WITHIN = 20.0


@pytest.fixture
def client(start_node: Callable[..., LocalNode]) -> Iterator[Client]:
    """A node with podman and mock, seen through its public port."""
    node = start_node("podman,mock")
    with Client(node.public, token=node.token) as found:
        wait_for_podman(found)
        yield found


def apply(client: Client, manifest: str = POD, **more: Any) -> pb.ApplyManifestResponse:
    """Apply and wait until it is done."""
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=manifest), wait=SOON, **more)
    answer: pb.ApplyManifestResponse = client.call(client.orchestrator.ApplyManifest, request, seconds=90)
    return answer


def get(client: Client, name: str = ID) -> pb.Deployment:
    """One deployment."""
    answer: pb.GetDeploymentResponse = client.call(
        client.orchestrator.GetDeployment, pb.GetDeploymentRequest(name=name)
    )
    return answer.deployment


def delete(client: Client, name: str = ID) -> None:
    """Delete and wait until it is gone."""
    client.call(client.orchestrator.DeleteDeployment, pb.DeleteDeploymentRequest(name=name), seconds=60)


def reason(error: grpc.RpcError) -> str:
    """The ErrorInfo's reason."""
    found: str = info(error).reason
    return found


def info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of a failed call."""
    call: Any = error  # the error of a synchronous call is the call, too
    status = status_pb2.Status.FromString(dict(call.trailing_metadata())["grpc-status-details-bin"])
    found = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(found) for detail in status.details)
    assert found.domain == "beemesh.io"
    return found


def container_ids(deployment: pb.Deployment) -> list[str]:
    """What runs, by the backend's ids."""
    return [component.component_id for component in deployment.instances[0].workload.components]


def test_the_same_manifest_twice_is_none_and_the_same_container(client: Client) -> None:
    """The same manifest twice: action NONE, same container id."""
    first = apply(client)
    again = apply(client)
    assert (first.action, again.action) == (types_pb2.CHANGE_ACTION_CREATE, types_pb2.CHANGE_ACTION_NONE)
    assert container_ids(again.deployment) == container_ids(first.deployment) != []
    delete(client)


def test_twenty_identical_applies_at_once_make_one_pod(client: Client) -> None:
    """20 identical applies at once: one pod."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: apply(client), range(20)))
    assert [a.action for a in answers].count(types_pb2.CHANGE_ACTION_CREATE) == 1
    node_id = answers[0].deployment.instances[0].node_id
    pods = podman_state.listed("pod", "ps", "--filter", f"label={podman_state.NODE_LABEL}={node_id}")
    assert len(pods) == 1
    delete(client)
    assert containers(node_id) == {}


def test_of_two_different_applies_at_once_one_wins_and_one_is_aborted(client: Client) -> None:
    """Two different at once: one wins, one ABORTED."""

    def attempt(manifest: str) -> pb.ApplyManifestResponse | grpc.RpcError:
        try:
            return apply(client, manifest)
        except grpc.RpcError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(attempt, [POD, POD.replace("sleep 0.5", "sleep 0.6")]))
    lost: list[Any] = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
    assert [error.code() for error in lost] == [grpc.StatusCode.ABORTED]
    assert reason(lost[0]) == "OPERATION_IN_PROGRESS"
    assert get(client).state == pb.DEPLOYMENT_STATE_ACTIVE
    delete(client)


def test_a_changed_manifest_replaces_the_container(client: Client) -> None:
    """Another content is another container, one copy, and the revision counts."""
    first = apply(client)
    second = apply(client, POD.replace("sleep 0.5", "sleep 0.6"))
    assert (second.action, second.deployment.revision) == (types_pb2.CHANGE_ACTION_REPLACE, 2)
    assert set(container_ids(second.deployment)).isdisjoint(container_ids(first.deployment))
    held = containers(second.deployment.instances[0].node_id)
    assert held.keys() > set(container_ids(second.deployment))
    assert len(held) == 2, "the pod's own container and the one of the manifest"
    delete(client)


@pytest.mark.parametrize(
    ("image", "tried"),
    [
        ("localhost/not-there:7", "localhost/not-there:7"),
        ("not-there", "docker.io/library/not-there:latest"),
    ],
)
def test_an_image_that_is_not_there_is_named_in_full_and_nothing_stays(client: Client, image: str, tried: str) -> None:
    """IMAGE_NOT_FOUND names the full reference that was tried; cleaned up."""
    before = podman_state.snapshot()
    caught: Any
    with pytest.raises(grpc.RpcError) as caught:
        apply(client, POD.replace("localhost/beemesh-busybox:1", image))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (reason(caught.value), info(caught.value).metadata["image"]) == ("IMAGE_NOT_FOUND", tried)
    assert tried in str(caught.value)
    assert podman_state.snapshot() == before
    delete(client)
    assert podman_state.snapshot() == before


def test_an_update_to_an_image_that_is_not_there_leaves_what_runs(client: Client) -> None:
    """IMAGE_NOT_FOUND on an update: the old container runs on, and applying the old manifest again is no work."""
    before = container_ids(apply(client).deployment)
    with pytest.raises(grpc.RpcError) as caught:
        apply(client, POD.replace("localhost/beemesh-busybox:1", "localhost/not-there:7"))
    assert reason(caught.value) == "IMAGE_NOT_FOUND"
    assert container_ids(get(client)) == before
    assert container_ids(apply(client).deployment) == before
    delete(client)


def test_a_frozen_podman_is_unhealthy_in_time_and_hurts_nobody(client: Client) -> None:
    """Podman frozen: UNHEALTHY within 15 s, checks stay fast, mock goes on, its workloads are UNKNOWN; it heals."""
    before = container_ids(apply(client).deployment)
    health: Any = client.call(client.engine.GetEngineHealth, engine_pb.GetEngineHealthRequest(), engine="podman")
    pid = int(health.health.attributes["service_pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        _assert_noticed(client)
        _assert_checked_in_time(client)
        _assert_mock_goes_on(client)
        _until(lambda: get(client).state == pb.DEPLOYMENT_STATE_UNKNOWN, UNHEALTHY_WITHIN)
        frozen = get(client)
        assert container_ids(frozen) == before, "the last known state stays readable"
        held: Any = client.call(client.engine.ListWorkloads, engine_pb.ListWorkloadsRequest(), engine="podman")
        assert [item.state for item in held.workloads] == [workload_pb2.WORKLOAD_STATE_UNKNOWN]
    finally:
        os.kill(pid, signal.SIGCONT)
    _until(lambda: available(client), HEALED_WITHIN)
    _until(lambda: get(client).state == pb.DEPLOYMENT_STATE_ACTIVE, HEALED_WITHIN)
    assert container_ids(get(client)) == before
    delete(client)


def available(client: Client) -> bool:
    """Whether the registry says that podman can be used."""
    answer: Any = client.call(client.registry.CheckAvailableEngines, registry_pb.CheckAvailableEnginesRequest())
    usable: bool = answer.available["podman"]
    return usable


def _assert_noticed(client: Client) -> None:
    _until(lambda: not available(client), UNHEALTHY_WITHIN)
    health: Any = client.call(client.engine.GetEngineHealth, engine_pb.GetEngineHealthRequest(), engine="podman")
    assert health.health.state == engine_pb.ENGINE_HEALTH_STATE_UNHEALTHY


def _assert_checked_in_time(client: Client) -> None:
    started = time.monotonic()
    request = registry_pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=1))
    answer: Any = client.call(client.registry.CheckAvailableEngines, request)
    assert time.monotonic() - started <= 1.5
    assert dict(answer.available) == {"podman": False, "mock": True}


def _assert_mock_goes_on(client: Client) -> None:
    """Every call on mock is answered while podman is frozen."""
    for number in range(5):
        answer = apply(client, POD, deployment_id=f"mock-{number}", engine_id="mock")
        assert answer.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
        delete(client, f"mock-{number}")
    calls: Any = client.call(client.mock.ListMockCalls, mock_pb.ListMockCallsRequest(), engine="mock")
    assert sum(call.method == "DeployWorkload" for call in calls.calls) == 5


def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Poll until it holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g}s"
        time.sleep(0.1)
