"""A node whose services are containers does what a node does, and survives the death of each of them."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from typing import Any

import pytest

from scripts.make_test_image import REFERENCE
from tests.cluster.node import BUILD_SECONDS, CallFailed, Cluster, until

SERVICES = ("registry", "provider", "mock", "docker", "wasm", "orchestrator")
ENGINES = ("docker", "mock", "wasm")

WAITS = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: pretend, annotations: {beemesh.io/runtime-engine: mock}}
spec: {containers: [{name: main, image: "localhost/any:1"}]}
"""
REAL_POD = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: site}}
spec:
  initContainers:
  - name: first
    image: {REFERENCE}
    command: [sh, -c, "echo made > /work/first"]
    volumeMounts: [{{name: work, mountPath: /work}}]
  containers:
  - name: web
    image: {REFERENCE}
    command: [sh, -c, "cat /work/first /settings/greeting; httpd -p 8080 -h /settings; {WAITS}"]
    readinessProbe: {{httpGet: {{path: /greeting, port: 8080}}, periodSeconds: 1}}
    volumeMounts: [{{name: work, mountPath: /work}}, {{name: settings, mountPath: /settings}}]
  volumes:
  - {{name: work, emptyDir: {{}}}}
  - {{name: settings, configMap: {{name: settings}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{greeting: "hello\\n"}}
"""
FUNCTION = """\
apiVersion: beemesh.io/v1
kind: Function
metadata: {name: double}
spec:
  runtime: python:3.11
  handler: main.double
  memory: 128Mi
  timeout: 30s
  concurrency: 1
  code:
    inline: |
      def double(event):
          print("doubling", event["value"])
          return {"value": 2 * event["value"]}
"""
COMPOSE = f"""\
name: shop
services:
  db:
    image: {REFERENCE}
    command: [sh, -c, "echo db is up; trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    healthcheck: {{test: [CMD, "true"], interval: 1s}}
    volumes: ["data:/data"]
    secrets: [password]
  web:
    image: {REFERENCE}
    command: [sh, -c, "echo web is up; trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    depends_on: {{db: {{condition: service_healthy}}}}
    deploy: {{replicas: 2}}
volumes: {{data: {{}}}}
secrets: {{password: {{file: PATH}}}}
"""
SECRET = "correct horse"
PRETEND, DOUBLE, SHOP = "pod-default-pretend", "function-default-double", "compose-shop"
SITE = "pod-default-site"


def invoke(cluster: Cluster, value: int) -> int:
    """Call the function."""
    answer = cluster.ask(
        "InvokeDeployment", {"name": DOUBLE, "event": {"structValue": {"fields": {"value": {"numberValue": value}}}}}
    )
    result = answer["invocation"]["result"]["structValue"]["fields"]["value"]["numberValue"]
    return int(result)


@pytest.fixture
def compose(cluster: Cluster) -> str:
    """The Compose file; its secret is a file in the directory that the cluster was given for them."""
    path = cluster.directory / "files/password"
    path.write_text(SECRET)
    path.chmod(0o644)
    return COMPOSE.replace("PATH", str(path))


def test_the_public_port_explains_itself(cluster: Cluster) -> None:
    """Who has no file of the contract finds the services by reflection, and the engines by what it says."""
    services = cluster.reflect("list").split()
    for area in ("orchestrator", "registry", "provider", "engine"):
        assert f"beemesh.{area}.v1.{area.capitalize()}Service" in services
    assert "rpc ApplyManifest" in cluster.reflect("describe", "beemesh.orchestrator.v1.OrchestratorService")
    answer = json.loads(cluster.reflect("{}", "beemesh.registry.v1.RegistryService/ListEngines"))
    found = {each["engine_id"]: each["availability"] for each in answer["engines"]}
    assert found == dict.fromkeys(ENGINES, "AVAILABILITY_AVAILABLE"), answer


def test_the_port_is_for_who_has_the_token(cluster: Cluster, tmp_path: Any) -> None:
    """A wrong token opens nothing; the file with the right one is its owner's alone."""
    right = cluster.directory / "token"
    assert stat.S_IMODE(right.stat().st_mode) == 0o600
    wrong = Cluster(cluster.directory)
    (tmp_path / "token").write_text("wrong")
    wrong.token_file = tmp_path / "token"
    with pytest.raises(CallFailed) as caught:
        wrong.ask("ListDeployments")
    assert caught.value.code == "UNAUTHENTICATED"


def test_services_run_without_rights(cluster: Cluster) -> None:
    """No service is root, has a capability, writes to its own image, or listens where another machine could call."""
    for service in SERVICES:
        found = cluster.container(service)
        pid = found["State"]["Pid"]
        told = dict(
            line.split(":\t", 1)
            for line in cluster.docker("exec", found["Id"], "cat", "/proc/1/status").splitlines()
            if ":\t" in line
        )
        assert pid > 0
        assert told["Uid"].split() == ["10001"] * 4, service
        assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0, service
        assert told["NoNewPrivs"] == "1", service
        assert found["HostConfig"]["ReadonlyRootfs"], service
        assert not found["HostConfig"]["PortBindings"], service
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped", service


def test_a_manifest_on_the_mock_engine(cluster: Cluster) -> None:
    """Applied, shown, applied again without effect, and deleted, by a client that has the .proto files alone."""
    first = cluster.apply(POD)
    assert first["deployment"]["instances"][0]["engine_id"] == "mock"
    assert first["action"] == "CHANGE_ACTION_CREATE"
    assert cluster.apply(POD)["action"] == "CHANGE_ACTION_NONE"
    shown = cluster.ask("GetDeployment", {"name": PRETEND})["deployment"]
    assert shown["etag"] == cluster.deployments()[PRETEND]["etag"]
    cluster.ask("DeleteDeployment", {"name": PRETEND})
    assert PRETEND not in cluster.deployments()


@pytest.mark.timeout(BUILD_SECONDS + 120)
def test_a_function_on_wasm(cluster: Cluster) -> None:
    """It computes, its output is in the log, and a deleted one answers no more."""
    applied = cluster.apply(FUNCTION, seconds=BUILD_SECONDS)
    assert applied["deployment"]["instances"][0]["engine_id"] == "wasm"
    assert invoke(cluster, 21) == 42
    assert "doubling 21" in cluster.log(DOUBLE)
    cluster.ask("DeleteDeployment", {"name": DOUBLE})
    with pytest.raises(CallFailed) as caught:
        invoke(cluster, 1)
    assert caught.value.code == "NOT_FOUND"


def test_a_compose_file_on_docker(cluster: Cluster, compose: str) -> None:
    """Three containers with a volume and a secret from a file; deleted with the volume, nothing is left in docker."""
    applied = cluster.apply(compose)
    assert applied["deployment"]["instances"][0]["engine_id"] == "docker"
    assert len(cluster.workload_containers()) == 3
    assert sorted(cluster.log(SHOP)) == ["db is up", "web is up", "web is up"]
    (db,) = [
        each
        for each in cluster.workload_containers()
        if cluster.docker("inspect", "--format", '{{index .Config.Labels "com.docker.compose.service"}}', each).strip()
        == "db"
    ]
    assert cluster.docker("exec", db, "cat", "/run/secrets/password") == SECRET
    cluster.ask("DeleteDeployment", {"name": SHOP, "remove_volumes": True})
    assert left(cluster) == ""


def test_a_pod_on_docker(cluster: Cluster) -> None:
    """Where there is no podman docker runs it, from an engine that sees neither docker's storage nor its processes.

    Its init container was first, its files are there, and its probe reaches it.
    """
    applied = cluster.apply(REAL_POD)
    assert applied["deployment"]["instances"][0]["engine_id"] == "docker"
    assert cluster.log(SITE) == ["made", "hello"]
    cluster.ask("DeleteDeployment", {"name": SITE})
    assert left(cluster) == ""


def left(cluster: Cluster) -> str:
    """What docker has of this node's workloads."""
    mine = f"label=beemesh.io/node-id={cluster.node_id}"
    kinds = {"container": ["--all"], "network": [], "volume": []}
    return "".join(cluster.docker(kind, "ls", "--quiet", "--filter", mine, *more) for kind, more in kinds.items())


@pytest.fixture
def running(cluster: Cluster, compose: str) -> Mapping[str, str]:
    """A deployment on each engine, by id, with its etag."""
    cluster.apply(POD)
    cluster.apply(FUNCTION, seconds=BUILD_SECONDS)
    cluster.apply(compose)
    return etags(cluster)


def etags(cluster: Cluster) -> Mapping[str, str]:
    """Of what runs as it should: another etag would be another generation or state."""
    return {
        name: each["instances"][0]["workload_id"] + each["canonical_digest"] + each["generation"]
        for name, each in cluster.deployments().items()
        if each["state"] == "DEPLOYMENT_STATE_ACTIVE"
    }


@pytest.mark.timeout(BUILD_SECONDS + 240)
@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_comes_back(cluster: Cluster, running: Mapping[str, str], service: str) -> None:
    """By -9: docker starts it again, and no deployment, container or answer of a function is lost or doubled."""
    containers = cluster.workload_containers()
    before = cluster.container(service)
    cluster.kill(service)
    until(lambda: cluster.container(service)["RestartCount"] > before["RestartCount"], f"restarted: {service}")
    assert cluster.container(service)["Id"] == before["Id"]
    until(lambda: cluster.is_healthy(service), f"healthy: {service}")
    until(lambda: etags(cluster) == running, f"as before: {sorted(running)}")
    assert set(running) == {PRETEND, DOUBLE, SHOP}
    assert cluster.workload_containers() == containers
    assert invoke(cluster, 4) == 8
    assert cluster.apply(POD)["action"] == "CHANGE_ACTION_NONE"
