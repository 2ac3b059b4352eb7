"""Who may call a node, and who may not."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.registry.v1 import registry_service_pb2 as registry_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode

STRANGER = 65534

AS_A_STRANGER = """
import json, os, socket, sys
import grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from scripts.client import Client

uid, token_file, sockets, public = int(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), sys.argv[4]
def code():
    with Client(public) as client:
        try:
            client.call(client.orchestrator.ListDeployments, pb2.ListDeploymentsRequest(), seconds=5)
            return "OK"
        except grpc.RpcError as error:
            return error.code().name


code()  # loads all that is loaded on the first call: a stranger may not be able to read it
os.setgroups([]); os.setgid(uid); os.setuid(uid)
found = {"uid": os.getuid()}
try:
    found["token"] = open(token_file).read()
except OSError as error:
    found["token"] = type(error).__name__
for path in sockets:
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(path)
        found[path] = "connected"
    except OSError as error:
        found[path] = type(error).__name__
found["call"] = code()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    """One node for all of these: they only knock."""
    with LocalNode(engines="mock") as started:
        yield started


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    """The status that a call ends in."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("token", ["", "wrong"])
def test_the_public_port_wants_the_token(node: LocalNode, token: str) -> None:
    """Without the token, or with another, no service behind the public port can be called."""
    with Client(node.public, token=token) as client:
        calls = [
            lambda: client.call(client.orchestrator.ListDeployments, pb2.ListDeploymentsRequest()),
            lambda: client.call(client.registry.ListEngines, registry_pb2.ListEnginesRequest()),
        ]
        assert [code_of(call) for call in calls] == [grpc.StatusCode.UNAUTHENTICATED] * 2


def test_the_token_opens_the_public_port(node: LocalNode) -> None:
    """With the node's token the same calls are answered."""
    with Client(node.public, token=node.token) as client:
        assert not client.call(client.orchestrator.ListDeployments, pb2.ListDeploymentsRequest()).deployments
        assert client.call(client.registry.ListEngines, registry_pb2.ListEnginesRequest()).engines


def test_health_is_told_to_anyone(node: LocalNode) -> None:
    """A probe needs no token: it learns only that the node serves."""
    with grpc.insecure_channel(node.public) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_opens_the_node_is_for_its_user_alone(node: LocalNode) -> None:
    """The token and every socket can be opened by the node's user only."""
    sockets = list(node.run_dir.glob("*.sock"))
    assert len(sockets) == 4
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*sockets, node.token_file]}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(node.run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(node.data_dir.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("run_dir_open", [False, True], ids=["as it is", "even if the directory were open"])
def test_another_local_user_has_no_way_in(node: LocalNode, run_dir_open: bool) -> None:
    """Another user can neither read the token, nor connect to a socket, nor call the public port."""
    sockets = [str(path) for path in node.run_dir.glob("*.sock")]
    node.home.chmod(0o755)
    node.run_dir.chmod(0o755 if run_dir_open else 0o700)
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_A_STRANGER, str(STRANGER), str(node.token_file), ",".join(sockets), node.public],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=REPOSITORY,
        )
    finally:
        node.run_dir.chmod(0o700)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = dict.fromkeys(["token", *sockets], "PermissionError")
    assert found == {"uid": STRANGER, "call": "UNAUTHENTICATED", **expected}
