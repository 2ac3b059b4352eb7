"""A function on a whole node: by grpcurl, beectl and HTTP, announced, and there again after the engine was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from google.protobuf.duration_pb2 import Duration

from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode, send
from tests.conformance.wasm_harness import CACHE

ID = "function-default-data-processor"
TOOLS = os.pathsep.join([os.environ["PATH"], str(REPOSITORY / ".build/bin"), str(Path.home() / "go/bin")])
ANSWER = {"count": 3, "sum": 12, "mean": 4.0}


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    """One node with this engine alone."""
    with LocalNode(engines="wasm", env={"BEEMESH_CACHE_DIR": str(CACHE)}) as started:
        with Client(started.public, token=started.token) as client:
            request = registry_pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=30))
            assert client.call(client.registry.CheckAvailableEngines, request, seconds=60).available["wasm"]
        yield started


@pytest.fixture(scope="module")
def applied(node: LocalNode) -> LocalNode:
    """The example, applied by beectl."""
    done = beectl(node, "apply", "-f", "examples/function.yaml", "--wait", "10m")
    assert done.stdout == f"deployment/{ID} created: ACTIVE on wasm\n", done.stdout + done.stderr
    return node


def beectl(node: LocalNode, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run beectl to its end."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "BEEMESH_RUN_DIR": str(node.run_dir)},
    )


def deployment(node: LocalNode) -> Any:
    """The example's deployment."""
    with Client(node.public, token=node.token) as client:
        request = orchestrator_pb.GetDeploymentRequest(name=ID)
        return client.call(client.orchestrator.GetDeployment, request).deployment


def by_http(node: LocalNode) -> Any:
    """The answer of its trigger."""
    port = deployment(node).instances[0].workload.ports[0].host_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", data=b'{"values":[3,4,5]}', timeout=30) as response:
        return json.loads(response.read())


def test_the_seeds_example_answers_every_client(applied: LocalNode) -> None:
    """By beectl from an argument and from stdin, by HTTP; its log and its engine are what they should be."""
    event = '{"values":[3,4,5]}'
    for arguments in (["-d", event], ["-f", "-"]):
        done = beectl(applied, "invoke", ID, *arguments, stdin=event)
        assert (done.returncode, json.loads(done.stdout)) == (0, ANSWER), done.stderr
    assert by_http(applied) == ANSWER
    assert "3 values" in beectl(applied, "logs", ID).stdout
    assert deployment(applied).instances[0].engine_id == "wasm"
    failed = beectl(applied, "invoke", ID, "-d", "{}")
    assert failed.returncode == 1
    assert "KeyError: 'values'" in failed.stderr
    assert 'File "/app/main.py"' in failed.stderr


@pytest.mark.skipif(
    shutil.which("grpcurl", path=TOOLS) is None, reason="grpcurl is not installed; make setup brings it"
)
def test_the_seeds_example_answers_grpcurl(applied: LocalNode) -> None:
    """By reflection alone, with a plain JSON event; and a function that counts to event["n"] by an integer."""

    def grpcurl(data: object) -> Any:
        method = "beemesh.orchestrator.v1.OrchestratorService/InvokeDeployment"
        socket = str(applied.run_dir / "orchestrator.sock")
        done = subprocess.run(
            ["grpcurl", "-plaintext", "-d", json.dumps(data), f"unix://{socket}", method],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": TOOLS},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["invocation"]

    assert grpcurl({"name": ID, "event": {"values": [3, 4, 5]}})["result"] == ANSWER
    text = (
        "apiVersion: beemesh.io/v1\nkind: Function\nmetadata: {name: count}\nspec:\n  runtime: python\n"
        "  handler: main.process\n  code: {inline: 'def process(event): return list(range(event[\"n\"]))'}\n"
    )
    assert beectl(applied, "apply", "-f", "-", stdin=text).returncode == 0
    assert grpcurl({"name": "function-default-count", "event": {"n": 3}})["result"] == [0, 1, 2]


def test_who_runs_it_is_announced(applied: LocalNode) -> None:
    """As wasm, with what the node can do."""
    with Client(applied.public, token=applied.token) as client:
        until = time.monotonic() + 30
        found: list[Any] = []
        while not found and time.monotonic() < until:
            request = provider_pb.DiscoverProvidersRequest(manifest_id=ID)
            found = client.call(client.provider.DiscoverProviders, request).providers
        assert [item.metadata["runtime_engine"] for item in found] == ["wasm"]
        assert found[0].metadata["capabilities"] == "wasm"


def test_without_code_it_validates_and_is_refused_when_applied(node: LocalNode) -> None:
    """The refusal names the field and its line."""
    text = (REPOSITORY / "examples/function.yaml").read_text().partition("  code:")[0].replace("data-", "no-")
    checked = beectl(node, "apply", "--dry-run", "-f", "-", stdin=text)
    assert checked.returncode == 0, checked.stderr
    refused = beectl(node, "apply", "-f", "-", stdin=text)
    assert refused.returncode == 1
    assert "spec.code is required by engine wasm" in refused.stderr
    beectl(node, "delete", "function-default-no-processor", "--ignore-not-found")


def test_a_killed_engine_comes_back_with_its_functions(applied: LocalNode) -> None:
    """The supervisor starts it again; its workers went with it, its functions are there to the byte."""

    def kept() -> dict[Path, bytes]:
        files = (applied.data_dir / "engine-wasm/functions").rglob("*")
        return {path: path.read_bytes() for path in files if path.is_file() and path.name != "log"}

    content = kept()
    assert content
    before = deployment(applied).instances[0].workload.components[0].component_id
    old = applied.services()["services.engines.wasm"]
    send(old, signal.SIGKILL)
    until = time.monotonic() + 60
    while applied.services().get("services.engines.wasm", old) == old and time.monotonic() < until:
        time.sleep(0.1)
    while beectl(applied, "invoke", ID, "-d", '{"values":[3,4,5]}').returncode and time.monotonic() < until:
        time.sleep(0.1)
    assert by_http(applied) == ANSWER
    assert deployment(applied).instances[0].workload.components[0].component_id == before
    assert kept() == content


def test_the_demo_holds_without_a_container_engine(tmp_path: Path) -> None:
    """On a machine that has nothing but Python's packages it applies and calls a function, and leaves nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--engines", "wasm"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PATH": f"{tmp_path}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("ACTIVE on wasm", '{"count":3,"sum":12,"mean":4.0}', "200 application/json", "nothing is left"):
        assert part in done.stdout
