"""A backend that dies in the middle, or whose answer is lost: never two copies, and it heals when it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.identity import workload_id
from tests.harness.mixed import IMAGE, WAITS, MixedNode, at_once

pytestmark = [pytest.mark.podman, pytest.mark.docker, pytest.mark.timeout(300)]

ONE = f"""\
name: cut
services:
  web: {{image: {IMAGE}, command: [sh, -c, "{WAITS}"], volumes: ["data:/data"]}}
volumes: {{data: }}
"""
WAITING = f"""\
name: cut
services:
  api: {{image: {IMAGE}, command: [sh, -c, "{WAITS}"], depends_on: {{db: {{condition: service_healthy}}}}}}
  db:
    image: {IMAGE}
    command: [sh, -c, "sleep 5; echo > /ready; {WAITS}"]
    healthcheck: {{test: [CMD, ls, /ready], interval: 500ms, retries: 60}}
"""
COMPOSE_ID = "compose-cut"
ON_DOCKER = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: cut, annotations: {{beemesh.io/runtime-engine: docker}}}}
spec:
  containers:
  - {{name: main, image: {IMAGE}, imagePullPolicy: Never, command: [sh, -c, "{WAITS}"]}}
"""
POD = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: cut}}
spec:
  initContainers:
  - {{name: first, image: {IMAGE}, imagePullPolicy: Never, command: [sh, -c, "sleep 5"]}}
  containers:
  - {{name: main, image: {IMAGE}, imagePullPolicy: Never, command: [sh, -c, "{WAITS}"]}}
"""
POD_ID = "pod-default-cut"
_UNFENCED_SECONDS = 5.0
"""So long it is looked whether a second copy comes up where the first one may still run."""

CALLS = {
    "network": ("POST", "/networks/create"),
    "volume": ("POST", "/volumes/create"),
    "create": ("POST", "/containers/create.*name=.*beemesh-.*-cut-"),
    "start": ("POST", "/containers/[0-9a-f]{64}/start"),
}
"""What Compose asks of the daemon, in this order."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A deployment, and since when it is looked at."""

    mixed: MixedNode
    name: str
    since: float

    @property
    def workload(self) -> str:
        """What its containers are named after."""
        return workload_id(node=self.mixed.node.node_id(), deployment=self.name)

    def state(self) -> pb.DeploymentState.ValueType | None:
        """Its state now."""
        found = self.mixed.find(self.name)
        return None if found is None else found.state

    def assert_one_copy(self, deployment: pb.Deployment, containers: int) -> None:
        """It runs on one engine, and at no moment did it on two."""
        running = self.mixed.backends.running(self.workload)
        assert {name: len(found) for name, found in running.items()} == {deployment.instances[0].engine_id: containers}
        copies = self.mixed.backends.copies(self.workload, self.since)
        assert copies[deployment.instances[0].engine_id]
        assert at_once(copies) == []

    def assert_stays_unfenced(self, other: str) -> None:
        """DEGRADED, and the other engine has nothing of it however long one looks."""
        self.mixed.until(lambda: self.state() == pb.DEPLOYMENT_STATE_DEGRADED, "it is DEGRADED")
        end = time.monotonic() + _UNFENCED_SECONDS
        while time.monotonic() < end:
            assert self.state() in (pb.DEPLOYMENT_STATE_DEGRADED, pb.DEPLOYMENT_STATE_DEPLOYING)
            assert other not in self.mixed.backends.running(self.workload)
            time.sleep(0.2)
        assert self.state() == pb.DEPLOYMENT_STATE_DEGRADED


@pytest.fixture
def watched(mixed: MixedNode) -> Callable[[str], Watched]:
    """Look at a deployment from now on."""
    return lambda name: Watched(mixed, name, time.time())


def begin(mixed: MixedNode, manifest: str) -> None:
    """Apply and do not wait."""
    mixed.apply(manifest, wait=0)


@pytest.mark.parametrize(
    ("call", "name", "manifest"),
    [*((call, COMPOSE_ID, ONE) for call in CALLS), *((call, POD_ID, ON_DOCKER) for call in ("create", "start"))],
    ids=[*(f"compose-{call}" for call in CALLS), "pod-create", "pod-start"],
)
def test_an_answer_that_is_cut_is_one_copy_in_the_end(
    mixed: MixedNode, watched: Callable[[str], Watched], call: str, name: str, manifest: str
) -> None:
    """The daemon has done it and its answer is lost: emptied first, it runs once, on podman or there anew."""
    looked = watched(name)
    cut = mixed.backends.proxy.cut(*CALLS[call])
    begin(mixed, manifest)
    assert 200 <= cut.wait() < 300
    deployment = mixed.until_active(name, "docker", "podman")
    looked.assert_one_copy(deployment, 1)
    first = deployment.attempts[0]
    assert first.engine_id == "docker"
    assert first.fenced == (deployment.instances[0].engine_id == "podman")


@pytest.mark.parametrize(
    ("call", "name", "manifest"),
    [("create", COMPOSE_ID, ONE), ("start", COMPOSE_ID, ONE), ("start", POD_ID, ON_DOCKER)],
    ids=["compose-create", "compose-start", "pod-start"],
)
def test_without_a_fence_there_is_no_second_copy(
    mixed: MixedNode, watched: Callable[[str], Watched], call: str, name: str, manifest: str
) -> None:
    """The answer cut and the daemon out of reach from then on: DEGRADED, and nothing on podman; back, it heals."""
    looked = watched(name)
    cut = mixed.backends.proxy.cut(*CALLS[call], then_refuse=True)
    begin(mixed, manifest)
    assert 200 <= cut.wait() < 300
    looked.assert_stays_unfenced("podman")
    if name == COMPOSE_ID:
        assert mixed.backends.running(looked.workload).keys() == ({"docker"} if call == "start" else set())
    mixed.backends.proxy.forward()
    looked.assert_one_copy(mixed.until_active(name, "docker", "podman"), 1)


def test_a_docker_that_hangs_gets_no_second_copy_beside_it(mixed: MixedNode, watched: Callable[[str], Watched]) -> None:
    """Frozen in mid-deploy, docker may have done anything: nothing on podman until it says that it holds nothing."""
    looked = watched(COMPOSE_ID)
    begin(mixed, WAITING)
    mixed.until(lambda: "docker" in mixed.backends.running(looked.workload), "its first container runs")
    mixed.backends.proxy.hang()
    mixed.until_available(docker=False)
    end = time.monotonic() + _UNFENCED_SECONDS
    while time.monotonic() < end:
        assert "podman" not in mixed.backends.running(looked.workload)
        time.sleep(0.2)
    assert looked.state() not in (None, pb.DEPLOYMENT_STATE_ACTIVE, pb.DEPLOYMENT_STATE_FAILED)
    mixed.backends.proxy.forward()
    looked.assert_one_copy(mixed.until_active(COMPOSE_ID, "docker", "podman"), 2)


@pytest.mark.parametrize(
    ("engine", "other", "name", "manifest", "containers"),
    [("docker", "podman", COMPOSE_ID, WAITING, 2), ("podman", "docker", POD_ID, POD, 1)],
    ids=["docker", "podman"],
)
def test_a_backend_that_dies_in_mid_deploy_is_waited_for(
    mixed: MixedNode,
    watched: Callable[[str], Watched],
    engine: str,
    other: str,
    name: str,
    manifest: str,
    containers: int,
) -> None:
    """Killed by -9 with a container running: DEGRADED and nothing elsewhere; started again, one copy runs."""
    looked = watched(name)
    begin(mixed, manifest)
    mixed.until(lambda: engine in mixed.backends.running(looked.workload), "its first container runs")
    mixed.backends.kill(engine)
    looked.assert_stays_unfenced(other)
    mixed.backends.start(engine)
    looked.assert_one_copy(mixed.until_active(name, "docker", "podman"), containers)


def test_a_deletion_waits_for_the_backend_that_may_hold_a_copy(
    mixed: MixedNode, watched: Callable[[str], Watched]
) -> None:
    """Deleted while docker is out of reach after a cut answer: not gone before docker has confirmed it."""
    looked = watched(COMPOSE_ID)
    cut = mixed.backends.proxy.cut(*CALLS["start"], then_refuse=True)
    begin(mixed, ONE)
    cut.wait()
    looked.assert_stays_unfenced("podman")
    caught: Any = None
    try:
        mixed.delete(COMPOSE_ID, wait=3)
    except grpc.RpcError as error:
        caught = error
    assert looked.state() == pb.DEPLOYMENT_STATE_DELETING, caught
    assert mixed.backends.running(looked.workload).keys() == {"docker"}
    mixed.backends.proxy.forward()
    mixed.until(lambda: looked.state() is None, "it is gone")
    assert mixed.backends.running(looked.workload) == {}
