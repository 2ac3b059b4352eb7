"""Two nodes on one machine and one podman."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.provider.v1 import provider_service_pb2 as provider_pb2
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode
from tests.harness.beectl import wait_for_podman as wait_for_podman

pytestmark = [pytest.mark.podman, pytest.mark.usefixtures("podman_image")]

POD = (REPOSITORY / "examples/pod.yaml").read_text()
ID = "pod-default-hello"


def get(client: Client) -> pb2.Deployment:
    """The example's deployment as it is now."""
    answer: Any = client.call(client.orchestrator.GetDeployment, pb2.GetDeploymentRequest(name=ID))
    found: pb2.Deployment = answer.deployment
    return found


def apply(client: Client) -> pb2.Instance:
    """Apply the example and wait until it runs."""
    wait_for_podman(client)
    request = pb2.ApplyManifestRequest(manifest=Manifest(content=POD), wait=Duration(seconds=60))
    client.call(client.orchestrator.ApplyManifest, request, seconds=90)
    deployment = get(client)
    for _ in range(100):  # after a restart it may be UNKNOWN until the node has heard from its engine again
        if deployment.state == pb2.DEPLOYMENT_STATE_ACTIVE:
            break
        time.sleep(0.1)
        deployment = get(client)
    assert deployment.state == pb2.DEPLOYMENT_STATE_ACTIVE
    return deployment.instances[0]


def delete(client: Client) -> None:
    """Delete it and wait until it is gone."""
    client.call(client.orchestrator.DeleteDeployment, pb2.DeleteDeploymentRequest(name=ID), seconds=60)


def containers(node_id: str) -> dict[str, int]:
    """Podman's containers of this node that run, infra included: id and process id."""
    label = f"label={podman_state.NODE_LABEL}={node_id}"
    return {item["Id"]: item["Pid"] for item in podman_state.listed("ps", "--filter", label)}


def workloads(client: Client) -> list[str]:
    """What the node's podman engine says that it runs."""
    answer: Any = client.call(client.engine.ListWorkloads, engine_pb2.ListWorkloadsRequest(), engine="podman")
    return [item.workload_id for item in answer.workloads]


def providers(client: Client) -> list[str]:
    """Who provides the example, as far as this node knows."""
    request = provider_pb2.DiscoverProvidersRequest(manifest_id=ID)
    return [item.node_id for item in client.call(client.provider.DiscoverProviders, request).providers]


def test_two_nodes_on_one_podman_share_nothing(start_node: Callable[..., LocalNode]) -> None:
    """The same manifest on both is two workloads; each node sees, announces and removes only its own."""
    first, second = start_node("podman"), start_node("podman")
    with Client(first.public, token=first.token) as one, Client(second.public, token=second.token) as two:
        mine, theirs = apply(one), apply(two)
        assert mine.node_id != theirs.node_id
        assert mine.workload_id != theirs.workload_id
        assert workloads(one) == [mine.workload_id]
        assert workloads(two) == [theirs.workload_id]
        assert (providers(one), providers(two)) == ([mine.node_id], [theirs.node_id])
        untouched = containers(theirs.node_id)
        assert untouched
        assert not untouched.keys() & containers(mine.node_id).keys()

        delete(one)
        assert containers(mine.node_id) == {}
        assert containers(theirs.node_id) == untouched
        assert workloads(two) == [theirs.workload_id]
        delete(two)
        assert containers(theirs.node_id) == {}


def test_the_token_of_one_node_does_not_open_the_other(start_node: Callable[..., LocalNode]) -> None:
    """Each node has a token of its own."""
    first, second = start_node("mock"), start_node("mock")
    assert first.token != second.token


def test_containers_outlive_a_killed_node_and_are_its_own_again(start_node: Callable[..., LocalNode]) -> None:
    """When the supervisor is killed by -9 its services die and the container runs on, the same after the next start."""
    node = start_node("podman")
    with Client(node.public, token=node.token) as client:
        instance = apply(client)
    before = containers(instance.node_id)
    node.kill()
    assert node.wait_gone(5) == {}
    assert containers(instance.node_id) == before
    node.start()
    with Client(node.public, token=node.token) as client:
        assert apply(client).workload_id == instance.workload_id
        assert containers(instance.node_id) == before
        delete(client)
    assert containers(instance.node_id) == {}


def test_podmans_service_dies_with_a_killed_node(start_node: Callable[..., LocalNode]) -> None:
    """The podman service that the engine started for itself does not outlive a node that is killed."""
    node = start_node("podman")
    with Client(node.public, token=node.token) as client:
        wait_for_podman(client)
    node.kill()
    node.wait_gone(5)
    left = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if str(node.home) in (command := path.read_text(errors="replace")):
                left.append(command.replace("\0", " "))
    assert left == []
