"""Whatever fits runs on whatever is there: docker and podman take each other's place, and the choice sticks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.type.v1 import types_pb2
from beemesh.type.v1.types_pb2 import Manifest

from tests.e2e.test_real_pod import info, reason
from tests.harness.beectl import Beectl
from tests.harness.mixed import STOPPED, WAITS, MixedNode

pytestmark = [pytest.mark.podman, pytest.mark.docker, pytest.mark.timeout(300)]

SHOP = f"""\
name: shop
services:
  web:
    image: nginx:latest
    deploy: {{replicas: 2}}
    depends_on: [api]
  api:
    image: node:16
    command: [sh, -c, "cat /data/ready /run/secrets/token; {WAITS}"]
    depends_on: {{db: {{condition: service_healthy}}}}
    secrets: [token]
    volumes: ["data:/data"]
  db:
    image: test:latest
    command: [sh, -c, "sleep 2; echo healthy > /data/ready; {WAITS}"]
    healthcheck: {{test: [CMD, ls, /data/ready], interval: 500ms, retries: 60}}
    volumes: ["data:/data"]
secrets: {{token: {{file: FILES/token}}}}
volumes: {{data: }}
"""
ID = "compose-shop"
WITHOUT_A_WORKLOAD = {"GetEngineInfo", "GetEngineHealth", "WatchEngineHealth", "WatchWorkloads"}
"""What a node asks every engine all the time."""
SEED_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web-server
  annotations:
    beemesh.io/runtime-engine: "podman"
spec:
  containers:
  - name: nginx
    image: nginx:latest
"""
SEED_COMPOSE = """\
version: '3.8'
services:
  api:
    image: node:16
    ports:
      - "3000:3000"
"""
ONE_SERVICE = "name: one\nservices: {web: {image: nginx:latest}}\n"
SEED_MOCK = """\
apiVersion: v1
kind: Pod
metadata:
  name: test-pod
  annotations:
    beemesh.io/runtime-engine: "mock"
spec:
  containers:
  - name: test
    image: test:latest
"""


@pytest.fixture
def shop(mixed: MixedNode, tmp_path: Path) -> Path:
    """The Compose file, and the secret that it names."""
    (mixed.backends.files / "token").write_text("s3cret\n")
    path = tmp_path / "compose.yaml"
    path.write_text(SHOP.replace("FILES", str(mixed.backends.files)))
    return path


def assert_whole(mixed: MixedNode, deployment: pb.Deployment, engine: str) -> None:
    """Four containers on this engine and none elsewhere; api came after a healthy db, with volume and secret."""
    assert (deployment.instances[0].engine_id, deployment.decision.selected_engine) == (engine, engine)
    running = mixed.backends.running(deployment.instances[0].workload_id)
    assert {name: len(found) for name, found in running.items()} == {engine: 4}
    beectl = Beectl(mixed.node)
    told = [line.partition(" | ")[2] for line in beectl.ok("logs", ID).splitlines() if line.startswith("api")]
    assert told == ["healthy", "s3cret"]
    assert beectl.ok("exec", ID, "-c", "api", "--", "cat", "/run/secrets/token") == "s3cret\n"


def verdicts(deployment: pb.Deployment) -> dict[str, pb.EngineCandidate]:
    """What was found about each engine."""
    return {candidate.engine_id: candidate for candidate in deployment.decision.candidates}


def test_a_compose_file_runs_on_docker_and_without_it_on_podman_and_stays_there(mixed: MixedNode, shop: Path) -> None:
    """It runs on docker; dockerd stopped, on podman, with the reason; dockerd back, NONE, and still podman."""
    beectl = Beectl(mixed.node)
    assert "ACTIVE on docker" in beectl.ok("apply", "-f", str(shop))
    assert_whole(mixed, mixed.until_active(ID, "docker"), "docker")
    beectl.ok("delete", ID, "--volumes")
    mixed.backends.stop("docker")
    mixed.until_stopped("docker")
    answer = mixed.apply(shop.read_text())
    assert_whole(mixed, mixed.until_active(ID, "podman"), "podman")
    assert answer.deployment.decision.fell_back
    found = verdicts(answer.deployment)
    assert found["docker"].verdict == pb.EngineCandidate.VERDICT_REJECTED
    assert found["docker"].reason == STOPPED
    assert found["docker"].message.startswith("docker cannot be used now: ")
    assert found["podman"].verdict == pb.EngineCandidate.VERDICT_SELECTED
    mixed.backends.start("docker")
    mixed.until_available(docker=True)
    before = mixed.backends.running(answer.deployment.instances[0].workload_id)
    again = mixed.apply(shop.read_text())
    assert again.action == types_pb2.CHANGE_ACTION_NONE
    assert_whole(mixed, again.deployment, "podman")
    assert mixed.backends.running(answer.deployment.instances[0].workload_id) == before


@pytest.mark.parametrize(
    ("name", "manifest", "engine"),
    [
        ("pod-default-web-server", SEED_POD, "podman"),
        ("compose-example", SEED_COMPOSE, "docker"),
        ("pod-default-test-pod", SEED_MOCK, "mock"),
    ],
)
def test_the_seeds_examples_are_announced_by_their_engine(
    mixed: MixedNode, tmp_path: Path, name: str, manifest: str, engine: str
) -> None:
    """The Pod, the Compose file and the mock example run unchanged, and say exactly who runs them."""
    folder = tmp_path / "example"
    folder.mkdir()
    (folder / "manifest.yaml").write_text(manifest)
    assert f"ACTIVE on {engine}" in Beectl(mixed.node).ok("apply", "-f", str(folder / "manifest.yaml"))
    mixed.until(lambda: announced(mixed, name) == [engine], "it is announced")


def announced(mixed: MixedNode, name: str) -> list[str]:
    """The engines that its providers announce."""
    request = provider_pb.DiscoverProvidersRequest(manifest_id=name)
    answer: Any = mixed.client.call(mixed.client.provider.DiscoverProviders, request)
    return [provider.metadata["runtime_engine"] for provider in answer.providers]


def test_a_pod_runs_on_docker_when_podman_is_stopped(mixed: MixedNode) -> None:
    """Though its annotation names podman, with the reason; podman back, NONE, and still docker."""
    mixed.backends.stop("podman")
    mixed.until_stopped("podman")
    answer = mixed.apply(SEED_POD)
    deployment = mixed.until_active("pod-default-web-server", "docker")
    assert answer.deployment.decision.fell_back
    found = verdicts(answer.deployment)
    assert (found["podman"].verdict, found["podman"].reason) == (pb.EngineCandidate.VERDICT_REJECTED, STOPPED)
    assert found["podman"].message.startswith("podman cannot be used now: ")
    workload = deployment.instances[0].workload_id
    running = mixed.backends.running(workload)
    assert set(running) == {"docker"}
    mixed.until(lambda: announced(mixed, "pod-default-web-server") == ["docker"], "it is announced")
    mixed.backends.start("podman")
    mixed.until_available(podman=True)
    assert mixed.apply(SEED_POD).action == types_pb2.CHANGE_ACTION_NONE
    assert mixed.backends.running(workload) == running


@pytest.mark.parametrize("manifest", [SEED_POD, SHOP], ids=["pod", "compose"])
def test_with_both_stopped_it_is_refused_and_nothing_is_touched(mixed: MixedNode, manifest: str) -> None:
    """UNAVAILABLE with a verdict for each engine; mock was asked nothing, and nothing is there when both are back."""
    mixed.backends.stop("docker")
    mixed.backends.stop("podman")
    mixed.until_stopped("docker", "podman")
    mixed.client.call(mixed.client.mock.ResetMock, mock_pb.ResetMockRequest(), engine="mock")
    caught: Any
    with pytest.raises(grpc.RpcError) as caught:
        mixed.apply(manifest.replace("FILES", str(mixed.backends.files)))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(caught.value) == "NO_ENGINE_AVAILABLE"
    told = info(caught.value).metadata
    assert {"engine.docker", "engine.podman"} <= set(told)
    assert "engine.mock" not in told
    assert told["engine.docker"].startswith(f"{STOPPED}: docker cannot be used now: ")
    assert told["engine.podman"].startswith(f"{STOPPED}: podman cannot be used now: ")
    calls = mixed.client.call(mixed.client.mock.ListMockCalls, mock_pb.ListMockCallsRequest(), engine="mock")
    assert {call.method for call in calls.calls} <= WITHOUT_A_WORKLOAD
    assert mixed.client.call(mixed.client.orchestrator.ListDeployments, pb.ListDeploymentsRequest()).deployments == []
    mixed.backends.up()
    mixed.until_available(docker=True, podman=True)
    assert mixed.backends.left(mixed.node.node_id()) == set()


@pytest.mark.parametrize(
    ("manifest", "asked", "stopped", "expected"),
    [
        (SEED_POD, {}, "podman", "docker"),
        (SEED_POD, {"fallback_policy": pb.FALLBACK_POLICY_NONE}, "podman", ""),
        (SEED_POD, {"engine_id": "docker"}, "podman", "docker"),
        (SEED_POD, {"engine_id": "podman"}, "podman", ""),
        (SEED_POD, {"engine_id": "docker"}, "docker", ""),
        (SEED_POD, {"engine_id": "docker", "fallback_policy": pb.FALLBACK_POLICY_ANY}, "docker", "podman"),
        (SEED_POD.replace('"podman"', "nonsense"), {}, "docker", "podman"),
        (SEED_MOCK, {}, "docker", "mock"),
        (SEED_MOCK, {"engine_id": "docker"}, "docker", ""),
        (ONE_SERVICE, {}, "podman", "docker"),
        (ONE_SERVICE, {}, "docker", "podman"),
        (ONE_SERVICE, {"fallback_policy": pb.FALLBACK_POLICY_NONE}, "docker", ""),
        (ONE_SERVICE, {"engine_id": "podman"}, "docker", "podman"),
    ],
)
def test_the_choice_on_real_engines_is_that_of_the_matrix(
    mixed: MixedNode, manifest: str, asked: dict[str, Any], stopped: str, expected: str
) -> None:
    """Spots of the matrix: who would run it with one backend stopped; whoever is not chosen has a reason."""
    mixed.backends.stop(stopped)
    mixed.until_stopped(stopped)
    request = pb.SelectEngineRequest(manifest=Manifest(content=manifest), **asked)
    decision = mixed.client.call(mixed.client.orchestrator.SelectEngine, request).decision
    assert decision.selected_engine == expected
    before = [c.engine_id for c in decision.candidates].index(expected) if expected else len(decision.candidates)
    assert all(candidate.reason for candidate in decision.candidates[:before])
    assert expected == "mock" or "mock" not in {candidate.engine_id for candidate in decision.candidates}
