"""A watcher in Node.js, over restarts of the orchestrator: each change once, or it is told to begin anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1.types_pb2 import Manifest

from scripts.client import Client
from scripts.local_node import LocalNode, send

PROGRAM = Path(__file__).parent / "node/watch.mjs"
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, annotations: {beemesh.io/runtime-engine: mock}}
spec: {containers: [{name: main, image: "localhost/busybox:1"}]}
"""
ID = "pod-default-web"
ORCHESTRATOR = "services.orchestrator"
RESTARTS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
SECONDS = 30.0


class Watcher:
    """The program at work; what it prints is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes], printed: Path) -> None:
        self._process = process
        self._printed = printed

    @property
    def lines(self) -> Sequence[dict[str, Any]]:
        """All that it has said; fails when it has given up."""
        assert self._process.poll() is None, "the watcher has ended"
        return [json.loads(line) for line in self._printed.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    def of(self, kind: str) -> Sequence[dict[str, Any]]:
        return [line for line in self.lines if kind in line]


@contextmanager
def watching(node: LocalNode, *what: str) -> Iterator[Watcher]:
    """The watcher of a node's public port."""
    printed = node.home / f"watch-{what[0]}"
    with printed.open("wb") as out:
        process = subprocess.Popen(["node", PROGRAM, node.public, node.token_file, *what], stdout=out)
        try:
            yield Watcher(process, printed)
        finally:
            process.kill()
            process.wait(10)


@pytest.fixture(autouse=True)
def _set_up() -> None:
    """Where Node.js is and its packages are not, `scripts/setup.sh tools` was not run."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not here")
    if not (PROGRAM.parent / "node_modules/.package-lock.json").exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("run scripts/setup.sh tools: it installs the packages")


@pytest.fixture
def node() -> Iterator[LocalNode]:
    with LocalNode(engines="mock") as node:
        yield node


def until(holds: Callable[[], bool], node: LocalNode) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, node.log_tail()
        time.sleep(0.05)


def apply(client: Client, tag: int) -> None:
    """Have another content run; while the orchestrator is away, try again."""
    request = pb.ApplyManifestRequest(manifest=Manifest(content=POD.replace("busybox:1", f"busybox:{tag}")))
    end = time.monotonic() + SECONDS
    while True:
        try:
            client.call(client.orchestrator.ApplyManifest, request)
            return
        except grpc.RpcError:
            assert time.monotonic() < end
            time.sleep(0.1)


def restart(node: LocalNode, how: signal.Signals) -> None:
    """End the orchestrator; its supervisor starts it again."""
    before = node.services()[ORCHESTRATOR]
    send(before, how)
    until(lambda: node.services().get(ORCHESTRATOR, before) != before, node)


def kept(client: Client) -> Sequence[str]:
    """The truth: the numbers of all events, in order."""
    answer = client.call(client.orchestrator.ListDeploymentEvents, pb.ListDeploymentEventsRequest(name=ID))
    return [event.event_id for event in answer.events]


@pytest.mark.timeout(180)
def test_each_change_is_seen_once_over_restarts(node: LocalNode) -> None:
    """Events go on where they were; changes without a gap from each list on, and OUT_OF_RANGE after each restart."""
    with Client(node.socket) as client:
        apply(client, 1)
        with watching(node, "deployments") as changes, watching(node, "events", ID) as events:
            until(lambda: bool(changes.of("listed") and events.of("event")), node)
            for tag, how in enumerate(RESTARTS, 2):
                apply(client, tag)
                restart(node, how)
                apply(client, tag + 100)
                until(lambda seen=tag - 1: len(changes.of("listed")) > seen, node)  # type: ignore[misc]
            apply(client, 1)
            truth = kept(client)
            until(lambda: [line["event"] for line in events.of("event")][-1:] == list(truth[-1:]), node)
            assert [line["event"] for line in events.of("event")] == list(truth)
            assert not events.of("again")
            until(lambda: changes.of("change")[-1]["state"] == "DEPLOYMENT_STATE_ACTIVE", node)
            check_changes(changes.lines)


def check_changes(lines: Sequence[dict[str, Any]]) -> None:
    """From each list on, the numbers of changes have no gap and no repeat; a new list only after OUT_OF_RANGE."""
    runs: dict[str, list[int]] = {}
    """By the orchestrator's run: where the list stood, then the numbers of the changes."""
    for line in lines:
        if "token" in line:
            run, _, number = line["token"].partition(":")
            runs.setdefault(run, []).append(int(number))
    for numbers in runs.values():
        assert len(numbers) > 1
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len([line for line in lines if line.get("again") == "OUT_OF_RANGE"]) == len(RESTARTS)
    assert [line["listed"] for line in lines if "listed" in line] == [[ID]] * (1 + len(RESTARTS))
    assert len(runs) == 1 + len(RESTARTS)
