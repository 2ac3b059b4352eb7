"""Whoever is killed while containers come up or go down: the truth comes back, once, and nothing is orphaned."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from scripts.local_node import send
from services.identity import workload_id
from tests.harness.mixed import IMAGE, WAITS, MixedNode, at_once

pytestmark = [pytest.mark.podman, pytest.mark.docker, pytest.mark.timeout(300)]

SAVES = "trap 'sleep 3; echo saved >> /d/told; exit 0' TERM; while :; do sleep 0.1; done"
COMPOSE = f"""\
name: killed
x-beemesh: {{annotations: {{beemesh.io/runtime-engine: ENGINE}}}}
services:
  api: {{image: {IMAGE}, command: [sh, -c, "{WAITS}"], depends_on: {{db: {{condition: service_healthy}}}}}}
  db:
    image: {IMAGE}
    command: [sh, -c, "echo began >> /d/told; sleep 4; echo > /ready; {SAVES}"]
    healthcheck: {{test: [CMD, ls, /ready], interval: 500ms, retries: 60}}
    stop_grace_period: 20s
    volumes: ["data:/d"]
volumes: {{data: }}
"""
POD = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: killed, annotations: {{beemesh.io/runtime-engine: ENGINE}}}}
spec:
  terminationGracePeriodSeconds: 20
  initContainers:
  - name: first
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, "echo began >> /d/told; sleep 4"]
    volumeMounts: [{{name: d, mountPath: /d}}]
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, "{SAVES}"]
    volumeMounts: [{{name: d, mountPath: /d}}]
  volumes:
  - {{name: d, persistentVolumeClaim: {{claimName: data}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is deployed where."""

    engine: str
    name: str
    manifest: str
    containers: int


WORKLOADS = {
    "compose-on-docker": Workload("docker", "compose-killed", COMPOSE, 2),
    "compose-on-podman": Workload("podman", "compose-killed", COMPOSE, 2),
    "pod-on-docker": Workload("docker", "pod-default-killed", POD, 1),
    "pod-on-podman": Workload("podman", "pod-default-killed", POD, 1),
}


def orchestrator(mixed: MixedNode, _: str) -> None:
    """The orchestrator is killed; the next one comes by itself."""
    kill_service(mixed, "services.orchestrator")


def engine(mixed: MixedNode, name: str) -> None:
    """The engine's process is killed; the next one comes by itself."""
    kill_service(mixed, f"services.engines.{name}")


def backend(mixed: MixedNode, name: str) -> None:
    """Dockerd, or podman's service, is killed, and started a moment later."""
    mixed.backends.kill(name)
    time.sleep(2)
    mixed.backends.start(name)


def kill_service(mixed: MixedNode, service: str) -> None:
    """By -9; returns when another one is there."""
    before = mixed.node.services()[service]
    send(before, signal.SIGKILL)
    mixed.until(lambda: mixed.node.services().get(service, before) != before, f"another {service}")


VICTIMS: dict[str, Callable[[MixedNode, str], None]] = {
    "orchestrator": orchestrator,
    "engine": engine,
    "backend": backend,
}


@pytest.mark.parametrize("what", WORKLOADS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_while_it_comes_up_and_while_it_goes_down(mixed: MixedNode, victim: str, what: str) -> None:
    """It is up once, on its engine; its removal is finished, with the time to save; no orphan, and nothing left."""
    workload, since = WORKLOADS[what], time.time()
    own = workload_id(node=mixed.node.node_id(), deployment=workload.name)
    manifest = workload.manifest.replace("ENGINE", workload.engine)
    mixed.apply(manifest, wait=0)
    mixed.until(lambda: bool(mixed.backends.running(own)), "its first container runs")
    VICTIMS[victim](mixed, workload.engine)
    ask_again(lambda: mixed.apply(manifest, wait=0))
    mixed.until_active(workload.name, "docker", "podman")
    mixed.until(lambda: len(mixed.backends.ids(own)) == workload.containers, "all of it runs")
    assert at_once(mixed.backends.copies(own, since)) == []
    if victim == "orchestrator":
        assert mixed.backends.kept(own, "told") == ["began"], "its engine went on, and did it once"
    saved = mixed.backends.kept(own, "told").count("saved")

    request = pb.DeleteDeploymentRequest(name=workload.name, allow_missing=True, wait=Duration(nanos=1))
    with suppress(grpc.RpcError):
        mixed.client.call(mixed.client.orchestrator.DeleteDeployment, request)
    time.sleep(1.5)  # TERM has been sent
    VICTIMS[victim](mixed, workload.engine)
    mixed.until(lambda: mixed.find(workload.name) is None, "it is gone")
    assert mixed.backends.running(own) == {}
    assert mixed.backends.kept(own, "told").count("saved") == saved + 1
    orphans = mixed.client.call(mixed.client.orchestrator.ListOrphans, pb.ListOrphansRequest())
    assert list(orphans.workloads) == []
    mixed.backends.remove_volumes(own)


def ask_again(ask: Callable[[], object]) -> None:
    """As any client would whose call may have been lost."""
    for _ in range(100):
        try:
            ask()
        except grpc.RpcError:
            time.sleep(0.2)
        else:
            return
    ask()


@pytest.mark.parametrize("what", WORKLOADS)
def test_a_backend_that_dies_under_what_runs_moves_nothing(mixed: MixedNode, what: str) -> None:
    """UNKNOWN while it is dead, the same containers when it is back, and never a copy elsewhere."""
    workload, since = WORKLOADS[what], time.time()
    own = workload_id(node=mixed.node.node_id(), deployment=workload.name)
    mixed.apply(workload.manifest.replace("ENGINE", workload.engine))
    mixed.until_active(workload.name, workload.engine)
    before = mixed.backends.ids(own)
    assert len(before) == workload.containers
    mixed.backends.kill(workload.engine)
    mixed.until(lambda: is_in(mixed, workload.name, pb.DEPLOYMENT_STATE_UNKNOWN), "it is UNKNOWN")
    time.sleep(2)
    mixed.backends.start(workload.engine)
    mixed.until_active(workload.name, workload.engine)
    assert mixed.backends.ids(own) == before
    assert set(mixed.backends.copies(own, since)) == {workload.engine}


def is_in(mixed: MixedNode, name: str, state: pb.DeploymentState.ValueType) -> bool:
    """Whether it is in this state now."""
    found = mixed.find(name)
    return found is not None and found.state == state
