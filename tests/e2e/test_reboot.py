"""After a reboot of the machine, or the loss of the orchestrator's database: what should run runs, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1 import types_pb2

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode
from tests.e2e.test_backup import apply, delete, exported, manifest, orphans, states
from tests.e2e.test_node_process import until
from tests.e2e.test_two_nodes import containers, wait_for_podman

pytestmark = [pytest.mark.podman, pytest.mark.usefixtures("podman_image")]

REBOOTED_WITHIN = 60.0


@pytest.fixture
def node(start_node: Callable[..., LocalNode]) -> LocalNode:
    """A node with podman that has one pod running and one stopped, and is down."""
    found = start_node("podman")
    with Client(found.socket) as client:
        wait_for_podman(client)
        apply(client, manifest("active", "podman"))
        apply(client, manifest("stopped", "podman"))
        client.call(client.orchestrator.StopDeployment, pb.StopDeploymentRequest(name="pod-default-stopped"))
        assert states(client) == {"active": "ACTIVE", "stopped": "STOPPED"}
    found.stop()
    return found


def running(node: LocalNode) -> set[str]:
    """The pods of this node that have a container of a manifest running."""
    label = f"label={podman_state.NODE_LABEL}={node.node_id()}"
    found = podman_state.listed("ps", "--filter", label)
    return {
        item["Labels"]["beemesh.io/deployment-id"].removeprefix("pod-default-") for item in found if not item["IsInfra"]
    }


def assert_as_before(node: LocalNode) -> None:
    """ACTIVE is up, STOPPED is down, nothing is an orphan; and a start brings the stopped one up, too."""
    with Client(node.socket) as client:
        until(
            lambda: running(node) == {"active"} and states(client) == {"active": "ACTIVE", "stopped": "STOPPED"},
            seconds=REBOOTED_WITHIN,
            what=node.log_tail,
        )
        assert orphans(client) == []
        start = pb.StartDeploymentRequest(name="pod-default-stopped")
        client.call(client.orchestrator.StartDeployment, start, seconds=60)
        assert running(node) == {"active", "stopped"}
        for pod in ("active", "stopped"):
            delete(client, pod)
    assert podman_state.purge(node.node_id()) == []


def test_after_a_reboot_that_left_no_container_all_is_as_it_was(node: LocalNode) -> None:
    """Containers and run directory gone: ACTIVE deployments come up, STOPPED ones stay down."""
    label = f"label={podman_state.NODE_LABEL}={node.node_id()}"
    for pod in podman_state.podman("pod", "ps", "--filter", label, "--quiet").split():
        podman_state.podman("pod", "rm", "--force", "--time", "0", pod)
    assert containers(node.node_id()) == {}
    shutil.rmtree(node.run_dir)
    node.start()
    assert_as_before(node)


def test_after_a_reboot_that_left_dead_containers_all_is_as_it_was(node: LocalNode) -> None:
    """Containers there but all of their processes ended: the same ones are started, STOPPED ones stay down."""
    for pid in containers(node.node_id()).values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: containers(node.node_id()) == {})
    shutil.rmtree(node.run_dir)
    node.start()
    assert_as_before(node)


def test_without_its_database_a_node_lists_what_runs_and_adopts_it(start_node: Callable[..., LocalNode]) -> None:
    """The database deleted: its workloads run on as orphans, and are adopted with their exact manifests."""
    node = start_node("podman")
    texts = {name: f"{manifest(name, 'podman')}# trailing  \t\n\n" for name in ("one", "two")}
    with Client(node.socket) as client:
        wait_for_podman(client)
        for text in texts.values():
            apply(client, text)
        client.call(client.orchestrator.StopDeployment, pb.StopDeploymentRequest(name="pod-default-two"))
    before = containers(node.node_id())
    node.kill()  # as in a crash: what SQLite keeps beside its file is there still
    node.wait_gone(5)
    (node.data_dir / "orchestrator" / "orchestrator.db").unlink()
    node.start()
    with Client(node.socket) as client:
        wait_for_podman(client)
        until(lambda: sorted(orphans(client)) == ["one", "two"], what=node.log_tail)
        assert states(client) == {}
        listed: Any = client.call(client.orchestrator.ListOrphans, pb.ListOrphansRequest())
        for item in listed.workloads:
            adopt = pb.AdoptOrphanRequest(workload_name=f"engines/podman/workloads/{item.workload_id}")
            client.call(client.orchestrator.AdoptOrphan, adopt)
        until(lambda: states(client) == {"one": "ACTIVE", "two": "STOPPED"}, what=node.log_tail)
        assert {name: exported(client, name) for name in texts} == texts
        assert containers(node.node_id()) == before, "nothing was restarted"
        request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=texts["one"]))
        again: Any = client.call(client.orchestrator.ApplyManifest, request)
        assert again.action == types_pb2.CHANGE_ACTION_NONE
        for name in texts:
            delete(client, name)
    assert podman_state.purge(node.node_id()) == []
