"""A node as processes: it comes up, its services come back, it stops, and nothing of it outlives it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.type.v1.types_pb2 import ChangeAction, Manifest
from google.protobuf.duration_pb2 import Duration

from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode, send

StartNode = Callable[..., LocalNode]

MOCK_POD = (REPOSITORY / "examples/mock.yaml").read_text()
ID = "pod-default-pretend"
SERVICES = ("services.registry", "services.provider", "services.engines.mock", "services.orchestrator")


def apply(client: Client) -> pb2.ApplyManifestResponse:
    """Apply the mock pod and wait until it runs."""
    request = pb2.ApplyManifestRequest(manifest=Manifest(content=MOCK_POD), wait=Duration(seconds=20))
    answer: pb2.ApplyManifestResponse = client.call(client.orchestrator.ApplyManifest, request)
    return answer


def get(client: Client) -> pb2.Deployment:
    """The mock pod's deployment as it is now."""
    answer: Any = client.call(client.orchestrator.GetDeployment, pb2.GetDeploymentRequest(name=ID))
    found: pb2.Deployment = answer.deployment
    return found


def until(look: Callable[[], bool], *, seconds: float = 20.0, what: Callable[[], str] = lambda: "") -> None:
    """Wait for something that happens outside of this process."""
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, f"not so after {seconds:g}s\n{what()}"
        time.sleep(0.05)


def active(client: Client) -> bool:
    """Whether the mock pod runs, as far as the node can say just now."""
    try:
        return get(client).state == pb2.DEPLOYMENT_STATE_ACTIVE
    except grpc.RpcError:
        return False


def test_a_node_applies_over_its_public_port(start_node: StartNode) -> None:
    """A node that says READY takes an apply on its public port and on its socket, and the repeat changes nothing."""
    node = start_node()
    with Client(node.public, token=node.token) as client:
        first = apply(client)
    with Client(node.socket) as client:
        second = apply(client)
    assert (first.action, second.action) == (ChangeAction.CHANGE_ACTION_CREATE, ChangeAction.CHANGE_ACTION_NONE)
    assert second.deployment.state == pb2.DEPLOYMENT_STATE_ACTIVE


def test_every_service_that_is_killed_comes_back(start_node: StartNode) -> None:
    """Each service, killed by -9, is running again with another process id, and the deployment is as it was."""
    node = start_node()
    with Client(node.public, token=node.token) as client:
        workload = apply(client).deployment.instances[0].workload_id
        before = node.services()
        assert set(before) == set(SERVICES)
        for service in SERVICES:
            others = {name: pid for name, pid in node.services().items() if name != service}
            send(before[service], signal.SIGKILL)
            until(lambda service=service: node.services().get(service, before[service]) != before[service])  # type: ignore[misc]
            until(lambda: active(client), what=node.log_tail)
            assert {name: pid for name, pid in node.services().items() if name != service} == others
        assert get(client).instances[0].workload_id == workload


def test_a_service_that_hangs_is_started_again_and_the_rest_run_on() -> None:
    """Services that live and answer nothing are replaced in time; the others keep their process ids; all is well."""
    with LocalNode(engines="mock", env={"BEEMESH_HANG_SECONDS": "6"}) as node, Client(node.socket) as client:
        apply(client)
        before = node.services()
        frozen = ("services.engines.mock", "services.orchestrator")
        for service in frozen:
            send(before[service], signal.SIGSTOP)
        until(lambda: all(node.services().get(s, before[s]) != before[s] for s in frozen), what=node.log_tail)
        until(lambda: active(client), what=node.log_tail)
        now = node.services()
        assert {name: now[name] for name in before if name not in frozen} == {
            name: pid for name, pid in before.items() if name not in frozen
        }
        assert node.log.read_text().count("service_hangs") == len(frozen)


def test_a_node_stops_in_order_and_leaves_no_process(start_node: StartNode) -> None:
    """Told to stop, a node ends with 0; the orchestrator has ended first and the registry last."""
    node = start_node()
    assert node.stop() == 0
    assert node.services() == {}
    stopped = [line for line in node.log.read_text().splitlines() if "service_stopped" in line]
    names = [word.removeprefix("name=") for line in stopped for word in line.split() if word.startswith("name=")]
    assert names == ["orchestrator", "engine-mock", "provider", "registry"]


def test_services_die_with_a_killed_supervisor(start_node: StartNode) -> None:
    """When the supervisor is killed by -9, no service of the node outlives it, and a new one starts where it was."""
    node = start_node()
    with Client(node.public, token=node.token) as client:
        apply(client)
    node.kill()
    assert node.wait_gone(5) == {}
    node.start()
    with Client(node.public, token=node.token) as client:
        until(lambda: active(client), what=node.log_tail)


def test_a_deployment_outlives_a_restart(start_node: StartNode) -> None:
    """What was applied is still there, under the same workload id, after the node was stopped and started."""
    node = start_node()
    with Client(node.public, token=node.token) as client:
        workload = apply(client).deployment.instances[0].workload_id
    node.stop()
    node.start()
    with Client(node.public, token=node.token) as client:
        until(lambda: active(client), what=node.log_tail)
        assert get(client).instances[0].workload_id == workload
        assert apply(client).action == ChangeAction.CHANGE_ACTION_NONE


def beemesh_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run beemesh-node to its end."""
    command = [sys.executable, "-m", "services.node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=REPOSITORY)


@pytest.mark.parametrize("shared", ["data", "run"])
def test_a_second_node_on_the_same_directory_is_refused(start_node: StartNode, tmp_path: Path, shared: str) -> None:
    """A directory that a node uses is refused in one line that names it and the process that has it."""
    node = start_node()
    directories = {"data": tmp_path / "data", "run": tmp_path / "run"} | {shared: node.home / shared}
    done = beemesh_node("--data-dir", str(directories["data"]), "--run-dir", str(directories["run"]))
    assert done.returncode == 78
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("beemesh-node:")]
    assert f"{directories[shared]} is in use by another process (pid {node.pid})" in line


@pytest.fixture
def unstarted() -> Iterator[LocalNode]:
    """A node that the test starts itself; killed and removed after it."""
    node = LocalNode(engines="")
    try:
        yield node
    finally:
        node.kill()
        node.remove()


def test_a_taken_port_is_said_and_tried_on(unstarted: LocalNode) -> None:
    """While the public port is taken the node says so again and again; once it is free the node is ready."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        unstarted.public = f"127.0.0.1:{taken.getsockname()[1]}"
        unstarted.launch()
        until(lambda: "service_keeps_failing name=orchestrator" in unstarted.log.read_text(), what=unstarted.log_tail)
        assert f"cannot listen on {unstarted.public}" in unstarted.log.read_text()
    unstarted.await_ready()


def test_an_open_address_is_refused(unstarted: LocalNode) -> None:
    """A public address that other machines could reach is never listened on without TLS, and the log says why."""
    unstarted.public = "0.0.0.0:7443"
    unstarted.launch()
    until(lambda: "refusing to listen on 0.0.0.0:7443" in unstarted.log.read_text(), what=unstarted.log_tail)


def test_ready_reaches_a_service_manager(tmp_path: Path) -> None:
    """Where a service manager listens, it is told when the node is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with LocalNode(engines="", env={"NOTIFY_SOCKET": str(tmp_path / "notify")}):
            assert manager.recv(1000).startswith(b"READY=1\n")


def test_the_settings_in_force_can_be_printed() -> None:
    """--print-config prints the settings and starts nothing."""
    done = beemesh_node("--print-config", "--engines", "mock")
    assert done.returncode == 0
    assert '"engines": "mock"' in done.stdout


def test_an_unknown_engine_is_one_line(tmp_path: Path) -> None:
    """An engine that does not exist ends the start with one line that lists those that do."""
    done = beemesh_node("--data-dir", str(tmp_path / "d"), "--run-dir", str(tmp_path / "r"), "--engines", "dokcer")
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        "beemesh-node: engines: unknown engine dokcer; known: docker, mock, podman, wasm, or auto (UNKNOWN_ENGINE)"
    ]
    assert not (tmp_path / "d").exists()


def test_no_descriptor_of_the_supervisor_reaches_a_service(start_node: StartNode) -> None:
    """A service inherits no lock of the supervisor: else a dead node's directory would stay taken."""
    node = start_node("")
    for pid in node.services().values():
        held = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
        assert not [path for path in held if path.endswith("node.lock")]


@pytest.mark.parametrize(("setting", "value"), [("--public", "0.0.0.0:0"), ("--dht-listen", "0.0.0.0:0")])
def test_settings_that_cannot_work_end_the_node(tmp_path: Path, setting: str, value: str) -> None:
    """What no restart can mend is said once, and the node ends instead of trying for ever."""
    directories = ("--data-dir", str(tmp_path / "d"), "--run-dir", str(tmp_path / "r"))
    done = beemesh_node(*directories, "--engines", "mock", setting, value)
    assert done.returncode == 78
    assert "cannot start as it is set up" in done.stderr
