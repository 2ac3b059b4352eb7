"""The room of the machine is counted once, over docker and podman together."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from google.rpc import error_details_pb2, status_pb2

from services.identity import workload_id
from tests.harness.mixed import IMAGE, WAITS, Backends, MixedNode, mixed_node

pytestmark = [pytest.mark.podman, pytest.mark.docker, pytest.mark.timeout(300)]

_MIB = 1 << 20
CPU, MEMORY = 2.0, 256 * _MIB
"""What the node has."""


def pod(name: str, cpu: str, memory: str) -> str:
    """A Pod that asks for so much; it is podman's."""
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, "{WAITS}"]
    resources: {{requests: {{cpu: {cpu}, memory: {memory}}}}}
"""


def project(name: str, cpu: str, memory: str) -> str:
    """A Compose project of two containers that ask for so much each; it is docker's."""
    return f"""\
name: {name}
services:
  web:
    image: {IMAGE}
    command: [sh, -c, "{WAITS}"]
    deploy: {{replicas: 2, resources: {{limits: {{cpus: "{cpu}", memory: {memory}}}}}}}
"""


@pytest.fixture(scope="module")
def small_node(backends: Backends) -> Iterator[MixedNode]:
    """A node that has little room."""
    with mixed_node(backends, env={"BEEMESH_CPU": f"{CPU:g}", "BEEMESH_MEMORY": str(MEMORY)}) as node:
        yield node


@pytest.fixture
def small(small_node: MixedNode) -> Iterator[MixedNode]:
    """That node, with nothing on it."""
    yield small_node
    small_node.clear()


def refused(mixed: MixedNode, manifest: str) -> dict[str, str]:
    """What is short, by the error's own QuotaFailure; nothing was recorded and nothing runs."""
    caught: Any
    with pytest.raises(grpc.RpcError) as caught:
        mixed.apply(manifest)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    failure = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(failure) for detail in status.details)
    return {violation.subject: violation.description for violation in failure.violations}


def names(mixed: MixedNode) -> set[str]:
    """The deployments that there are."""
    answer = mixed.client.call(mixed.client.orchestrator.ListDeployments, pb.ListDeploymentsRequest())
    return {deployment.deployment_id for deployment in answer.deployments}


def test_a_third_over_the_room_of_both_is_refused_and_let_in_when_one_is_gone(small: MixedNode) -> None:
    """A Pod and a Compose project fill the node; a third of either is refused with asked and free, until one goes."""
    small.apply(pod("first", "1", "64Mi"))
    small.apply(project("second", "0.4", "64M"))
    both = {"pod-default-first", "compose-second"}
    small.until_active("pod-default-first", "podman")
    small.until_active("compose-second", "docker")
    assert refused(small, pod("third", "300m", "16Mi")) == {"node:cpu": "asked 0.3 cores, free 0.2 cores"}
    assert refused(small, project("third", "0.05", "64M")) == {
        "node:memory": f"asked {2 * 64 * _MIB} bytes, free {64 * _MIB} bytes"
    }
    assert names(small) == both
    small.delete("pod-default-first")
    small.apply(project("third", "0.05", "64M"))
    small.until_active("compose-third", "docker")
    small.delete("compose-second")
    small.apply(pod("fourth", "1500m", "16Mi"))
    small.until_active("pod-default-fourth", "podman")
    assert names(small) == {"compose-third", "pod-default-fourth"}


def test_of_many_at_once_as_many_are_let_in_as_fit(small: MixedNode) -> None:
    """Six at once over both engines, each a third of the node: three run, three are refused, and nothing of them is."""
    asked = [pod(f"pod{n}", "600m", "16Mi") for n in range(3)] + [project(f"p{n}", "0.3", "16M") for n in range(3)]

    def apply(manifest: str) -> grpc.StatusCode:
        try:
            small.apply(manifest)
        except grpc.RpcError as error:
            refusal: Any = error
            code: grpc.StatusCode = refusal.code()
            return code
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(len(asked)) as pool:
        codes = list(pool.map(apply, asked))
    assert sorted(code.name for code in codes) == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 3
    assert len(names(small)) == 3
    ids = [f"pod-default-pod{n}" for n in range(3)] + [f"compose-p{n}" for n in range(3)]
    held = {name for name in ids if small.backends.running(workload_id(node=small.node.node_id(), deployment=name))}
    assert held == names(small)
