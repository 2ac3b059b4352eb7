"""The README's tour is run as it stands: what a newcomer types must work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from beemesh.registry.v1 import registry_service_pb2 as registry_pb2
from google.protobuf.duration_pb2 import Duration

from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode

_TOUR = re.compile(r"<!-- tour:begin -->\n```bash\n(.*?)```\n<!-- tour:end -->", re.DOTALL)
SEARCHED = os.pathsep.join([os.environ["PATH"], str(REPOSITORY / ".build/bin"), str(Path.home() / "go/bin")])


@pytest.fixture
def tools() -> None:
    """The tools grpcurl and jq; without them the test is skipped, but fails in CI where CI can install them."""
    missing = [tool for tool in ("grpcurl", "jq") if shutil.which(tool, path=SEARCHED) is None]
    if missing and os.environ.get("CI") and shutil.which("go"):
        pytest.fail(f"CI must have {missing}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make setup brings what it can)")


@pytest.mark.podman
@pytest.mark.usefixtures("podman_image", "tools")
def test_the_readmes_tour_works_by_reflection_alone(start_node: Callable[..., LocalNode]) -> None:
    """Every line of the tour with grpcurl succeeds on a fresh node, and shows what the README says it shows."""
    node = start_node("podman,mock")
    with Client(node.public, token=node.token) as client:
        request = registry_pb2.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=20))
        assert client.call(client.registry.CheckAvailableEngines, request).available["podman"]
    tour = _TOUR.search((REPOSITORY / "README.md").read_text())
    assert tour is not None
    script = tour[1].replace("127.0.0.1:7443", node.public).replace("/run/beemesh/", f"{node.run_dir}/")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PATH": SEARCHED},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout.replace("_", "").lower()  # grpcurl's releases differ in how they write field names
    for part in (
        "beemesh.orchestrator.v1.orchestratorservice\n",
        "rpc applymanifest",
        '"selectedengine": "podman"',
        '"state": "deploymentstateactive"',
        "hello from hello, line",
        '"runtimeengine": "podman"',
        '"engine": "mock"',
    ):
        assert part in shown


BUF = """
call() { buf curl --http2-prior-knowledge --protocol grpc --reflect-header "$TOKEN" -H "$TOKEN" "$@"; }
call --list-services "$PORT"
python -c 'import json; print(json.dumps({"manifest": {"content": open("examples/mock.yaml").read()}}))' |
  call -d @- "$PORT/beemesh.orchestrator.v1.OrchestratorService/ApplyManifest"
call -H 'beemesh-engine: mock' "$PORT/beemesh.engine.v1.EngineService/GetEngineInfo"
call -d '{"name": "pod-default-pretend"}' "$PORT/beemesh.orchestrator.v1.OrchestratorService/DeleteDeployment"
"""


def test_another_client_needs_reflection_alone_too(start_node: Callable[..., LocalNode]) -> None:
    """`buf curl`, which knows nothing of the contract either, lists, applies, reaches an engine, and deletes."""
    node = start_node("mock")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", BUF],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PATH": path,
            "PORT": f"http://{node.public}",
            "TOKEN": f"authorization: Bearer {node.token}",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "beemesh.orchestrator.v1.OrchestratorService\n",
        '"state": "DEPLOYMENT_STATE_ACTIVE"',
        '"engine": "mock"',
        '"state": "DEPLOYMENT_STATE_DELETED"',
    ):
        assert part in done.stdout
