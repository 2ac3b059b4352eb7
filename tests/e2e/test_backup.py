"""Backup and restore of whole nodes: while one runs, onto an empty disk, and over what has gone on since."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode
from tests.e2e.test_node_process import until
from tests.e2e.test_two_nodes import containers, wait_for_podman

StartNode = Callable[..., LocalNode]

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  annotations: {beemesh.io/runtime-engine: ENGINE}   # käse \u2713
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "localhost/beemesh-busybox:1", command: [sh, -c, "trap exit TERM; while :; do sleep 0.2; done"]}
"""
EX_CONFIG = 78


def manifest(name: str, engine: str) -> str:
    return POD.replace("NAME", name).replace("ENGINE", engine)


def apply(client: Client, text: str) -> pb.Deployment:
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=text), wait=Duration(seconds=60))
    answer: Any = client.call(client.orchestrator.ApplyManifest, request, seconds=90)
    assert answer.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
    found: pb.Deployment = answer.deployment
    return found


def delete(client: Client, name: str) -> None:
    client.call(
        client.orchestrator.DeleteDeployment, pb.DeleteDeploymentRequest(name=f"pod-default-{name}"), seconds=60
    )


def states(client: Client) -> dict[str, str]:
    """Each deployment's state, by the name of its pod."""
    answer: Any = client.call(client.orchestrator.ListDeployments, pb.ListDeploymentsRequest())
    prefix = "DEPLOYMENT_STATE_"
    return {
        item.deployment_id.removeprefix("pod-default-"): pb.DeploymentState.Name(item.state).removeprefix(prefix)
        for item in answer.deployments
    }


def exported(client: Client, name: str) -> str:
    """The manifest of a deployment, as the node has it."""
    answer: Any = client.call(
        client.orchestrator.ExportDeployment, pb.ExportDeploymentRequest(name=f"pod-default-{name}")
    )
    text: str = answer.manifest.content
    return text


def orphans(client: Client) -> list[str]:
    answer: Any = client.call(client.orchestrator.ListOrphans, pb.ListOrphansRequest())
    assert list(answer.unreachable_engines) == []
    return [item.manifest_id.removeprefix("pod-default-") for item in answer.workloads]


def beemesh_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("BEEMESH_")}
    command = [sys.executable, "-m", "services.node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY, env=env)


def save(node: LocalNode, to: Path) -> None:
    done = beemesh_node("backup", str(to), "--data-dir", str(node.data_dir))
    assert done.returncode == 0, done.stderr
    assert f"saved node {node.node_id()}" in done.stdout
    assert "private key" in done.stdout


def bring_back(node: LocalNode, saved: Path, *arguments: str) -> str:
    done = beemesh_node("restore", str(saved), "--data-dir", str(node.data_dir), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def other_machine() -> Iterator[LocalNode]:
    """A node that was never started, on an empty disk."""
    node = LocalNode(engines="mock")
    try:
        yield node
    finally:
        node.kill()
        node.remove()


def test_a_node_comes_back_on_an_empty_disk(start_node: StartNode, other_machine: LocalNode, tmp_path: Path) -> None:
    """Saved while it runs and restored elsewhere, it is the same node, and what it should run is made anew."""
    node = start_node("mock")
    with Client(node.socket) as client:
        workload = apply(client, manifest("web", "mock")).instances[0].workload_id
        apply(client, manifest("idle", "mock"))
        client.call(client.orchestrator.StopDeployment, pb.StopDeploymentRequest(name="pod-default-idle"))
        save(node, tmp_path / "saved.tgz")
        apply(client, manifest("later", "mock"))
    node.stop()

    bring_back(other_machine, tmp_path / "saved.tgz")
    other_machine.start()
    assert other_machine.node_id() == node.node_id()
    with Client(other_machine.socket) as client:
        until(lambda: states(client) == {"web": "ACTIVE", "idle": "STOPPED"}, what=other_machine.log_tail)
        assert exported(client, "web") == manifest("web", "mock")
        answer: Any = client.call(client.engine.ListWorkloads, engine_pb.ListWorkloadsRequest(), engine="mock")
        assert [item.workload_id for item in answer.workloads] == [workload]


def test_what_was_updated_since_the_backup_is_drift(start_node: StartNode, tmp_path: Path) -> None:
    """It runs on as updated and is said to have drifted; a repair brings back what the backup has."""
    node = start_node("mock")
    old, new = manifest("web", "mock"), manifest("web", "mock").replace("busybox:1", "busybox:2")
    with Client(node.socket) as client:
        apply(client, old)
        save(node, tmp_path / "saved.tgz")
        apply(client, new)
    node.stop()
    bring_back(node, tmp_path / "saved.tgz", "--force")
    node.start()
    with Client(node.socket) as client:
        until(lambda: states(client) == {"web": "ACTIVE"}, what=node.log_tail)
        assert (deployed(client), drifted(client)) == (new, True)
        repair = pb.ReconcileDeploymentRequest(name="pod-default-web")
        client.call(client.orchestrator.ReconcileDeployment, repair, seconds=60)
        assert (deployed(client), drifted(client), states(client)) == (old, False, {"web": "ACTIVE"})


def drifted(client: Client) -> bool:
    answer: Any = client.call(client.orchestrator.CheckDrift, pb.CheckDriftRequest(name="pod-default-web"))
    found: bool = answer.drifted
    return found


def deployed(client: Client) -> str:
    """The manifest of what runs, as the engine has it."""
    answer: Any = client.call(client.engine.ListWorkloads, engine_pb.ListWorkloadsRequest(), engine="mock")
    asked = engine_pb.GetWorkloadManifestRequest(workload_id=answer.workloads[0].workload_id)
    text: str = client.call(client.engine.GetWorkloadManifest, asked, engine="mock").manifest.content
    return text


def test_a_running_node_and_a_newer_release_refuse_a_restore(start_node: StartNode, tmp_path: Path) -> None:
    """Refusals are one line and exit code 78, and the node runs on."""
    node = start_node("")
    save(node, tmp_path / "saved.tgz")
    done = beemesh_node("restore", str(tmp_path / "saved.tgz"), "--data-dir", str(node.data_dir), "--force")
    assert done.returncode == EX_CONFIG
    assert done.stderr.startswith(f"beemesh-node: {node.data_dir} is in use by another process (pid {node.pid})")
    assert len(done.stderr.splitlines()) == 1
    with Client(node.socket) as client:
        assert states(client) == {}


def test_a_half_restored_directory_starts_no_node(tmp_path: Path) -> None:
    """A node does not run on what an interrupted restore has left."""
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d" / "restore-under-way").touch()
    done = beemesh_node("--data-dir", str(tmp_path / "d"), "--run-dir", str(tmp_path / "r"), "--engines", "")
    assert done.returncode == EX_CONFIG
    assert "was interrupted: run it again, with --force (RESTORE_INTERRUPTED)" in done.stderr


@pytest.mark.podman
@pytest.mark.usefixtures("podman_image")
def test_a_restore_meets_what_has_gone_on_since(start_node: StartNode, tmp_path: Path) -> None:
    """On podman: what is unchanged runs on, what was deleted is back, what is newer is an orphan with its manifest."""
    node = start_node("podman")
    with Client(node.socket) as client:
        wait_for_podman(client)
        apply(client, manifest("same", "podman"))
        apply(client, manifest("deleted", "podman"))
        save(node, tmp_path / "saved.tgz")
        delete(client, "deleted")
        apply(client, manifest("newer", "podman"))
    before = containers(node.node_id())
    node.stop()
    told = bring_back(node, tmp_path / "saved.tgz", "--force")
    assert "kept 2 records of engines" in told
    assert f"what was there before is in {node.data_dir}/replaced-" in told

    node.start()
    with Client(node.socket) as client:
        wait_for_podman(client)
        until(lambda: states(client) == {"same": "ACTIVE", "deleted": "ACTIVE"}, seconds=60, what=node.log_tail)
        assert orphans(client) == ["newer"]
        name = f"engines/podman/workloads/{_workload(client, 'newer')}"
        client.call(client.orchestrator.AdoptOrphan, pb.AdoptOrphanRequest(workload_name=name))
        until(lambda: states(client).get("newer") == "ACTIVE", what=node.log_tail)
        assert exported(client, "newer") == manifest("newer", "podman")
        now = containers(node.node_id())
        assert before.items() <= now.items(), "nothing that ran was restarted"
        for pod in ("same", "deleted", "newer"):
            delete(client, pod)
    assert podman_state.purge(node.node_id()) == []


def _workload(client: Client, pod: str) -> str:
    answer: Any = client.call(client.orchestrator.ListOrphans, pb.ListOrphansRequest())
    (found,) = [item.workload_id for item in answer.workloads if item.manifest_id == f"pod-default-{pod}"]
    workload: str = found
    return workload
