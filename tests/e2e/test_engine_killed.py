"""The podman engine is killed in the middle of what it does: all of it is finished by the next one, once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode, send
from tests.harness.beectl import wait_for_podman

pytestmark = [pytest.mark.podman, pytest.mark.timeout(120)]

ENGINE = "services.engines.podman"
ID = "pod-default-cut"
POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: cut}}
spec:
  terminationGracePeriodSeconds: 20
  initContainers:
  - name: first
    image: {image}
    imagePullPolicy: Never
    command: [sh, -c, "echo init >> /d/told; sleep 3"]
    volumeMounts: [{{name: d, mountPath: /d}}]
  containers:
  - name: main
    image: {image}
    imagePullPolicy: Never
    command: [sh, -c, "trap 'sleep 3; echo saved >> /d/told; exit 0' TERM; while :; do sleep 0.1; done"]
    volumeMounts: [{{name: d, mountPath: /d}}]
  volumes:
  - {{name: d, persistentVolumeClaim: {{claimName: data}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
"""


@pytest.fixture
def node(start_node: Callable[..., LocalNode]) -> LocalNode:
    """A node with podman."""
    return start_node("podman")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For a call whose answer nobody expects: its engine is killed meanwhile."""
    with ThreadPoolExecutor(1) as made:
        yield made


def test_an_engine_that_is_killed_finishes_what_it_began(
    node: LocalNode, podman_image: str, pool: ThreadPoolExecutor
) -> None:
    """Killed during an init container it starts the pod in the end, once; killed during a removal it lets it save."""
    with Client(node.socket) as client:
        wait_for_podman(client)
        apply = pb.ApplyManifestRequest(
            manifest=Manifest(content=POD.format(image=podman_image)), wait=Duration(seconds=60)
        )
        pool.submit(called, client, client.orchestrator.ApplyManifest, apply)
        until(lambda: lines(node) == ["init"], "the init container runs")
        kill(node)
        until(lambda: state(client) == pb.DEPLOYMENT_STATE_ACTIVE, "it is active")
        (only,) = running(node)
        assert only.endswith("-0-main")
        assert set(lines(node)) == {"init"}
        pool.submit(called, client, client.orchestrator.DeleteDeployment, pb.DeleteDeploymentRequest(name=ID))
        until(lambda: state(client) == pb.DEPLOYMENT_STATE_DELETING, "it is being deleted")
        time.sleep(1)  # TERM has been sent
        kill(node)
        until(lambda: state(client) is None, "it is gone")
    assert running(node) == []
    assert lines(node)[-1] == "saved"
    assert lines(node).count("saved") == 1


def called(client: Client, method: Any, request: Any) -> None:
    """Call it; its answer is of no interest."""
    with suppress(grpc.RpcError):
        client.call(method, request, seconds=90)


def kill(node: LocalNode) -> None:
    """As a crash would, and wait until the next one is there."""
    before = node.services()[ENGINE]
    send(before, signal.SIGKILL)
    until(lambda: node.services().get(ENGINE, before) != before, "another engine")


def state(client: Client) -> pb.DeploymentState.ValueType | None:
    """The deployment's; None when there is none."""
    try:
        answer: Any = client.call(client.orchestrator.GetDeployment, pb.GetDeploymentRequest(name=ID))
    except grpc.RpcError as error:
        found: Any = error
        assert found.code() is grpc.StatusCode.NOT_FOUND
        return None
    now: pb.DeploymentState.ValueType = answer.deployment.state
    return now


def running(node: LocalNode) -> list[str]:
    """The names of the node's containers that run, infra left out."""
    label = f"label={podman_state.NODE_LABEL}={node.node_id()}"
    found = podman_state.listed("ps", "--filter", label)
    return [item["Names"][0] for item in found if not item["IsInfra"]]


def lines(node: LocalNode) -> list[str]:
    """What is in the claim."""
    label = f"label={podman_state.NODE_LABEL}={node.node_id()}"
    claims = [v for v in podman_state.listed("volume", "ls", "--filter", label) if ".claim." in v["Name"]]
    told = Path(claims[0]["Mountpoint"]) / "told" if claims else None
    return told.read_text().split() if told is not None and told.exists() else []


def until(holds: Callable[[], bool], what: str, seconds: float = 45.0) -> None:
    """Wait for something that happens outside of this process."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
